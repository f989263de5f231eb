"""Explore each model and task with uniform schedules and with PMPD's, and ask both for the least bandwidth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim.tables import check_destination
from hwsim.trace import (
    InputError,
    Quality,
    Schedule,
    atomic_writer,
    collect_provenance,
    unknown_name,
    write_json,
)

if TYPE_CHECKING:
    import pandas as pd

    from dse import Exploration

QUALITY = "published:pmpd-table1"
FAMILIES = ("uniform", "pmpd")
DIGITS = "%.7g"  # of the tables: enough to reproduce them, and equal on every machine


@dataclass(frozen=True)
class TaskLoad:
    """What a task makes the NPU do for one prompt.

    Attributes:
        prompt_tokens: Prompt length; assumed, the paper prints none.
        new_tokens: Tokens M of a response, the paper's bound for the task.
        metric: What its quality is measured by.
    """

    prompt_tokens: int
    new_tokens: int
    metric: str

    @property
    def decode_tokens(self) -> int:
        """Decode steps: the prefill gives the first token."""
        return self.new_tokens - 1


# M: the reference code's bounds. Prompts: the round number next to the contexts at which a roofline meets Fig. 5.
TASKS = {
    "cnn-dm": TaskLoad(1024, 256, "rouge_l"),
    "dialogsum": TaskLoad(256, 33, "rouge_l"),
    "iwslt-fr-en": TaskLoad(64, 60, "bleu"),
}


@dataclass(frozen=True)
class Settings:
    """What a run is asked to do.

    Attributes:
        out: Folder of the results; the records of its explorations are below it, so that a stopped run goes on.
        models: Shapes of the published table.
        targets_tokens_per_s: Mean decoding speeds asked for.
        losses: Shares of the high-precision baseline's quality that may be lost.
        npu: NPU that is changed.
        bandwidths: Least and largest peak bandwidth, and how many values between, spread evenly on a log scale.
        channels: Numbers of memory channels.
        macs: Sizes of the array.
        workers: Processes that simulate.
        progress: Show progress bars.
    """

    out: Path
    models: tuple[str, ...] = ("vicuna-7b", "mobilellama-1.4b", "phi-1.5")
    targets_tokens_per_s: tuple[float, ...] = (15, 50)
    losses: tuple[float, ...] = (0.0, 0.02)
    npu: str = "pmpd-16k"
    bandwidths: tuple[float, float, int] = (1e9, 512e9, 626)
    channels: tuple[int, ...] = (4, 16)
    macs: tuple[int, ...] = (4096, 16384)
    workers: int = 1
    progress: bool = True


@dataclass(frozen=True)
class Case:
    """One model at one task.

    Attributes:
        model: Its shape's name.
        task: Of the published table.
        schedules: Labels by family.
    """

    model: str
    task: str
    schedules: dict[str, tuple[str, ...]]


def family_of(schedule: Schedule) -> str:
    """``uniform``: one width throughout; ``pmpd``: a prefill at another width than decoding, or a switch."""
    return "uniform" if len(schedule.widths()) == 1 else "pmpd"


def make_cases(settings: Settings, records: Sequence[Quality]) -> list[Case]:
    """Every task that the table holds for the models asked for.

    Raises:
        InputError: If the table does not hold a model.
    """
    known = sorted({record.model_name for record in records})
    cases = []
    for model in settings.models:
        if model not in known:
            raise unknown_name("model of the published table", model, known)
        for task, load in TASKS.items():
            found = [
                record.schedule
                for record in records
                if (record.model_name, record.task, record.metric) == (model, task, load.metric)
                and record.schedule is not None
            ]
            by_family = {
                family: tuple(dict.fromkeys(one.label() for one in found if family_of(one) == family))
                for family in FAMILIES
            }
            if all(by_family.values()):
                cases.append(Case(model, task, by_family))
    return cases


def study_of(settings: Settings, case: Case, family: str) -> dict[str, Any]:
    """The study file of one case and family."""
    load = TASKS[case.task]
    low, high, points = settings.bandwidths
    return {
        "name": f"{case.model}-{case.task}-{family}",
        "npu": settings.npu,
        "workloads": [
            {
                "model": case.model,
                "prompt_tokens": load.prompt_tokens,
                "decode_tokens": load.decode_tokens,
                "task": case.task,
            }
        ],
        "quality": [QUALITY],
        "quality_metric": load.metric,
        "quality_reference": "high-precision",
        "schedules": list(case.schedules[family]),
        "parameters": {
            "memory.bandwidth_bytes_per_s": {"type": "log", "low": low, "high": high, "points": points},
            "memory.channels": {"type": "categorical", "choices": list(settings.channels)},
            "matrix.macs": {"type": "categorical", "choices": list(settings.macs)},
        },
        "objectives": [
            {"name": "decode_tokens_per_s", "direction": "maximize"},
            {"name": "relative_quality", "direction": "maximize"},
            {"name": "bandwidth_bytes_per_s", "direction": "minimize"},
        ],
        "sampler": "exact",
    }


def answer_rows(settings: Settings, case: Case, family: str, found: Exploration) -> list[dict[str, Any]]:
    """Ask one exploration for every target and loss; the event engine runs what it answers."""
    from dse import Design, ask
    from dse.simulator import Simulator

    by_events = Simulator(found.study.model_copy(update={"engine": "events"}))
    checked: dict[int, float] = {}  # by trial: several questions may have one answer
    rows = []
    for target in settings.targets_tokens_per_s:
        for loss in settings.losses:
            limits = {"min_decode_tokens_per_s": target, "min_relative_quality": 1 - loss}
            answer = ask(found, limits, minimise="bandwidth_bytes_per_s")
            row: dict[str, Any] = {
                "model": case.model,
                "task": case.task,
                "target_tokens_per_s": target,
                "loss": loss,
                "family": family,
                "bandwidth_bytes_per_s": None,
            }
            if answer.design is None:
                rows.append(row | {"binding": str(answer.binding)})
                continue
            design = answer.design
            columns = ("bandwidth_bytes_per_s", "schedule", "mean_decode_bits", "decode_tokens_per_s")
            more = ("relative_quality", "quality", "memory.channels", "matrix.macs")
            if design["number"] not in checked:
                metrics = by_events(Design(design["parameters"], Schedule.from_label(design["schedule"])))
                checked[design["number"]] = metrics["decode_tokens_per_s"]
            row |= {name: design[name] for name in (*columns, *more)}
            rows.append(row | {"events_tokens_per_s": checked[design["number"]], "binding": None})
    return rows


def saving_table(answers: pd.DataFrame) -> pd.DataFrame:
    """PMPD's least bandwidth beside uniform widths', a row per model, task, target and loss."""
    keys = ["model", "task", "target_tokens_per_s", "loss"]
    columns = ["bandwidth_bytes_per_s", "schedule"]
    uniform, pmpd = (answers[answers["family"] == family][keys + columns] for family in FAMILIES)
    table = uniform.merge(pmpd, on=keys, suffixes=("_uniform", "_pmpd"))
    best = table[["bandwidth_bytes_per_s_uniform", "bandwidth_bytes_per_s_pmpd"]].astype(float)
    table["saving"] = 1 - best["bandwidth_bytes_per_s_pmpd"] / best["bandwidth_bytes_per_s_uniform"]
    return table


def run_pmpd_bandwidth(settings: Settings) -> dict[str, pd.DataFrame]:
    """Explore, ask, write the tables below ``settings.out`` and draw the figure; returns the tables by name.

    Raises:
        InputError: If a model is not in the published table, or a setting is out of bounds.
    """
    import pandas as pd

    from dse import explore, parse_study
    from dse.quality_files import read_named_quality
    from studies.pmpd_bandwidth.plot import write_figures

    for target in settings.targets_tokens_per_s:
        if not 0 < target < float("inf"):
            raise InputError(f"target = {target:g} tokens/s: must be > 0 and finite")
    for loss in settings.losses:
        if not 0 <= loss < 1:
            raise InputError(f"loss = {loss:g}: must be a share, 0 <= loss < 1")
    check_destination(settings.out, "csv")
    rows, certificates = [], {}
    for case in make_cases(settings, read_named_quality(QUALITY)):
        for family in FAMILIES:
            study = parse_study(study_of(settings, case, family), "pmpd-bandwidth")
            folder = settings.out / "explorations" / study.name
            found = explore(study, folder, progress=settings.progress, workers=settings.workers)
            certificates[study.name] = found.certificate
            rows += answer_rows(settings, case, family, found)
    answers = pd.DataFrame(rows)
    tables = {"answers": answers, "savings": saving_table(answers)}
    for name, table in tables.items():
        with atomic_writer(settings.out / f"{name}.csv") as file:
            table.to_csv(file, index=False, float_format=DIGITS)
    asked = {key: value for key, value in asdict(settings).items() if key not in {"out", "progress", "workers"}}
    numbers = {
        "schema_version": "1.0",
        "settings": asked | {"tasks": {name: asdict(load) for name, load in TASKS.items()}},
        **{name: json.loads(table.to_json(orient="records")) for name, table in tables.items()},
        "certificates": certificates,
    }
    write_json(settings.out / "pmpd_bandwidth.json", numbers)
    write_json(settings.out / "manifest.json", {"provenance": collect_provenance(settings.out)})
    write_figures(settings.out)
    return tables
