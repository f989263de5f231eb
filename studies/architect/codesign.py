"""NPU and schedule together, on the qualities that the paper prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from dse import Design, ask, measure_sensitivity
from dse.simulator import Simulator
from hwsim.trace import InputError, Schedule
from studies.architect.published import published_cases, run_study
from studies.architect.settings import Finding, Settings
from studies.pmpd_bandwidth.run import FAMILIES, Case

if TYPE_CHECKING:
    from dse import Exploration

QUESTION = "Which NPU and schedule are the smallest for a decoding speed, without loss of the published quality?"
SENSITIVITY_QUESTION = "How much do the answers of one chosen design rest on each number, the assumed ones included?"
MAX_TTFT_S = 2.0
LOSSES = (0.0, 0.02)
PARAMETERS = {
    "memory.bandwidth_bytes_per_s": {"type": "log", "low": 4e9, "high": 512e9, "points": 122},  # 4% apart
    "memory.channels": {"type": "categorical", "choices": [4, 16]},
    "matrix.macs": {"type": "categorical", "choices": [1024, 4096, 16384]},
    "buffers.weight_kib": {"type": "categorical", "choices": [128, 1024]},
}
AROUND = 0.10
POINTS = 64


def search(settings: Settings, case: Case, family: str, target: float, loss: float) -> Exploration:
    """Least area and energy of one family of schedules within the limits, exactly.

    Raises:
        InputError: If no design keeps the limits.
    """
    fields = {
        "schedules": list(case.schedules[family]),
        "parameters": PARAMETERS,
        "objectives": [
            {"name": "area_mm2", "direction": "minimize"},
            {"name": "energy_j_per_token", "direction": "minimize"},
        ],
        "constraints": [
            {"name": "decode_tokens_per_s", "op": ">=", "bound": target},
            {"name": "ttft_s", "op": "<=", "bound": MAX_TTFT_S},
            {"name": "relative_quality", "op": ">=", "bound": 1 - loss},
        ],
    }
    name = f"codesign-{case.model}-{case.task}-{family}-{target:g}-{100 * loss:g}"
    return run_study(settings, case, name, fields)


def least(found: Exploration) -> dict[str, Any]:
    """The design of least area."""
    design = ask(found, minimise="area_mm2").design
    assert design is not None, "an exploration without a design that keeps its limits is refused"
    return design


def answer_row(settings: Settings, case: Case, family: str, target: float, loss: float) -> dict[str, Any]:
    """The least NPU of a family; the event engine runs it."""
    row: dict[str, Any] = {
        "model": case.model,
        "task": case.task,
        "target_tokens_per_s": target,
        "loss": loss,
        "family": family,
    }
    try:
        found = search(settings, case, family, target, loss)
    except InputError as error:
        return row | {"reason": str(error)}
    best = least(found)
    design = Design(best["parameters"], Schedule.from_label(best["schedule"]))
    checked = Simulator(found.study.model_copy(update={"engine": "events"}))(design)
    columns = ("area_mm2", "energy_j_per_token", "decode_tokens_per_s", "ttft_s", "relative_quality", "schedule")
    return row | {
        **{name: best[name] for name in (*columns, *PARAMETERS)},
        "events_tokens_per_s": checked["decode_tokens_per_s"],
        "front_designs": len(found.pareto),
        "trial": int(best["number"]),
        "reason": None,
    }


def answer_table(settings: Settings) -> pd.DataFrame:
    """A row per task and family for the first target: without loss, and with a little where PMPD cannot."""
    target = settings.targets_tokens_per_s[0]
    rows: list[dict[str, Any]] = []
    for case in published_cases(settings):
        for loss in LOSSES:
            mine = [answer_row(settings, case, family, target, loss) for family in FAMILIES]
            rows += mine
            if mine[-1]["reason"] is None:
                break
    return pd.DataFrame(rows)


def saving_table(answers: pd.DataFrame) -> pd.DataFrame:
    """PMPD beside uniform widths, where both have an answer."""
    keys = ["model", "task", "target_tokens_per_s", "loss"]
    columns = ["area_mm2", "energy_j_per_token", "memory.bandwidth_bytes_per_s", "schedule"]
    uniform, pmpd = (answers[answers["family"] == family][keys + columns] for family in FAMILIES)
    table = uniform.merge(pmpd, on=keys, suffixes=("_uniform", "_pmpd"))
    for name in columns[:-1]:
        table[f"{name}_saving"] = 1 - table[f"{name}_pmpd"].astype(float) / table[f"{name}_uniform"].astype(float)
    return table


def compute(settings: Settings) -> Finding:
    """Search both families for every task, target and loss."""
    answers = answer_table(settings)
    savings = saving_table(answers)
    cells = []
    for row in savings.to_dict("records"):
        head = f"{row['task']} with {row['loss']:.0%} lost"
        if pd.isna(row["area_mm2_saving"]):
            cells.append(f"{head}: no PMPD schedule keeps the limits")
            continue
        cells.append(
            f"{head}: {row['schedule_pmpd']} saves {row['area_mm2_saving']:.0%} of area and "
            f"{row['energy_j_per_token_saving']:.0%} of energy per token against {row['schedule_uniform']}"
        )
    answer = (
        f"{settings.model} at {settings.targets_tokens_per_s[0]:g} tokens/s, first token within {MAX_TTFT_S:g} s: "
        f"{'; '.join(cells)} (exact fronts; the least area of each family, published qualities)."
    )
    return Finding(
        answer,
        {"codesign": answers, "codesign_savings": savings},
        "Prompt lengths of the tasks are assumed, static schedules are derived from printed mean bits. Area rests on "
        "the assumed 0.05 mm2 of PHY per GB/s.",
        "Whether differences of 0.1 in the published scores are more than noise: the paper prints no interval.",
        {"searched": PARAMETERS},
    )


def reaches(sensitivity: pd.DataFrame) -> str:
    """How far each searched parameter was varied around the design.

    >>> rows = [{"parameter": "matrix.macs", "low": 1024, "high": 16384}]
    >>> reaches(pd.DataFrame([*rows, {"parameter": "memory.bandwidth_bytes_per_s", "low": 29.7e9, "high": 32.2e9}]))
    'matrix.macs 1,024 to 16,384, memory.bandwidth_bytes_per_s 2.97e+10 to 3.22e+10'
    """
    rows = sensitivity.drop_duplicates("parameter").to_dict("records")
    ends = {row["parameter"]: [float(row[end]) for end in ("low", "high")] for row in rows}
    texts = {
        name: " to ".join(f"{value:,.0f}" if value < 1e6 else f"{value:.3g}" for value in values)
        for name, values in ends.items()
        if name in PARAMETERS
    }
    return ", ".join(f"{name} {text}" for name, text in texts.items())


def compute_sensitivity(settings: Settings) -> Finding:
    """Sobol's indices around the least PMPD design of the first task, as ``bittaper explore sensitivity`` has them."""
    case = published_cases(settings)[0]
    target = settings.targets_tokens_per_s[0]
    found = search(settings, case, "pmpd", target, LOSSES[-1])
    best = least(found)
    number = int(best["number"])
    measured = measure_sensitivity(found, design=number, around=AROUND, points=POINTS, progress=settings.progress)
    table = measured.table
    assumed = table[table["assumed"]].groupby("metric")["total_order"].max()
    cells = []
    for metric, mine in table.groupby("metric", sort=False):
        top = mine.iloc[0]
        cells.append(
            f"{metric} {top['metric_low']:.3g} to {top['metric_high']:.3g} (first {top['parameter']}, "
            f"{top['total_order']:.0%} of the variance; the first assumed number {assumed.get(metric, 0.0):.0%})"
        )
    answer = (
        f"{best['schedule']} on {best['matrix.macs']:,.0f} MACs and {best['bandwidth_bytes_per_s'] / 1e9:.3g} GB/s, "
        f"every number within {AROUND:.0%} or its neighbouring choice: {'; '.join(cells)}."
    )
    return Finding(
        answer,
        {"sensitivity": table},
        f"Numbers vary independently and evenly; {POINTS} points a sample, {measured.simulated:,} designs simulated; "
        f"intervals are bootstrapped. What was searched goes to its neighbours in the search, {reaches(table)}, which "
        "decides the shares as much as the NPU does.",
        "Constants of area and energy in hwsim.cost, which are not part of an NPU file. Held fixed: "
        + "; ".join(f"{name} ({reason})" for name, reason in measured.held.items())
        + ".",
        {"design": case.task, "trial": number, "target_tokens_per_s": target, "loss": LOSSES[-1]},
    )
