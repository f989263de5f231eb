from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accuracy.decoding import Decoder, Response, Sampling
from accuracy.evaluation import distinct_steps, evaluate, read_statistics, trace_file_name
from accuracy.evaluation.store import ResponseStore
from accuracy.metrics import get_metric, rouge_l
from accuracy.schedulers import Scheduler, StaticScheduler, UniformScheduler
from accuracy.statistics import bootstrap
from accuracy.tasks import FileTask
from hwsim.trace import InputError, Schedule, canonical_sha256, read_quality, read_trace

from .conftest import FakeSwitch, tiny_llama

SCHEDULES = [
    Schedule.uniform(16),
    Schedule.uniform(4),
    Schedule.from_pairs(4, [(0, 4), (4, 2)]),
    Schedule.from_pairs(4, [(0, 4), (4, 3)]),
    Schedule.uniform(2),
]
METRIC_NAMES = ("rouge_l", "bleu", "fidelity_rouge_l", "identical_prefix_tokens")


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> FileTask:
    generator = np.random.default_rng(0)
    words = lambda n: " ".join(f"t{i}" for i in generator.integers(3, 61, size=n))  # noqa: E731
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    records = [{"id": f"x{i}", "prompt": words(1 + i % 9), "reference": words(8)} for i in range(40)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return FileTask(path, max_new_tokens=9)


def run(task, out: Path, schedules=SCHEDULES, **options):
    lm = tiny_llama()
    options = {"split": "test", "limit": 10, "metrics": METRIC_NAMES, "batch_size": 4, "progress": False, **options}
    return evaluate(lm, task, schedules, out=out, switch=FakeSwitch(lm.model), **options)


def files(folder: Path) -> dict[str, object]:
    """Everything a run wrote, without the moment it was written."""
    found = {}
    for path in sorted(folder.iterdir()):
        lines = (
            [json.loads(line) for line in path.read_text().splitlines()]
            if path.suffix == ".jsonl"
            else [json.loads(path.read_text())]
        )
        for line in lines:
            line.get("provenance", {}).pop("created_utc", None)
            line.pop("seconds", None)
        found[path.name] = lines
    return found


def test_every_schedule_and_metric_becomes_a_record_with_its_interval(task, tmp_path):
    records = run(task, tmp_path)
    assert [(r.schedule.label(), r.metric) for r in records] == [
        (schedule.label(), name) for schedule in SCHEDULES for name in METRIC_NAMES
    ]
    assert tuple(records) == read_quality(tmp_path / "quality.json")
    for record in records:
        assert record.n == 10
        assert record.ci_low <= record.value <= record.ci_high
        assert (record.source, record.split, record.direction) == ("measured", "test", "maximize")
    by_key = {(r.schedule.label(), r.metric): r for r in records}
    assert by_key["p16:16", "fidelity_rouge_l"].value == 100
    assert by_key["p2:2", "fidelity_rouge_l"].value < 100


def test_the_scores_are_those_of_the_responses(task, tmp_path):
    records = run(task, tmp_path)
    references = {example.id: example.reference for example in task.examples("test")}
    rows = [json.loads(line) for line in (tmp_path / "per_prompt.jsonl").read_text().splitlines()]
    for record in records:
        if record.metric == "rouge_l":
            mine = [row for row in rows if row["scheduler"] == record.schedule.label()]
            scores = [rouge_l(row["text"], references[row["id"]]) for row in mine]
            assert record.value == pytest.approx(np.mean(scores))
            assert [row["statistics"]["rouge_l"] for row in mine] == [[score] for score in scores]
    statistics = read_statistics(tmp_path)
    for record in records:
        interval = bootstrap(
            statistics[record.schedule.label()][record.metric], get_metric(record.metric).aggregate, seed=0
        )
        assert (interval.value, interval.low, interval.high) == (record.value, record.ci_low, record.ci_high)


def test_traces_say_what_really_ran(task, tmp_path):
    records = run(task, tmp_path)
    ids = [example.id for example in task.examples("test", 10)]
    means = {record.schedule.label(): record.mean_decode_bits for record in records}
    for schedule in SCHEDULES:
        trace = read_trace(tmp_path / trace_file_name(schedule.label()))
        assert trace.header.schedule == schedule
        assert trace.header.execution == "sequential"
        assert trace.header.provenance["decoded_in_batches_of"] != "1"
        assert [sequence.id for sequence in trace.sequences] == ids
        assert [sequence.batch_id for sequence in trace.sequences] == list(range(len(ids)))
        for sequence in trace.sequences:
            assert sequence.expand() == schedule.expand(sequence.decode_steps)
            assert sequence.prefill_ns is None
        assert trace.mean_decode_bits() == pytest.approx(means[schedule.label()])


def test_single_prompts_are_timed_in_the_trace(task, tmp_path):
    run(task, tmp_path, [Schedule.uniform(4)], batch_size=1, limit=3)
    trace = read_trace(tmp_path / "trace-p4_4.jsonl")
    assert trace.header.execution == "sequential"
    assert trace.header.device == "cpu"
    for sequence in trace.sequences:
        assert sequence.prefill_ns > 0
        assert len(sequence.step_ns) == sequence.decode_steps


def test_the_manifest_counts_the_steps_that_sharing_saves(task, tmp_path):
    run(task, tmp_path, batch_size=10)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    lm = tiny_llama()
    decoder = Decoder(lm, FakeSwitch(lm.model))
    from accuracy.decoding import Prompt

    prompts = [
        Prompt(example.id, tuple(task.encode(lm.tokenizer, example.prompt)), 9) for example in task.examples("test", 10)
    ]
    grid = decoder.decode_grid(prompts, [StaticScheduler(schedule) for schedule in SCHEDULES], 10)
    assert manifest["decode_steps"] == grid.steps
    assert manifest["distinct_decode_steps"] == grid.steps_run
    assert manifest["steps_saved"] == pytest.approx(grid.steps_saved, abs=1e-4)
    assert "tok:13a" in manifest["metrics"]["bleu"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.sampled_from([2, 3, 4]), max_size=6), min_size=1, max_size=8))
def test_distinct_steps_are_the_distinct_prefixes(paths):
    responses = [Response("a", 1, (0,) * (len(bits) + 1), "", 4, tuple(bits), "length") for bits in paths]
    prefixes = {tuple(bits[: k + 1]) for bits in paths for k in range(len(bits))}
    assert distinct_steps(responses) == len(prefixes)


class Killed(BaseException):
    pass


def kill_after(monkeypatch, batches: int) -> list[int]:
    calls: list[int] = []
    decode = Decoder.decode_batch

    def limited(self, prompts, schedulers, **options):
        if len(calls) == batches:
            raise Killed
        calls.append(len(schedulers))
        return decode(self, prompts, schedulers, **options)

    monkeypatch.setattr(Decoder, "decode_batch", limited)
    return calls


def test_a_killed_run_continues_to_the_same_result(task, tmp_path, monkeypatch):
    run(task, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_after(patch, 2)
        with pytest.raises(Killed):
            run(task, tmp_path / "killed")
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["evaluation.json", "responses.jsonl"]
    calls = kill_after(monkeypatch, 99)
    run(task, tmp_path / "killed")
    assert len(calls) == 1
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_line_cut_by_a_kill_is_decoded_again(task, tmp_path, monkeypatch):
    run(task, tmp_path / "whole")
    run(task, tmp_path / "cut")
    path = tmp_path / "cut" / "responses.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    (tmp_path / "cut" / "quality.json").unlink()
    calls = kill_after(monkeypatch, 99)
    run(task, tmp_path / "cut")
    assert calls == [1]  # one schedule of one batch was lost
    again, whole = files(tmp_path / "cut"), files(tmp_path / "whole")
    again["responses.jsonl"] = whole["responses.jsonl"] = sorted(whole["responses.jsonl"], key=lambda line: line["key"])
    assert again == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "seed = 0, now 1"),
        ({"batch_size": 5}, "batch_size = 4, now 5"),
        ({"split": "val", "limit": 5}, "split = test, now val"),
        ({"limit": 9}, "prompts = 10, now 9"),
        ({"schedules": SCHEDULES[:2]}, "schedulers = p16:16, p4:4, p4:4>2@4, p4:4>3@4, p2:2, now p16:16, p4:4;"),
        ({"metrics": ["bleu"]}, "metrics = rouge_l, "),
        ({"sampling": Sampling()}, "decoding = greedy, now sampled: temperature 1, seed 0"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused_by_name(task, tmp_path, monkeypatch, options, message):
    with monkeypatch.context() as patch:
        kill_after(patch, 1)
        with pytest.raises(Killed):
            run(task, tmp_path)
    before = (tmp_path / "responses.jsonl").read_bytes()
    with pytest.raises(InputError) as caught:
        run(task, tmp_path, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "responses.jsonl").read_bytes() == before


def test_exact_repeats_come_from_a_shared_cache(task, tmp_path, monkeypatch):
    cache = tmp_path / "cache.jsonl"
    run(task, tmp_path / "a", SCHEDULES[:3], cache=cache)
    calls = kill_after(monkeypatch, 99)
    run(task, tmp_path / "b", SCHEDULES[:3], cache=cache)
    assert calls == []
    run(task, tmp_path / "c", SCHEDULES[1:4], cache=cache)
    # p4:4>3@4 is new in each of three batches; full precision, a reference here, was kept.
    assert calls == [1, 1, 1]


class ByPrompt(Scheduler):
    """Plans a switch that differs from prompt to prompt."""

    name = "by-prompt"
    label = "by prompt"
    prefill_weight_bits = 4

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def identity(self):
        return {"scheduler": self.name, "seed": self.seed}

    def widths(self):
        return frozenset({4, 2})

    def plan(self, prefill):
        return Schedule.from_pairs(4, [(0, 4), (self.seed + int(prefill.prompt_id[1:]) % 5, 2)])


def test_a_scheduler_that_plans_by_prompt_has_no_schedule_but_its_realised_bits(task, tmp_path):
    scheduler = ByPrompt()
    (record,) = run(task, tmp_path, [scheduler], metrics=["rouge_l"])
    assert (record.scheduler, record.scheduler_label, record.schedule) == ("by-prompt", "by prompt", None)
    assert record.scheduler_sha256 == canonical_sha256(scheduler.identity())
    rows = [json.loads(line) for line in (tmp_path / "per_prompt.jsonl").read_text().splitlines()]
    trace = read_trace(tmp_path / trace_file_name("by prompt"))
    assert (trace.header.scheduler, trace.header.schedule) == ("by-prompt", None)
    bits = []
    for row, sequence in zip(rows, trace.sequences, strict=True):
        steps = row["generated_tokens"] - 1
        wanted = Schedule.from_pairs(4, [(0, 4), (int(row["id"][1:]) % 5, 2)]).expand(steps)
        assert [width for width, count in row["decode_weight_bits"] for _ in range(count)] == wanted
        assert sequence.expand() == wanted
        bits += wanted
    assert record.mean_decode_bits == pytest.approx(np.mean(bits))


def test_a_plan_by_prompt_equals_the_static_schedule_of_that_prompt(task, tmp_path):
    run(task, tmp_path / "by-prompt", [ByPrompt()], metrics=["rouge_l"])
    rows = [json.loads(line) for line in (tmp_path / "by-prompt" / "per_prompt.jsonl").read_text().splitlines()]
    grid = [Schedule.from_pairs(4, [(0, 4), (step, 2)]) for step in range(5)]
    run(task, tmp_path / "static", grid, metrics=["rouge_l"])
    static = [json.loads(line) for line in (tmp_path / "static" / "per_prompt.jsonl").read_text().splitlines()]
    texts = {(row["scheduler"], row["id"]): row["text"] for row in static}
    for row in rows:
        assert row["text"] == texts[grid[int(row["id"][1:]) % 5].label(), row["id"]]


def test_schedulers_that_differ_need_labels_that_differ(task, tmp_path):
    with pytest.raises(InputError, match="schedulers: two that differ are labelled 'by prompt'"):
        run(task, tmp_path / "out", [ByPrompt(0), ByPrompt(1)])
    assert not (tmp_path / "out").exists()


def test_a_scheduler_of_another_kind_with_the_same_plans_is_not_decoded_again(task, tmp_path, monkeypatch):
    cache = tmp_path / "cache.jsonl"
    run(task, tmp_path / "a", [Schedule.uniform(4)], metrics=["rouge_l"], cache=cache)
    calls = kill_after(monkeypatch, 99)
    (record,) = run(task, tmp_path / "b", [UniformScheduler(4)], metrics=["rouge_l"], cache=cache)
    assert calls == []
    assert record.scheduler == "uniform"


def four_equal_prompts(folder):
    """A task of them, and the split into which their common hash puts them."""
    records = [{"id": f"x{i}", "prompt": "t5 t6 t7", "reference": "t5"} for i in range(4)]
    path = folder / "same.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    same = FileTask(path, max_new_tokens=9)
    return same, next(name for name in ("calib", "val", "test") if same.examples_by_split[name])


def test_plans_by_prompt_are_not_taken_from_another_prompt_of_the_same_text(tmp_path):
    same, split = four_equal_prompts(tmp_path)
    run(same, tmp_path / "out", [ByPrompt()], split=split, limit=None, batch_size=1, metrics=["rouge_l"])
    trace = read_trace(tmp_path / "out" / trace_file_name("by prompt"))
    assert [one.expand() for one in trace.sequences] == [
        Schedule.from_pairs(4, [(0, 4), (place, 2)]).expand(one.decode_steps)
        for place, one in enumerate(trace.sequences)
    ]


def test_forced_lengths_are_exact_and_the_reference_keeps_its_own(task, tmp_path):
    run(task, tmp_path / "free", [Schedule.uniform(4)], metrics=["rouge_l"])
    free = [json.loads(line) for line in (tmp_path / "free" / "per_prompt.jsonl").read_text().splitlines()]
    forced = {row["id"]: row["generated_tokens"] for row in free}
    assert len(set(forced.values())) > 1
    records = run(task, tmp_path / "forced", [Schedule.uniform(4), Schedule.uniform(2)], forced_tokens=forced)
    rows = [json.loads(line) for line in (tmp_path / "forced" / "per_prompt.jsonl").read_text().splitlines()]
    assert all(row["generated_tokens"] == forced[row["id"]] for row in rows)
    assert [row["text"] for row in rows[:10]] == [row["text"] for row in free]
    assert {record.decoding for record in records} == {"greedy, lengths forced"}
    as_reference = run(task, tmp_path / "as-is", [Schedule.uniform(4)])
    ours = {r.metric: r.value for r in records if r.scheduler_label == "p4:4"}
    assert ours == {r.metric: r.value for r in as_reference}
    with pytest.raises(InputError, match="holds a run with decoding = greedy, lengths forced, now greedy"):
        run(task, tmp_path / "forced", [Schedule.uniform(4), Schedule.uniform(2)])
    with pytest.raises(InputError, match="forced_tokens: no length for prompt 'x"):
        run(task, tmp_path / "new", forced_tokens={"x0": 3})


def test_sampled_responses_do_not_depend_on_what_else_is_measured(task, tmp_path):
    sampling = Sampling(temperature=1.5, top_k=20, seed=3)
    (alone,) = run(task, tmp_path / "alone", [Schedule.uniform(2)], metrics=["rouge_l"], sampling=sampling)
    grid = run(task, tmp_path / "grid", SCHEDULES, metrics=["rouge_l"], sampling=sampling, batch_size=5)
    assert alone == grid[-1]
    assert alone.decoding == "sampled: temperature 1.5, top-k 20, seed 3"
    (other,) = run(task, tmp_path / "other", [Schedule.uniform(2)], metrics=["rouge_l"], sampling=Sampling(1.5, 20))
    assert other.value != alone.value


def test_sampled_responses_are_not_taken_from_another_prompt_of_the_same_text(tmp_path):
    same, split = four_equal_prompts(tmp_path)
    options = {"split": split, "limit": None, "metrics": ["rouge_l"], "sampling": Sampling(temperature=2.0)}
    run(same, tmp_path / "out", [Schedule.uniform(16)], batch_size=1, **options)
    rows = [json.loads(line) for line in (tmp_path / "out" / "per_prompt.jsonl").read_text().splitlines()]
    assert len({row["text"] for row in rows}) == 4


def test_metrics_of_one_name_with_other_settings_are_not_mixed(task, tmp_path):
    one, other = (
        replace(get_metric("rouge_l"), settings=lambda encoder=encoder: {"encoder": encoder}) for encoder in "ab"
    )
    with pytest.raises(InputError, match="metrics: two that differ are named 'rouge_l'"):
        run(task, tmp_path / "both", metrics=[one, other])
    run(task, tmp_path / "out", [Schedule.uniform(4)], metrics=[one])
    with pytest.raises(InputError, match="with metrics: rouge_l: encoder = a, now b"):
        run(task, tmp_path / "out", [Schedule.uniform(4)], metrics=[other])


def test_equal_schedules_count_once(task, tmp_path):
    records = run(task, tmp_path, [Schedule.uniform(4), Schedule.uniform(4)], metrics=["rouge_l"])
    assert len(records) == 1


def test_a_full_disk_is_one_line_and_keeps_what_was_finished(task, tmp_path, monkeypatch):
    real_fsync = os.fsync
    written = []

    def full(descriptor):
        written.append(descriptor)
        if len(written) > 2:  # the settings and the first batch fit
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real_fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            InputError, match=r"responses.jsonl: cannot be written \(No space left on device\); 20 resp"
        ):
            run(task, tmp_path / "full")
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["evaluation.json", "responses.jsonl"]
    assert len((tmp_path / "full" / "responses.jsonl").read_text().splitlines()) == 20
    run(task, tmp_path / "full")
    run(task, tmp_path / "whole")
    assert files(tmp_path / "full") == files(tmp_path / "whole")


def test_a_disk_that_fills_while_results_are_written_leaves_no_half_file(task, tmp_path, monkeypatch):
    run(task, tmp_path)
    for path in tmp_path.glob("[!er]*"):
        path.unlink()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="cannot be written"):
        run(task, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation.json", "responses.jsonl"]


def test_what_cannot_be_measured_is_refused_before_the_folder_exists(task, tmp_path):
    out = tmp_path / "out"
    for options, message in (
        ({"schedules": [Schedule.uniform(5)]}, "schedule p5:5: weight_bits = 5: not stored"),
        ({"schedules": []}, "schedulers: none given"),
        ({"metrics": ["rougel"]}, "unknown metric 'rougel'"),
        ({"split": "tset"}, "unknown split 'tset'"),
        ({"limit": 0}, "limit = 0"),
        ({"batch_size": 0}, "batch_size = 0"),
    ):
        with pytest.raises(InputError, match=message):
            run(task, out, **options)
    assert not out.exists()


def test_gold_metrics_need_references(task, tmp_path, monkeypatch):
    monkeypatch.setattr(task, "has_references", False, raising=False)
    with pytest.raises(InputError, match="metric 'bleu': task 'file' has no references"):
        run(task, tmp_path / "out", metrics=["bleu"])


def test_a_file_that_is_no_store_is_refused(tmp_path):
    path = tmp_path / "responses.jsonl"
    path.write_text('{"hello": 1}\n')
    with pytest.raises(InputError, match=r"responses.jsonl:1: is no response"), ResponseStore(path):
        pass
    assert path.read_text() == '{"hello": 1}\n'


def test_a_store_is_open_in_one_process_only(tmp_path):
    with (
        ResponseStore(tmp_path / "r.jsonl"),
        pytest.raises(InputError, match="another process is using it"),
        ResponseStore(tmp_path / "r.jsonl"),
    ):
        pass


def test_trace_names_are_safe_short_and_distinct():
    alternating = [Schedule.from_pairs(4, [(step, 4 - step % 2) for step in range(n)]) for n in (200, 201)]
    others = ["p4:first-half 4/3", "p4:first-half 4-3", "p4_4", "../p4", "gelernt über", "a" * 400, "a" * 401]
    labels = [*(schedule.label() for schedule in [*SCHEDULES, *alternating]), *others]
    names = {trace_file_name(label) for label in labels}
    assert len(names) == len(labels)
    assert all(len(name) < 200 and name.isascii() and not set(name) & set(":>@/ ") for name in names)


def test_reading_statistics_of_an_unfinished_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="the evaluation has not finished"):
        read_statistics(tmp_path)
