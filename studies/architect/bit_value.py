"""What one weight bit is worth in bandwidth, for every model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from hwsim import SHAPE_NAMES
from hwsim.trace import InputError, ModelShape
from studies.architect.settings import Finding, Settings
from studies.architect.traffic import with_room
from studies.bandwidth_budget.run import Settings as BudgetSettings
from studies.bandwidth_budget.run import bit_value_table, budget_table, make_cases
from studies.common.output import three_digits
from studies.common.subjects import plane_bytes

ASSUMED = (
    "More bandwidth means more channels of the NPU's speed grade (studies/bandwidth_budget), with room for every model."
)
NOT_SHOWN = "Quality: what the bit is worth to the text."
QUESTION = "How many GB/s is one weight bit worth, per model and decoding speed?"


def with_planes(values: pd.DataFrame, shapes: Mapping[str, ModelShape]) -> pd.DataFrame:
    """Add the bytes of one plane, and what a bit costs beyond reading it once a token."""
    planes = {model: plane_bytes(shapes[model]) for model in values["model"].unique()}
    table = values.assign(plane_bytes=values["model"].map(planes))
    table["over_plane"] = table["bytes_per_s_per_bit"] / (table["plane_bytes"] * table["target_tokens_per_s"]) - 1
    return table


def missing_text(budget: pd.DataFrame, left_out: Mapping[str, str], target: float, pair: tuple[int, int]) -> str:
    """Which models have no value at a target, and why; empty where all have one."""
    texts = []
    mine = budget[(budget["target_tokens_per_s"] == target) & budget["mean_decode_bits"].isin(pair)]
    for model, rows in mine[mine["limited_by"].notna()].groupby("model", sort=False):
        first = rows.iloc[0]
        texts.append(
            f"{model} (at {first['mean_decode_bits']:.0f} bits {first['limited_by']} end at "
            f"{three_digits(first['tokens_per_s'])} tokens/s)"
        )
    out = f" Out of reach, whatever the bandwidth: {', '.join(texts)}." if texts else ""
    return out + "".join(f" Left out: {model}, {reason}." for model, reason in left_out.items())


def compute(settings: Settings) -> Finding:
    """Search the least bandwidth of every width, model and target."""
    npu, _ = settings.load()
    models = dict.fromkeys([settings.model, *SHAPE_NAMES]) if settings.model in SHAPE_NAMES else [settings.model]
    asked = BudgetSettings(
        out=settings.out,
        models=tuple(models),
        npu=settings.npu,
        prompt_tokens=(settings.prompt_tokens,),
        decode_tokens=settings.decode_tokens,
        targets_tokens_per_s=settings.targets_tokens_per_s,
        weight_bits=settings.weight_bits,
        schedules=(),
        kv_bits=settings.kv_bits,
        lm_head_bits=settings.lm_head_bits,
        progress=settings.progress,
    )
    roomy, cases, left_out = with_room(npu), [], {}
    for model in models:
        try:
            cases += make_cases(replace(asked, models=(model,)), roomy)
        except InputError as error:
            if model == settings.model:
                raise
            left_out[model] = str(error)
    # The fast engine is equal to the cycle; the bandwidth budget confirms such searches by the event engine.
    checks = ["events_tokens_per_s", "events_tokens_per_s_1pct_below"]
    budget = budget_table(asked, roomy, cases, by_events=False).drop(columns=checks)
    values = bit_value_table(budget)
    low, high = settings.nested_bits[:2]
    target = settings.targets_tokens_per_s[0]
    missing = missing_text(budget, left_out, target, (low, high))
    if values.empty:
        answer = f"No two widths reach any of the speeds asked for on this NPU.{missing}"
        return Finding(answer, {"bit_value_budget": budget}, ASSUMED, NOT_SHOWN)
    table = with_planes(values, {case.model: case.workload.shape for case in cases})
    here = table[(table["target_tokens_per_s"] == target) & (table["from_bits"] == low) & (table["to_bits"] == high)]
    cells = [f"{row['model']} {row['bytes_per_s_per_bit'] / 1e9:.3g}" for row in here.to_dict("records")]
    said = ", ".join(cells) or "no model gets there"
    answer = f"GB/s that the bit from {low} to {high} costs at {target:g} tokens/s: {said}."
    if cells:
        over = " to ".join(dict.fromkeys(f"{end:.0%}" for end in (here["over_plane"].min(), here["over_plane"].max())))
        answer += (
            f" That is {over} more than its plane read once a token, for codebooks and the memory's own overheads. It "
            "is proportional to the speed while memory binds."
        )
    answer += missing
    return Finding(
        answer,
        {"bit_value": table, "bit_value_budget": budget},
        ASSUMED,
        NOT_SHOWN,
        {"left_out": left_out},
    )
