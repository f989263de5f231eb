"""Measure every model and write the tables; ``plot.py`` draws what this writes.

What was quantised, decoded, labelled and trained is kept under ``work/``; a run that is killed goes on from there. The
tables are written anew after every model.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from accuracy.metrics import get_metric
from hwsim.trace import FULL_PRECISION_BITS, atomic_writer, collect_provenance, unknown_name, write_json
from studies.common.machine import cpu_model
from studies.pmpd import learning
from studies.pmpd.bench import BATCH_SIZE, SEED, Bench
from studies.pmpd.learning import PAPER, measure_inputs, train_schedulers
from studies.pmpd.plot import write_figures
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
from studies.pmpd.subjects import Subject, quick_subject, subject_makers
from studies.pmpd.table import Tables
from studies.pmpd.untuned import PAIRS, measure_patterns, measure_phases, pair_name, phase_name


@dataclass(frozen=True)
class Settings:
    """What a run is asked to do.

    Attributes:
        out: Folder of the results.
        models: Names of the models; all that are at hand by default.
        quick: The shipped model with a handful of prompts, for tests.
        keep_work: Keep stores and responses when everything is done.
        progress: Show progress bars.
    """

    out: Path
    models: tuple[str, ...] = ()
    quick: bool = False
    keep_work: bool = True
    progress: bool = True


@dataclass
class Results:
    """What grows model by model."""

    tables: Tables
    searches: list[dict[str, Any]]
    training: list[dict[str, Any]]
    samples: dict[str, list[Sample]]
    ranked_by: dict[str, str]
    seconds: dict[str, float]
    subjects: dict[str, dict[str, Any]]


def run_pmpd(settings: Settings) -> Results:
    """Run the study.

    Raises:
        InputError: If a model is not known here.
    """
    makers = {"selvic": quick_subject} if settings.quick else dict(subject_makers())
    for name in settings.models:
        if name not in makers:
            raise unknown_name("model", name, makers)
    chosen = settings.models or tuple(makers)
    results = Results(Tables(), [], [], {}, {}, {}, {})
    with tqdm(chosen, desc="model", disable=not settings.progress) as bar:
        for name in bar:
            bar.set_postfix_str(name)
            began = time.process_time()
            subject = makers[name]()
            subject.check_disjoint()
            _measure(subject, settings, results)
            results.seconds[name] = round(time.process_time() - began, 1)
            _write(settings.out, results)
    write_figures(settings.out)
    if not settings.keep_work:
        shutil.rmtree(settings.out / "work")
    return results


def _measure(subject: Subject, settings: Settings, results: Results) -> None:
    work = settings.out / "work" / subject.name
    stores, tables = Stores(subject, work / "stores"), results.tables
    bench = Bench(subject, stores.nested(), work / "nested", progress=settings.progress)
    results.subjects[subject.name] = _describe(subject, bench)
    phases = measure_phases(bench, tables)
    results.searches.append(search_row(bench, "allocation", "all", choose_allocation(bench, work)))
    measure_patterns(bench, tables, {high: phases[phase_name(high, high)] for high, _ in PAIRS})
    ranked = results.ranked_by[subject.name] = _per_prompt_metric(subject)
    samples = results.samples.setdefault(subject.name, [])
    for high, low in PAIRS:
        pair = (high, low)
        learned = train_schedulers(bench, pair, work / f"learned-{high}{low}")
        static = choose_static(bench, pair, work)
        results.searches.append(search_row(bench, "table1", pair_name(pair), static))
        results.training += [{"store": "nested", **row} for row in learned.report]
        measure_inputs(bench, tables, pair, learned)
        found = measure_schedulers(bench, tables, "table1", pair, static, learned, stores)
        every = phases["full precision"]
        low_low, high_low = phases[phase_name(low, low)], phases[phase_name(high, low)]
        title = f"{pair_name(pair)} bits"
        samples += choose_samples(bench, f"{title}, prefill (Fig. 2)", high_low, low_low, [every], ranked)
        samples += choose_samples(
            bench,
            f"{title}, schedule (A.8)",
            found["static"],
            found["baseline-l"],
            [every, found["baseline-h"]],
            ranked,
        )
    _measure_gptq(subject, stores, work / "gptq", settings, results)


def _measure_gptq(subject: Subject, stores: Stores, work: Path, settings: Settings, results: Results) -> None:
    """The schedulers on one GPTQ model per width (Table 9)."""
    bench = Bench(subject, stores.gptq(), work, progress=settings.progress)
    for pair in PAIRS:
        high, low = pair
        learned = train_schedulers(bench, pair, work / f"learned-{high}{low}", [PAPER])
        static = choose_static(bench, pair, work)
        results.searches.append(search_row(bench, "table9", pair_name(pair), static))
        results.training += [{"store": "gptq", **row} for row in learned.report]
        measure_schedulers(bench, results.tables, "table9", pair, static, learned)


def _per_prompt_metric(subject: Subject) -> str:
    """A metric with one value per prompt, to rank prompts by."""
    return "rouge_l" if "rouge_l" in subject.metrics else subject.metric


def _describe(subject: Subject, bench: Bench) -> dict[str, Any]:
    lm = bench.lm
    return {
        "model_sha256": lm.model_sha256,
        "nested_store_sha256": lm.store_sha256,
        "text": subject.text,
        "report": f"{subject.report.name} {subject.report.version}, test, {subject.report_prompts} prompts",
        "tune": f"{subject.tune.name} {subject.tune.version}, val, {subject.tune_prompts} prompts",
        "learn": f"{subject.learn.name} {subject.learn.version}, calib, {subject.learn_prompts} prompts",
        "max_new_tokens": subject.report.max_new_tokens,
        "metrics": {name: get_metric(name).description for name in subject.metrics},
    }


def _write(out: Path, results: Results) -> None:
    """Every table, the samples and the manifest."""
    frames = results.tables.frames() | {
        "searches": pd.DataFrame(results.searches),
        "training": pd.DataFrame(results.training),
    }
    for name, frame in frames.items():
        with atomic_writer(out / f"{name}.csv") as file:
            frame.to_csv(file, index=False)
    write_samples(out / "samples.md", results.samples, results.ranked_by)
    write_json(
        out / "manifest.json",
        {
            "schema_version": "1.0",
            "provenance": collect_provenance(
                cpu=cpu_model(),
                threads=torch.get_num_threads(),
                dtype="float32",
                batch_size=BATCH_SIZE,
                seed=SEED,
            ),
            "stores": f"nested k-means {WIDTHS[0]}..{WIDTHS[-1]} weighted by squared gradients; GPTQ one per width",
            "full_precision_bits": FULL_PRECISION_BITS,
            "static": f"least bits within {TOLERANCE:.0%} of the high width's score on validation prompts, N = 4",
            "learned": learning.settings(),
            "encoder": ENCODER.parent.name,
            "cpu_seconds": results.seconds,
            "models": results.subjects,
        },
    )
