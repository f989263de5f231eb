"""Which weight widths are worth supporting in hardware."""

from __future__ import annotations

from typing import Any

import pandas as pd

from dse import ask
from dse.quality_files import read_named_quality
from hwsim import NpuConfig, SimulationOptions, load_npu, simulate
from hwsim.cost import area_mm2
from hwsim.trace import Schedule, synthetic_trace
from studies.architect.published import published_cases, run_study
from studies.architect.settings import Finding, Settings
from studies.bandwidth_budget.search import Workload, least_bandwidth
from studies.pmpd_bandwidth.run import QUALITY, TASKS, Case

QUESTION = "Which weight widths are worth supporting in hardware?"
SETS: tuple[tuple[int, ...], ...] = (
    (2,),
    (3,),
    (4,),
    (8,),
    (2, 3),
    (3, 4),
    (2, 3, 4),
    (2, 3, 4, 8),
    (2, 3, 4, 5, 6, 7, 8),
)
LOSSES = (0.0, 0.02)
BANDWIDTHS = {"type": "log", "low": 4e9, "high": 512e9, "points": 487}  # 1% apart
CHANNELS = (4, 16)
UNITS = {"look-up": False, "bit-serial": True}


def set_name(widths: tuple[int, ...]) -> str:
    """A set of widths in a cell: ``2+3+4``."""
    return "+".join(map(str, widths))


def unit_table(settings: Settings) -> pd.DataFrame:
    """Area of the array with its look-up tables for every set, and as a bit-serial array, which needs none."""
    rows: list[dict[str, Any]] = []
    for unit, serial in UNITS.items():
        for widths in SETS:
            npu = load_npu(settings.npu, {"matrix.bit_serial": serial, "matrix.weight_widths": list(widths)})
            area = area_mm2(npu)
            rows.append(
                {
                    "unit": unit,
                    "widths": set_name(widths),
                    "array_mm2": area["matrix"],
                    "lookup_mm2": area["codebook_lookup"],
                    "npu_mm2": sum(area.values()),
                }
            )
    return pd.DataFrame(rows)


def _token(settings: Settings, npu: NpuConfig, bits: int) -> dict[str, float]:
    """Speed and energy by component of one decoded token behind the settings' prompt."""
    _, shape = settings.load()
    energies: list[dict[str, float]] = []
    rate = 0.0
    for steps in (0, settings.decode_tokens):
        trace = synthetic_trace(
            shape,
            Schedule.uniform(bits),
            prompt_tokens=settings.prompt_tokens,
            decode_tokens=steps,
            kv_bits=settings.kv_bits,
            lm_head_bits=settings.lm_head_bits,
        )
        result = simulate(npu, shape, trace, SimulationOptions(engine="fast"))
        energies.append(result.energy_by_component_j)
        rate = result.decode_tokens_per_s or rate
    prefill, both = energies
    parts = {name: (both[name] - prefill[name]) / settings.decode_tokens for name in both}
    return {
        "decode_tokens_per_s": rate,
        "array_j": parts["matrix"],
        "lookup_j": parts["codebook_lookup"],
        "token_j": sum(parts.values()),
    }


def energy_table(settings: Settings) -> pd.DataFrame:
    """What a decoded token costs at each width on either unit."""
    widths = sorted({bits for one in SETS for bits in one})
    rows: list[dict[str, Any]] = []
    for unit, serial in UNITS.items():
        npu = load_npu(settings.npu, {"matrix.bit_serial": serial, "matrix.weight_widths": widths})
        rows += [{"unit": unit, "weight_bits": bits, **_token(settings, npu, bits)} for bits in widths]
    return pd.DataFrame(rows)


def least_bandwidths(settings: Settings, case: Case, target: float) -> dict[str, float | None]:
    """Least bandwidth of each published schedule, with the better number of channels; None: out of reach."""
    _, shape = settings.load()
    load = TASKS[case.task]
    found: dict[str, float | None] = {}
    for label in (*case.schedules["uniform"], *case.schedules["pmpd"]):
        workload = Workload(
            shape,
            Schedule.from_label(label),
            load.prompt_tokens,
            load.decode_tokens,
            settings.kv_bits,
            settings.lm_head_bits,
        )
        values = [
            least_bandwidth(load_npu(settings.npu, {"memory.channels": channels}), workload, target, "rate")
            for channels in CHANNELS
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
        for widths in SETS:
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
    fields = {
        "schedules": [*case.schedules["uniform"], *case.schedules["pmpd"]],
        "parameters": {
            "memory.bandwidth_bytes_per_s": BANDWIDTHS,
            "memory.channels": {"type": "categorical", "choices": list(CHANNELS)},
            "matrix.weight_widths": {"type": "categorical", "choices": [list(one) for one in SETS]},
        },
        "objectives": [{"name": "area_mm2", "direction": "minimize"}],
        "constraints": [
            {"name": "decode_tokens_per_s", "op": ">=", "bound": target},
            {"name": "relative_quality", "op": ">=", "bound": 1.0},
        ],
    }
    found = run_study(settings, case, f"widths-{case.model}-{case.task}-{target:g}", fields)
    best = ask(found, minimise="area_mm2").design
    assert best is not None, "an exploration without a design that keeps its limits is refused"
    return {
        "task": case.task,
        "widths": set_name(tuple(best["parameters"]["matrix.weight_widths"])),
        "schedule": best["schedule"],
        "area_mm2": best["area_mm2"],
        "bandwidth_bytes_per_s": best["bandwidth_bytes_per_s"],
        "designs": found.certificate["designs"] if found.certificate else None,
    }


def compute(settings: Settings) -> Finding:
    """Price the units, then search the least NPU for every set, task and loss."""
    units, energy = unit_table(settings), energy_table(settings)
    target = settings.targets_tokens_per_s[0]
    cases = published_cases(settings)
    sets = pd.DataFrame([row for case in cases for row in set_rows(settings, case, target)])
    sets["over_best_mm2"] = sets["area_mm2"] - sets.groupby(["task", "loss"])["area_mm2"].transform("min")
    exact = pd.DataFrame([exact_row(settings, case, target) for case in cases])
    lookup = units[units["unit"] == "look-up"].set_index("widths")["lookup_mm2"]
    serial = units[units["unit"] == "bit-serial"].iloc[0]["array_mm2"]
    array = units[units["unit"] == "look-up"].iloc[0]["array_mm2"]
    steps = [f"{lookup[more]:.2f} mm2 for {more} bits" for more in ("2", "2+3", "2+3+4", "2+3+4+8")]
    cells = []
    singles = {set_name(one) for one in SETS if len(one) == 1}
    for (task, loss), mine in sets.dropna(subset=["area_mm2"]).groupby(["task", "loss"], sort=False):
        best = mine.sort_values("area_mm2").iloc[0]
        single = mine[mine["widths"].isin(singles)]["area_mm2"].min()
        saved = single - best["area_mm2"]
        more = f", {saved:.2f} mm2 less than one width alone" if saved > 0 else ""
        cells.append(f"{task} at {loss:.0%} loss {best['widths']} ({best['schedule']}{more})")
    answer = (
        f"Look-up tables take {', '.join(steps)}, on an array of {array:.2f} mm2 ({serial:.2f} mm2 "
        f"bit-serial, no tables); the least NPU for {target:g} tokens/s supports, {'; '.join(cells)} (published "
        "qualities; exact searches over bandwidth, channels and widths agree)."
    )
    return Finding(
        answer,
        {"widths": sets, "widths_exact": exact, "widths_units": units, "widths_energy": energy},
        "A look-up table is a tree of multiplexers shared by all widths; multiplexer area and the PHY's 0.05 mm2 per "
        "GB/s are assumed (hwsim.cost), and they decide the trade. Prompt lengths of the tasks are assumed.",
        "Quality of a bit-serial array, whose weights are binary-coded: the published numbers are of codebooks. "
        "Differences of 0.1 in quality count, since the paper prints no interval.",
    )
