"""What it costs to switch the weight width often."""

from __future__ import annotations

from typing import Any

import pandas as pd

from hwsim import NpuConfig, SimulationOptions, simulate
from hwsim.trace import InputError, ModelShape, Trace, synthetic_trace
from hwsim.trace import Schedule as Widths
from studies.architect.settings import Finding, Settings

QUESTION = "What does a switch of the weight width cost on the NPU, and how often may one switch before it costs 1%?"
PERIODS = (1, 2, 4, 8, 16, 32, 64, 128)
ONE_PERCENT = 0.01
RESIDENT_KIB = (1024.0, 16384.0)
VARIANTS: dict[str, tuple[str, float]] = {
    "no prefetch": ("none", 0.0),
    "prefetch, width planned": ("planned", 0.0),
    "prefetch, width assumed unchanged": ("assume-unchanged", 0.0),
    **{f"{kib / 1024:g} MiB of codebooks kept": ("none", kib) for kib in RESIDENT_KIB},
    f"both, {RESIDENT_KIB[-1] / 1024:g} MiB": ("assume-unchanged", RESIDENT_KIB[-1]),
}


def variant(npu: NpuConfig, name: str) -> NpuConfig:
    """The NPU with another way to go from step to step."""
    prefetch, resident = VARIANTS[name]
    control = npu.control.model_copy(update={"prefetch": prefetch})
    buffers = npu.buffers.model_copy(update={"resident_codebook_kib": resident})
    return npu.model_copy(update={"control": control, "buffers": buffers})


def alternating_trace(settings: Settings, shape: ModelShape, period: int) -> Trace:
    """The two narrowest widths in turns of ``period`` decode steps, the wider one first.

    Raises:
        InputError: If the response is too short for one switch.
    """
    if period >= settings.decode_tokens:
        raise InputError(f"decode_tokens = {settings.decode_tokens}: must be above {period} for a switch to happen")
    low, high = settings.nested_bits[:2]
    turns = range(0, settings.decode_tokens, period)
    pairs = [(start, (high, low)[number % 2]) for number, start in enumerate(turns)]
    return synthetic_trace(
        shape,
        Widths.from_pairs(high, pairs),
        prompt_tokens=settings.prompt_tokens,
        decode_tokens=settings.decode_tokens,
        kv_bits=settings.kv_bits,
        lm_head_bits=settings.lm_head_bits,
    )


def switch_table(settings: Settings, npu: NpuConfig, shape: ModelShape) -> pd.DataFrame:
    """Every variant under every period: what its switches cost, in cycles and as a share of the other decoding time."""
    rows: list[dict[str, Any]] = []
    for name in VARIANTS:
        changed = variant(npu, name)
        for period in PERIODS:
            if period >= settings.decode_tokens:
                continue
            trace = alternating_trace(settings, shape, period)
            result = simulate(changed, shape, trace, SimulationOptions(engine="fast"))
            columns, switches = result.columns, result.switch_columns
            decode = int(columns.cycles[columns.step >= 0].sum())
            count = len(switches.cycles)
            rows.append(
                {
                    "variant": name,
                    "period_tokens": period,
                    "switches": count,
                    "cycles_per_switch": result.switch_cycles / count,
                    "seconds_per_switch": result.switch_cycles / count / changed.clock_hz,
                    "thrown_away_bytes_per_switch": int(switches.thrown_away_bytes.sum()) / count,
                    "codebook_bytes_per_switch": int(switches.codebook_bytes.sum()) / count,
                    "share_of_decoding": result.switch_cycles / (decode - result.switch_cycles),
                    "decode_tokens_per_s": result.decode_tokens_per_s,
                }
            )
    return pd.DataFrame(rows)


def limit_table(table: pd.DataFrame) -> pd.DataFrame:
    """Tokens between switches at which they cost 1% of decoding: cost of one over 1% of a step without it."""
    rows = []
    for name, mine in table.groupby("variant", sort=False):
        every = mine[mine["period_tokens"] == mine["period_tokens"].min()].iloc[0]
        # At a period of p a switch is paid once in p steps, so its share falls as 1 / p.
        share = float(every["share_of_decoding"]) * int(every["period_tokens"])
        rows.append(
            {
                "variant": name,
                "step_share_per_switch": share,
                "tokens_between_switches_for_1_percent": max(0.0, share / ONE_PERCENT),
                "seconds_per_switch": float(every["seconds_per_switch"]),
                "decode_tokens_per_s": float(every["decode_tokens_per_s"]),
            }
        )
    return pd.DataFrame(rows)


def compute(settings: Settings) -> Finding:
    """Alternate the two narrowest widths on every variant of the NPU."""
    npu, shape = settings.load()
    low, high = settings.nested_bits[:2]
    if settings.decode_tokens <= PERIODS[0]:
        raise InputError(f"decode_tokens = {settings.decode_tokens}: must be >= 2 for a switch; raise --decode-tokens")
    table = switch_table(settings, npu, shape)
    limits = limit_table(table)
    cells = []
    for row in limits.to_dict("records"):
        if row["step_share_per_switch"] <= 0:
            cells.append(f"{row['variant']}: nothing")
            continue
        every = row["tokens_between_switches_for_1_percent"]
        often = "less than 1% even at every token" if every <= 1 else f"1% at a switch every {every:.1f} tokens"
        cost = f"{1e6 * row['seconds_per_switch']:.3g} us, {row['step_share_per_switch']:.2%} of a step"
        cells.append(f"{row['variant']}: {cost}, {often}")
    answer = (
        f"A switch between {high} and {low} bits costs, with {'; '.join(cells)}. Nested weights make it cheap: there "
        "is nothing to reload but what was prefetched or kept for the other width."
    )
    return Finding(
        answer,
        {"switching": table, "switching_limits": limits},
        "The first step of a new width pays; its prompt was prefilled at the wider one.",
        "What a switch does to the text, and on a GPU the launch of another kernel.",
    )
