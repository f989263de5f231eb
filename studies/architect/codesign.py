"""NPU and schedule together, on the qualities that the paper prints."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

import pandas as pd

from dse import Design, NoDesignError, ask
from dse.simulator import Simulator
from hwsim import NpuConfig
from hwsim.trace import Schedule
from studies.architect.published import bandwidths_around, published_cases, run_study
from studies.architect.settings import Finding, Settings
from studies.pmpd_bandwidth.run import FAMILIES, Case

if TYPE_CHECKING:
    from dse import Exploration

QUESTION = "Which NPU and schedule are the smallest for a decoding speed, without loss of the published quality?"
MAX_TTFT_S = 2.0
LOSSES = (0.0, 0.02)
BANDWIDTHS = (4e9, 512e9, 122)  # 4% apart
CHANNELS, MACS, WEIGHT_KIB = (4, 16), (1024, 4096, 16384), (128.0, 1024.0)
COLUMNS = (
    *("model", "task", "target_tokens_per_s", "loss", "family", "area_mm2", "energy_j_per_token"),
    *("decode_tokens_per_s", "ttft_s", "relative_quality", "schedule", "memory.bandwidth_bytes_per_s"),
    *("memory.channels", "matrix.macs", "buffers.weight_kib", "events_tokens_per_s", "front_designs", "trial"),
    "reason",
)
SAVED = ("area_mm2", "energy_j_per_token", "memory.bandwidth_bytes_per_s")


def parameters(npu: NpuConfig) -> dict[str, dict[str, Any]]:
    """What is searched: the bandwidth, and a few sizes beside the NPU's own."""
    macs = npu.matrix.macs
    own = {macs} if macs & (macs - 1) == 0 else set()  # other sizes have no canonical array
    choices: dict[str, set[Any]] = {
        "memory.channels": {npu.memory.channels, *CHANNELS},
        "matrix.macs": own | set(MACS),
        "buffers.weight_kib": {npu.buffers.weight_kib, *WEIGHT_KIB},
    }
    return {"memory.bandwidth_bytes_per_s": bandwidths_around(npu, *BANDWIDTHS)} | {
        path: {"type": "categorical", "choices": sorted(values)} for path, values in choices.items()
    }


def search(settings: Settings, case: Case, family: str, target: float, loss: float) -> Exploration:
    """Least area and energy of one family of schedules within the limits, exactly.

    Raises:
        NoDesignError: If no design keeps the limits.
    """
    fields = {
        "schedules": list(case.schedules[family]),
        "parameters": parameters(settings.load()[0]),
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
    except NoDesignError as error:
        return row | {"reason": str(error)}
    best = least(found)
    design = Design(best["parameters"], Schedule.from_label(best["schedule"]))
    checked = Simulator(found.study.model_copy(update={"engine": "events"}))(design)
    columns = ("area_mm2", "energy_j_per_token", "decode_tokens_per_s", "ttft_s", "relative_quality", "schedule")
    return row | {
        **{name: best[name] for name in (*columns, *found.study.parameters)},
        "events_tokens_per_s": checked["decode_tokens_per_s"],
        "front_designs": len(found.pareto),
        "trial": int(best["number"]),
        "reason": None,
    }


def answer_table(settings: Settings) -> pd.DataFrame:
    """A row per target, task and family: without loss, and with a little where PMPD cannot."""
    rows: list[dict[str, Any]] = []
    for target, case in product(sorted(settings.targets_tokens_per_s), published_cases(settings)):
        for loss in LOSSES:
            mine = [answer_row(settings, case, family, target, loss) for family in FAMILIES]
            rows += mine
            if mine[-1]["reason"] is None:
                break
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(SAVED, float))


def saving_table(answers: pd.DataFrame) -> pd.DataFrame:
    """PMPD beside uniform widths, where both have an answer."""
    keys = ["model", "task", "target_tokens_per_s", "loss"]
    columns = [*SAVED, "schedule"]
    uniform, pmpd = (answers[answers["family"] == family][keys + columns] for family in FAMILIES)
    table = uniform.merge(pmpd, on=keys, suffixes=("_uniform", "_pmpd"))
    for name in SAVED:
        table[f"{name}_saving"] = 1 - table[f"{name}_pmpd"] / table[f"{name}_uniform"]
    return table


def design_text(row: Mapping[Hashable, Any], family: str) -> str:
    """A design of :func:`saving_table` in a few words."""
    return (
        f"{row[f'schedule_{family}']} ({row[f'area_mm2_{family}']:.2f} mm2, "
        f"{1e3 * row[f'energy_j_per_token_{family}']:.0f} mJ/token, "
        f"{row[f'memory.bandwidth_bytes_per_s_{family}'] / 1e9:.1f} GB/s)"
    )


def saving_text(row: Mapping[Hashable, Any]) -> str:
    """What PMPD saves on one task, or which family has no answer at all."""
    head = f"{row['task']} with {row['loss']:.0%} lost"
    has = {family: not pd.isna(row[f"area_mm2_{family}"]) for family in FAMILIES}
    if all(has.values()):
        return (
            f"{head} {design_text(row, 'pmpd')} saves {row['area_mm2_saving']:.0%} of the area and "
            f"{row['energy_j_per_token_saving']:.0%} of the energy per token of {design_text(row, 'uniform')}"
        )
    if has["pmpd"]:
        return f"{head} {design_text(row, 'pmpd')}, and no uniform width keeps the limits"
    if has["uniform"]:
        return f"{head} {design_text(row, 'uniform')}, and no PMPD schedule keeps the limits"
    return f"{head} no schedule keeps the limits"


def why_text(answers: pd.DataFrame) -> str:
    """Why families have no design, each reason once; empty where all have one.

    >>> rows = [{"task": "cnn-dm", "family": family, "reason": "a; relax it"} for family in ("uniform", "pmpd")]
    >>> why_text(pd.DataFrame([*rows, {"task": "iwslt", "family": "pmpd", "reason": None}]))
    ' Why none (cnn-dm, uniform; cnn-dm, PMPD): a.'
    """
    none = answers.dropna(subset=["reason"])
    texts = []
    for reason, mine in none.groupby(none["reason"].str.partition("; relax")[0], sort=False):
        places = dict.fromkeys(
            f"{task}, {'PMPD' if family == 'pmpd' else family}"
            for task, family in zip(mine["task"], mine["family"], strict=True)
        )
        texts.append(f" Why none ({'; '.join(places)}): {reason}.")
    return "".join(texts)


def compute(settings: Settings) -> Finding:
    """Search both families for every task, target and loss."""
    npu, shape = settings.load()
    answers = answer_table(settings)
    savings = saving_table(answers)
    targets = [
        f"At {target:g} tokens/s: {'; '.join(map(saving_text, mine.to_dict('records')))}"
        for target, mine in savings.groupby("target_tokens_per_s")
    ]
    answer = (
        f"Least area for {shape.name}, first token within {MAX_TTFT_S:g} s (exact fronts, published qualities). "
        f"{'. '.join(targets)}.{why_text(answers)}"
    )
    return Finding(
        answer,
        {"codesign": answers, "codesign_savings": savings},
        "Prompt lengths of the tasks are assumed, static schedules are derived from printed mean bits. Area rests on "
        "the assumed 0.05 mm2 of PHY per GB/s.",
        "Whether differences of 0.1 in the published scores are more than noise: the paper prints no interval.",
        {"searched": parameters(npu)},
    )
