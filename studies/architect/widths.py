"""Which weight widths are worth supporting in hardware."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import pandas as pd

from dse import NoDesignError, ask
from dse.quality_files import read_named_quality
from hwsim import NpuConfig, load_npu
from hwsim.cost import area_mm2
from hwsim.trace import Schedule
from studies.architect.published import bandwidths_around, published_cases, run_study
from studies.architect.settings import Finding, Settings
from studies.architect.width_units import energy_table, set_name, sets_of, unit_table, units_text
from studies.bandwidth_budget.search import Workload, least_bandwidth
from studies.pmpd_bandwidth.run import QUALITY, TASKS, Case

QUESTION = "Which weight widths are worth supporting in hardware?"
LOSSES = (0.0, 0.02)
LOW, HIGH, POINTS = 4e9, 512e9, 487
CHANNELS = (4, 16)
BANDWIDTH_STEP = (HIGH / LOW) ** (1 / (POINTS - 1)) - 1  # 1%
KEYS = ["target_tokens_per_s", "task", "loss"]
EXACT_COLUMNS = ("widths", "schedule", "area_mm2", "bandwidth_bytes_per_s", "designs")
COLUMNS = (
    *("model", "task", "target_tokens_per_s", "loss", "widths", "area_mm2", "lookup_mm2", "schedule"),
    "bandwidth_bytes_per_s",
)


def channels_of(npu: NpuConfig) -> list[int]:
    """Numbers of memory channels to choose from, the NPU's own among them."""
    return sorted({npu.memory.channels, *CHANNELS})


def least_bandwidths(settings: Settings, case: Case, target: float) -> dict[str, float | None]:
    """Least bandwidth of each published schedule that the NPU can be built for, with the better number of channels.

    None: out of reach.
    """
    npu, shape = settings.load()
    load = TASKS[case.task]
    found: dict[str, float | None] = {}
    buildable = {bits for widths in sets_of(npu) for bits in widths}
    for label in (*case.schedules["uniform"], *case.schedules["pmpd"]):
        schedule = Schedule.from_label(label)
        if not schedule.widths() <= buildable:
            continue
        workload = Workload(
            shape,
            schedule,
            load.prompt_tokens,
            load.decode_tokens,
            settings.kv_bits,
            settings.lm_head_bits,
        )
        values = [
            least_bandwidth(load_npu(settings.npu, {"memory.channels": channels}), workload, target, "rate")
            for channels in channels_of(npu)
        ]
        reached = [one.bandwidth_bytes_per_s for one in values if one.bandwidth_bytes_per_s is not None]
        found[label] = min(reached, default=None)
    return found


def set_rows(settings: Settings, case: Case, target: float) -> list[dict[str, Any]]:
    """The least area with each set of widths: over the schedules that it reads and that keep the quality."""
    qualities = relative_qualities(case)
    bandwidths = least_bandwidths(settings, case, target)
    rows: list[dict[str, Any]] = []
    for loss in LOSSES:
        for widths in sets_of(settings.load()[0]):
            row: dict[str, Any] = {
                "model": case.model,
                "task": case.task,
                "target_tokens_per_s": target,
                "loss": loss,
                "widths": set_name(widths),
            }
            choices = []
            for label, bandwidth in bandwidths.items():
                readable = Schedule.from_label(label).widths() <= set(widths)
                if bandwidth is not None and readable and qualities[label] >= 1 - loss:
                    changes = {"memory.bandwidth_bytes_per_s": bandwidth, "matrix.weight_widths": list(widths)}
                    area = area_mm2(load_npu(settings.npu, changes))
                    choices.append((sum(area.values()), label, bandwidth, area["codebook_lookup"]))
            if choices:
                best, label, bandwidth, lookup = min(choices)
                row |= {"area_mm2": best, "lookup_mm2": lookup, "schedule": label, "bandwidth_bytes_per_s": bandwidth}
            rows.append(row)
    return rows


def relative_qualities(case: Case) -> dict[str, float]:
    """Published score of each schedule over that of the high-precision baseline, which is uniform."""
    scores = {
        record.schedule.label(): record.value
        for record in read_named_quality(QUALITY)
        if (record.model_name, record.task, record.metric) == (case.model, case.task, TASKS[case.task].metric)
        and record.schedule is not None
    }
    baseline = scores[max(case.schedules["uniform"], key=lambda label: Schedule.from_label(label).prefill_weight_bits)]
    return {label: score / baseline for label, score in scores.items()}


def exact_row(settings: Settings, case: Case, target: float) -> dict[str, Any]:
    """The least area with all sets to choose from, without loss: exact, over bandwidth, channels and widths."""
    npu, _ = settings.load()
    sets = sets_of(npu)
    fields = {
        "schedules": [*case.schedules["uniform"], *case.schedules["pmpd"]],
        "parameters": {
            "memory.bandwidth_bytes_per_s": bandwidths_around(npu, LOW, HIGH, POINTS),
            "memory.channels": {"type": "categorical", "choices": channels_of(npu)},
            "matrix.weight_widths": {"type": "categorical", "choices": [list(one) for one in sets]},
        },
        "objectives": [{"name": "area_mm2", "direction": "minimize"}],
        "constraints": [
            {"name": "decode_tokens_per_s", "op": ">=", "bound": target},
            {"name": "relative_quality", "op": ">=", "bound": 1.0},
        ],
    }
    row: dict[str, Any] = {"task": case.task, "target_tokens_per_s": target}
    try:
        found = run_study(settings, case, f"widths-{case.model}-{case.task}-{target:g}", fields)
    except NoDesignError as error:
        return row | dict.fromkeys(EXACT_COLUMNS) | {"reason": str(error)}
    best = ask(found, minimise="area_mm2").design
    assert best is not None, "an exploration without a design that keeps its limits is refused"
    return row | {
        "widths": set_name(tuple(best["parameters"]["matrix.weight_widths"])),
        "schedule": best["schedule"],
        "area_mm2": best["area_mm2"],
        "bandwidth_bytes_per_s": best["bandwidth_bytes_per_s"],
        "designs": found.certificate["designs"] if found.certificate else None,
        "reason": None,
    }


def best_sets(sets: pd.DataFrame) -> pd.DataFrame:
    """The least NPU of every target, task and loss that has one, and what it saves over the best single width."""
    rows = []
    for _, mine in sets.dropna(subset=["area_mm2"]).groupby(KEYS, sort=False):
        best = mine.sort_values("area_mm2", kind="stable").iloc[0]
        single = mine[~mine["widths"].str.contains("+", regex=False)]["area_mm2"].min()
        rows.append({**best[[*KEYS, "widths", "schedule", "area_mm2"]], "saved_mm2": single - best["area_mm2"]})
    numbers = ("target_tokens_per_s", "loss", "area_mm2", "saved_mm2")
    table = pd.DataFrame(rows, columns=[*KEYS, "widths", "schedule", "area_mm2", "saved_mm2"])
    return table.astype(dict.fromkeys(numbers, float))  # without a row they would have no kind at all


def agreeing(best: pd.DataFrame, exact: pd.DataFrame) -> int:
    """How many exact explorations end at the set and the schedule of the search, within their steps of bandwidth."""
    both = best[best["loss"] == 0].merge(exact, on=["task", "target_tokens_per_s", "widths", "schedule"])
    return int(((both["area_mm2_y"] / both["area_mm2_x"] - 1).abs() < BANDWIDTH_STEP).sum())


def answer_of(best: pd.DataFrame, exact: pd.DataFrame, units: pd.DataFrame, targets: Iterable[float]) -> str:
    """The sentence: what tables cost, and which set the least NPU of each target and task supports."""
    sentences = [units_text(units)]
    for target in targets:
        cells = []
        for task, mine in best[best["target_tokens_per_s"] == target].groupby("task", sort=False):
            for (widths, schedule), equal in mine.groupby(["widths", "schedule"], sort=False):
                one = equal.iloc[0]
                losses = " and ".join(f"{100 * loss:g}%" for loss in equal["loss"])
                saved = f", {one['saved_mm2']:.2f} less than one width alone" if one["saved_mm2"] > 0 else ""
                cells.append(f"{widths} for {task} at {losses} loss ({schedule}, {one['area_mm2']:.2f} mm2{saved})")
        if cells:
            sentences.append(f"at {target:g} tokens/s the least NPU supports {'; '.join(cells)}")
        else:
            none = exact[exact["target_tokens_per_s"] == target].dropna(subset=["reason"])
            reasons = [f"{one} ({', '.join(mine['task'])})" for one, mine in none.groupby("reason", sort=False)]
            why = f": {'; '.join(reasons)}" if reasons else ""
            sentences.append(f"at {target:g} tokens/s no schedule gets there at any bandwidth{why}")
    ran = exact.dropna(subset=["area_mm2"])
    if len(ran):
        sentences.append(
            f"published qualities; {agreeing(best, ran)} of {len(ran)} exact searches over bandwidth, channels and "
            "widths end at the same set and schedule"
        )
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)


def compute(settings: Settings) -> Finding:
    """Price the units, then search the least NPU for every set, target, task and loss."""
    units, energy = unit_table(settings), energy_table(settings)
    targets = sorted(settings.targets_tokens_per_s)
    asked = list(product(targets, published_cases(settings)))
    rows = [row for target, case in asked for row in set_rows(settings, case, target)]
    sets = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"area_mm2": float})
    sets["over_best_mm2"] = sets["area_mm2"] - sets.groupby(KEYS)["area_mm2"].transform("min")
    exact = pd.DataFrame([exact_row(settings, case, target) for target, case in asked])
    exact = exact.astype({"area_mm2": float, "bandwidth_bytes_per_s": float, "designs": "Int64"})
    return Finding(
        answer_of(best_sets(sets), exact, units, targets),
        {"widths": sets, "widths_exact": exact, "widths_units": units, "widths_energy": energy},
        "A look-up table is a tree of multiplexers shared by all widths; multiplexer area and the PHY's 0.05 mm2 per "
        "GB/s are assumed (hwsim.cost), and they decide the trade. Prompt lengths of the tasks are assumed.",
        "Quality of a bit-serial array, whose weights are binary-coded: the published numbers are of codebooks. "
        "Differences of 0.1 in quality count, since the paper prints no interval.",
    )
