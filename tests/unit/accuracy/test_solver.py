from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest

from accuracy.decoding import Decoder, Prompt
from accuracy.evaluation import evaluate
from accuracy.metrics import Reference, get_metric
from accuracy.model import load_model
from accuracy.quantization import NestedSettings, quantize
from accuracy.reference import MODEL_FOLDER
from accuracy.schedulers import StaticScheduler, UniformScheduler
from accuracy.search.allocation import allocate, width_pairs
from accuracy.search.search import SearchSettings
from accuracy.search.selection import Selection, Target, read_selection
from accuracy.search.solver import solve
from accuracy.tasks import FileTask, make_task
from hwsim.trace import InputError, Schedule, candidate_count, read_quality, schedule_count

from .conftest import FakeSwitch, tiny_llama

STEPS = 4
"""Decode steps of the longest response, so that brute force stays small."""


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> FileTask:
    generator = np.random.default_rng(0)
    words = lambda n: " ".join(f"t{i}" for i in generator.integers(3, 61, size=n))  # noqa: E731
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    records = [{"id": f"x{i}", "prompt": words(1 + i % 9), "reference": words(6)} for i in range(150)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return FileTask(path, max_new_tokens=STEPS + 1)


def options(seed: int = 0, **more):
    lm = tiny_llama(seed)
    settings = {"limit": 12, "batch_size": 4, "progress": False, "switch": FakeSwitch(lm.model), **more}
    return lm, SearchSettings(**settings)


def exhaustive(lm, task, widths, metric_name: str, target: Target, limit: int):
    """Every falling sequence of widths, each decoded alone: what the solver must find."""
    switch, metric = FakeSwitch(lm.model), get_metric(metric_name)
    examples = task.examples("val", limit)
    prompts = [Prompt(example.id, tuple(task.encode(lm.tokenizer, example.prompt)), STEPS + 1) for example in examples]
    full = Decoder(lm, switch).decode(prompts, UniformScheduler(16), batch_size=4)
    references = [Reference(example.reference, one) for example, one in zip(examples, full, strict=True)]

    def measure(schedule):
        answers = Decoder(lm, switch).decode(prompts, StaticScheduler(schedule), batch_size=4)
        sums = metric.statistics_many(answers, references).sum(0)
        bits = [width for answer in answers for width in answer.decode_weight_bits]
        return float(metric.aggregate(sums, len(prompts))), Fraction(sum(bits), len(bits))

    sequences = [
        sequence
        for sequence in product(widths, repeat=STEPS)
        if all(earlier >= later for earlier, later in pairwise(sequence))
    ]
    q_ref = measure(target.reference)[0]
    found = []
    for sequence in sequences:
        schedule = Schedule.from_pairs(max(widths), list(enumerate(sequence)))
        value, cost = measure(schedule)
        found.append((schedule, value, (cost, len(schedule.decode), schedule.label())))
    feasible = [one for one in found if one[1] >= q_ref * (1 - target.tolerance)]
    chosen = min(feasible, key=lambda one: one[2])[0] if feasible else None
    nearest = None if feasible else min(found, key=lambda one: (-one[1], one[2]))[0]
    return len(sequences), chosen, nearest


@pytest.mark.parametrize(
    ("metric", "target", "feasible"),
    [
        ("fidelity_rouge_l", Target(), False),
        ("fidelity_rouge_l", Target(tolerance=0.73), True),
        ("fidelity_rouge_l", Target(Schedule.uniform(4)), True),
        ("identical_prefix_tokens", Target(Schedule.uniform(4), 0.1), True),
    ],
)
def test_the_solver_finds_what_an_exhaustive_search_finds(task, metric, target, feasible):
    lm, settings = options(metric=metric)
    count, chosen, nearest = exhaustive(lm, task, (4, 3, 2), metric, target, 12)
    found = solve(lm, task, [4, 3, 2], points=STEPS + 1, target=target, settings=settings)
    assert len(found.candidates) == count == schedule_count(STEPS, 3) == candidate_count(STEPS + 1, 3) == 15
    assert (found.chosen, found.nearest) == (chosen, nearest)
    assert (found.chosen is not None) == feasible
    assert found.decode_steps_run < found.decode_steps


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    store = tmp_path_factory.mktemp("stores") / "selvic"
    quantize(MODEL_FOLDER, store, NestedSettings(max_bits=4), progress=False)
    return load_model(store)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["bleu", "fidelity_rouge_l"])
def test_on_the_shipped_model_the_solver_equals_schedules_one_by_one(shipped, metric, tmp_path):
    task, target = make_task("selvic"), Target(tolerance=0.02)
    settings = {"limit": 6, "batch_size": 3, "metric": metric, "progress": False}
    found = solve(shipped, task, [4, 3, 2], target=target, settings=SearchSettings(drop_early=False, **settings))
    fast = solve(shipped, task, [4, 3, 2], target=target, settings=SearchSettings(**settings))
    assert (fast.chosen, fast.nearest) == (found.chosen, found.nearest)
    assert fast.decode_steps_run <= found.decode_steps_run < found.decode_steps
    naive = {}
    for one in found.candidates:
        (record,) = evaluate(
            shipped,
            task,
            [one.schedule],
            split="val",
            out=tmp_path / one.label.replace(">", "-"),
            limit=6,
            metrics=[metric],
            batch_size=3,
            progress=False,
        )
        naive[one.label] = record
        assert (record.value, record.ci_low, record.ci_high) == (one.value, one.ci_low, one.ci_high)
        assert record.mean_decode_bits == one.mean_decode_bits
    feasible = [label for label, record in naive.items() if record.value >= found.required_value]
    assert {one.label for one in found.candidates if one.feasible} == set(feasible)
    cheapest = min((naive[label].mean_decode_bits for label in feasible), default=None)
    assert (found.chosen is None) == (cheapest is None)
    if found.chosen is not None:
        assert naive[found.chosen.label()].mean_decode_bits == cheapest


def untimed(selection: Selection) -> dict:
    return selection.model_dump(exclude={"provenance"})


def test_a_search_that_was_killed_goes_on_to_the_same_result(task, tmp_path, monkeypatch):
    lm, settings = options(out=tmp_path / "whole.json")
    whole = solve(lm, task, [4, 3, 2], settings=settings)
    decode, calls = Decoder.decode_batch, []

    def dies_at_the_third(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return decode(self, *args, **kwargs)

    monkeypatch.setattr(Decoder, "decode_batch", dies_at_the_third)
    lm, settings = options(out=tmp_path / "killed.json")
    with pytest.raises(KeyboardInterrupt):
        solve(lm, task, [4, 3, 2], settings=settings)
    assert not (tmp_path / "killed.json").exists()
    resumed = solve(lm, task, [4, 3, 2], settings=settings)
    assert untimed(resumed) == untimed(whole)
    after = len(calls)
    again = solve(lm, task, [4, 3, 2], settings=settings)
    assert untimed(again) == untimed(whole)
    assert len(calls) == after, "a finished search decodes nothing again"
    assert read_selection(tmp_path / "killed.json") == again


def test_other_settings_on_the_same_file_are_refused_and_nothing_is_lost(task, tmp_path):
    out = tmp_path / "out.json"
    lm, settings = options(out=out)
    solve(lm, task, [4, 3], settings=settings)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for change, message in (
        ({"widths": [4, 2]}, "holds a run with schedulers = p4:4"),
        ({"target": Target(tolerance=0.5)}, "holds a run with tolerance = 0.01, now 0.5"),
        ({"settings": options(out=out, limit=11)[1]}, "holds a run with prompts = 12, now 11"),
        ({"settings": options(out=out, drop_early=False)[1]}, "holds a run with drop_early = True, now False"),
    ):
        with pytest.raises(InputError, match=message):
            solve(lm, task, **{"widths": [4, 3], "settings": settings, **change})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_searches_and_evaluations_share_a_cache(task, tmp_path, monkeypatch):
    cache = tmp_path / "cache.jsonl"
    lm, settings = options(cache=cache, drop_early=False)
    found = solve(lm, task, [4, 3], settings=settings)

    def decoded_again(*args, **kwargs):
        raise AssertionError("everything was decoded before")

    monkeypatch.setattr(Decoder, "decode_batch", decoded_again)
    evaluate(
        lm,
        task,
        [one.schedule for one in found.candidates],
        split="val",
        out=tmp_path / "evaluation",
        limit=12,
        metrics=["rouge_l"],
        batch_size=4,
        progress=False,
        cache=cache,
        switch=settings.switch,
    )
    assert len(read_quality(tmp_path / "evaluation" / "quality.json")) == len(found.candidates)


def test_pairs_have_a_prefill_at_least_as_wide_unless_all_are_asked_for():
    assert [one.label() for one in width_pairs([2, 4, 3])] == ["p4:4", "p4:3", "p4:2", "p3:3", "p3:2", "p2:2"]
    assert len(width_pairs([2, 4, 3], rising=True)) == 9
    with pytest.raises(InputError, match="each once"):
        width_pairs([3, 3])


def test_the_allocation_is_the_pair_of_fewest_decode_bits_then_prefill_bits(task):
    lm, settings = options(metric="fidelity_rouge_l", split="calib", drop_early=False)
    found = allocate(lm, task, [4, 3, 2], target=Target(tolerance=0.78), settings=settings)
    assert (found.kind, found.split, found.points) == ("allocation", "calib", None)
    values = {one.label: one.value for one in found.candidates}
    assert set(values) == {"p4:4", "p4:3", "p4:2", "p3:3", "p3:2", "p2:2"}
    by_order = ["p2:2", "p3:2", "p4:2", "p3:3", "p4:3", "p4:4"]
    feasible = [label for label in by_order if values[label] >= 0.22 * found.reference_value]
    assert found.chosen.label() == feasible[0]
    assert {one.label for one in found.candidates if one.feasible} == set(feasible)
    early = allocate(lm, task, [4, 3, 2], target=Target(tolerance=0.78), settings=replace(settings, drop_early=True))
    assert early.chosen == found.chosen
    assert early.responses < found.responses


def test_a_choice_by_interval_asks_more_than_one_by_point(task):
    lm, settings = options(metric="fidelity_rouge_l", drop_early=False)
    point, lossless = (
        solve(lm, task, [4, 3, 2], target=Target(tolerance=0.83, criterion=criterion), settings=settings)
        for criterion in ("point", "lossless")
    )
    kept = [{one.label for one in found.candidates if one.feasible} for found in (point, lossless)]
    assert set() < kept[1] < kept[0]
    for one in lossless.candidates:
        assert one.feasible == (one.change.ci_low > -0.83)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": [5, 3]}, "weight_bits = 5: not stored; stored widths: 2, 3, 4, 16"),
        ({"widths": []}, "at least one width"),
        ({"points": 1}, "points = 1: must be >= 2"),
        ({"target": Target(Schedule.uniform(8))}, "reference p8:8: not all of its widths are stored"),
        ({"metric": "rouge"}, "unknown metric 'rouge'"),
        ({"limit": 0}, "limit = 0"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"split": "vla"}, "unknown split 'vla'"),
        ({"split": "test"}, "split = test: is kept for what is reported"),
        ({"out": "result.txt"}, "out = result.txt: must end in .json"),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_one_line(task, changes, message):
    own = {key: changes[key] for key in ("widths", "points", "target") if key in changes}
    with pytest.raises(InputError) as caught:
        lm, settings = options(**{key: value for key, value in changes.items() if key not in own})
        solve(lm, task, **{"widths": [4, 3], "settings": settings, **own})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_task_of_two_turns_is_refused(task):
    lm, settings = options()
    talk = FileTask.__new__(FileTask)
    talk.__dict__.update(task.__dict__, turns=2)
    with pytest.raises(InputError, match="task 'file': has 2 turns"):
        solve(lm, talk, [4, 3], settings=settings)


def test_a_file_that_is_no_selection_is_refused_by_field(tmp_path):
    path = tmp_path / "s.json"
    path.write_text('{"schema_version": "1.0"}')
    with pytest.raises(InputError, match=r"s\.json: kind"):
        read_selection(path)
