"""Measure every model and write the tables; ``plot.py`` draws what this writes.

What one model gave is one file in ``models/``; a run takes as they are the files that are there with its own settings.
Within a model, what was quantised, decoded, labelled and trained is kept under ``work/``, from where a run that was
killed goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from accuracy.metrics import get_metric
from accuracy.model import load_model
from hwsim.trace import (
    SWITCH_POINTS,
    atomic_writer,
    canonical_sha256,
    collect_provenance,
    read_json,
    unknown_name,
    write_json,
)
from studies.common.machine import cpu_model
from studies.pmpd import learning
from studies.pmpd.bench import BATCH_SIZE, SEED, Bench
from studies.pmpd.learning import PAPER, VARIANTS, measure_inputs, train_schedulers
from studies.pmpd.plot import write_figures
from studies.pmpd.report import write_tables
from studies.pmpd.samples import Sample, choose_samples, write_samples
from studies.pmpd.schedulers import (
    ENCODER,
    TOLERANCE,
    choose_allocation,
    choose_static,
    measure_schedulers,
    search_row,
)
from studies.pmpd.stores import WIDTHS, Stores
from studies.pmpd.subjects import (
    CALIBRATION_TEXTS,
    QUOTABLE,
    OwnModel,
    Subject,
    own_subject,
    quick_subject,
    subject_makers,
)
from studies.pmpd.table import Tables, verdict
from studies.pmpd.untuned import PAIRS, measure_patterns, measure_phases, pair_name, phase_name

TABLES = ("scores", "comparisons", "searches", "training", "notes")
EXPERIMENTS = ("table4", "fig3", "table1", "fig7", "table9")
"""The paper's results; the first is part of every run, since the others build on what it decodes."""


@dataclass(frozen=True)
class Settings:
    """What a run is asked to do.

    Attributes:
        out: Folder of the results.
        models: Names of the models; all that are at hand by default.
        own: A model of the reader's own, instead.
        experiments: Which results of the paper; what is there of others is kept.
        quick: The shipped model with a handful of prompts, for tests.
        progress: Show progress bars.
    """

    out: Path
    models: tuple[str, ...] = ()
    own: OwnModel | None = None
    experiments: tuple[str, ...] = EXPERIMENTS
    quick: bool = False
    progress: bool = True


def makers_of(settings: Settings) -> dict[str, Callable[[], Subject]]:
    """The models that a run may measure, each made when its turn comes."""
    if settings.own is not None:
        own = settings.own
        return {own.name: lambda: own_subject(own)}
    return {"selvic": quick_subject} if settings.quick else subject_makers()


def run_pmpd(settings: Settings) -> None:
    """Run the study.

    Raises:
        InputError: If a model or an experiment is not known here.
    """
    makers = makers_of(settings)
    for name in settings.models:
        if name not in makers:
            raise unknown_name("model", name, makers)
    for name in settings.experiments:
        if name not in EXPERIMENTS:
            raise unknown_name("experiment", name, EXPERIMENTS)
    found: list[dict[str, Any]] = []
    with tqdm(settings.models or tuple(makers), desc="model", disable=not settings.progress) as bar:
        for name in bar:
            bar.set_postfix_str(name)
            found.append(_model(makers[name](), settings))
    _write(settings.out, found)
    write_tables(settings.out)
    write_figures(settings.out)


def _model(subject: Subject, settings: Settings) -> dict[str, Any]:
    """One model's results, as JSON; measured unless they are there."""
    subject.check_disjoint()
    described = describe(subject)
    path = settings.out / "models" / f"{subject.name}.json"
    wanted = {EXPERIMENTS[0], *settings.experiments}
    if path.exists():
        kept: dict[str, Any] = read_json(path)
        if kept.get("settings") == described:
            if wanted <= set(kept["experiments"]):
                return kept
            wanted |= set(kept["experiments"])
    began = time.process_time()
    measured = _measure(subject, settings, wanted)
    kept = {
        "settings": described,
        "experiments": [name for name in EXPERIMENTS if name in wanted],
        "cpu_seconds": round(time.process_time() - began, 1),
        "provenance": collect_provenance(
            settings.out, seed=SEED, device=subject.device, cpu=cpu_model(), threads=torch.get_num_threads()
        ),
        **measured,
    }
    write_json(path, kept)
    return kept


def _measure(subject: Subject, settings: Settings, wanted: Set[str]) -> dict[str, Any]:
    work = work_folder(settings.out, subject)
    stores, tables = Stores(subject, work / "stores"), Tables()
    bench = Bench(subject, stores.nested(), work / "nested", progress=settings.progress)
    phases = measure_phases(bench, tables)
    searches = [search_row(bench, "allocation", "4/3/2", choose_allocation(bench, work))]
    if "fig3" in wanted:
        measure_patterns(bench, tables, {high: phases[phase_name(high, high)] for high, _ in PAIRS})
    training: list[dict[str, Any]] = []
    samples: list[Sample] = []
    ranked = _per_prompt_metric(subject)
    for pair in PAIRS if wanted & {"table1", "fig7"} else ():
        high, low = pair
        variants = VARIANTS if "fig7" in wanted else [PAPER]
        learned = train_schedulers(bench, pair, work / f"learned-{high}{low}", variants)
        training += [{"store": "nested", **row} for row in learned.report]
        if "fig7" in wanted:
            measure_inputs(bench, tables, pair, learned)
        if "table1" not in wanted:
            continue
        static = choose_static(bench, pair, work)
        searches.append(search_row(bench, "table1", pair_name(pair), static))
        found = measure_schedulers(bench, tables, "table1", pair, static, learned, stores)
        every = phases["full precision"]
        low_low, high_low = phases[phase_name(low, low)], phases[phase_name(high, low)]
        title = f"{pair_name(pair)} bits"
        samples += choose_samples(bench, f"{title}, prefill (Fig. 2)", high_low, low_low, [every], ranked)
        beside = [every, found["baseline-h"]]
        samples += choose_samples(
            bench, f"{title}, schedule (A.8)", found["static"], found["baseline-l"], beside, ranked
        )
    if "table9" in wanted:
        _measure_gptq(subject, stores, tables, searches, training, work, settings)
    return {
        **asdict(tables),
        "searches": searches,
        "training": training,
        "samples": [asdict(one) for one in samples],
        "ranked_by": ranked,
    }


def work_folder(out: Path, subject: Subject) -> Path:
    """Where what a subject's measurements are made of is kept."""
    return out / "work" / f"{subject.name}-{canonical_sha256(describe(subject))[:8]}"


def _measure_gptq(
    subject: Subject,
    stores: Stores,
    tables: Tables,
    searches: list[dict[str, Any]],
    training: list[dict[str, Any]],
    work: Path,
    settings: Settings,
) -> None:
    """The schedulers on one GPTQ model a width (Table 9)."""
    several = Bench(subject, stores.gptq(), work / "gptq", progress=settings.progress)
    for pair in PAIRS:
        high, low = pair
        learned = train_schedulers(several, pair, work / "gptq" / f"learned-{high}{low}", [PAPER])
        static = choose_static(several, pair, work / "gptq")
        searches.append(search_row(several, "table9", pair_name(pair), static))
        training += [{"store": "gptq", **row} for row in learned.report]
        measure_schedulers(several, tables, "table9", pair, static, learned)


def _per_prompt_metric(subject: Subject) -> str:
    """A metric with one value per prompt, to rank prompts by."""
    return "rouge_l" if "rouge_l" in subject.metrics else subject.metric


def describe(subject: Subject) -> dict[str, Any]:
    """Everything that decides a model's results."""
    return {
        "model": subject.name,
        "model_sha256": load_model(subject.folder).model_sha256,
        "text": subject.text,
        "report": f"{subject.report.name} {subject.report.version}, test, {subject.report_prompts} prompts",
        "tune": f"{subject.tune.name} {subject.tune.version}, val, {subject.tune_prompts} prompts",
        "learn": f"{subject.learn.name} {subject.learn.version}, calib, {subject.learn_prompts} prompts",
        "calibration": f"{subject.tune.name}, calib, {CALIBRATION_TEXTS} texts",
        "max_new_tokens": subject.report.max_new_tokens,
        "metrics": {name: get_metric(name).description for name in subject.metrics},
        "pairs": [list(pair) for pair in PAIRS],
        "stores": f"nested k-means {WIDTHS[0]}..{WIDTHS[-1]} weighted by squared gradients; GPTQ, one per width",
        "static": f"least bits within {TOLERANCE:.0%} of the high width's score, N = {SWITCH_POINTS}",
        "learned": learning.settings(),
        "encoder": ENCODER.parent.name,
        "batch_size": BATCH_SIZE,
        "seed": SEED,
    }


def _write(out: Path, found: list[dict[str, Any]]) -> None:
    """Every table, the samples and the manifest."""
    for name in TABLES:
        rows = [row for one in found for row in one[name]]
        if name == "comparisons":
            rows = [{**row, "verdict": verdict(row)} for row in rows]
        with atomic_writer(out / f"{name}.csv") as file:
            pd.DataFrame(rows).to_csv(file, index=False)
    by_model = {one["settings"]["model"]: one for one in found}
    write_samples(
        out / "samples.md",
        {name: (one["ranked_by"], one["samples"]) for name, one in by_model.items()},
        quotable=QUOTABLE,
    )
    write_json(
        out / "manifest.json",
        {
            "schema_version": "1.0",
            "dtype": "float32",
            "models": {
                name: {key: one[key] for key in ("settings", "cpu_seconds", "provenance")}
                for name, one in by_model.items()
            },
        },
    )
