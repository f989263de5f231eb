"""Traces recorded by themselves, and how kept responses are found again."""

from __future__ import annotations

import json

import pytest
import torch

from accuracy.decoding import Decoder, Sampling
from accuracy.evaluation import PromptTask, record_trace
from accuracy.evaluation.answers import Job
from accuracy.evaluation.workers import CHUNKS_PER_WORKER, MAX_CHUNK_PROMPTS, chunked
from accuracy.schedulers import ConfidenceScheduler
from accuracy.tasks import FileTask
from hwsim.trace import InputError, Schedule, read_trace

from .conftest import FakeSwitch, tiny_llama

FALLING = Schedule.from_pairs(4, [(0, 4), (3, 2)])


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> FileTask:
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    records = [{"id": f"x{i}", "prompt": f"t{3 + i} t5 t{7 + i % 3}", "reference": "t5"} for i in range(30)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return FileTask(path, max_new_tokens=8)


def record(task, path, scheduler=FALLING, **options):
    lm = tiny_llama()
    options = {"split": "test", "limit": 6, "progress": False, **options}
    return record_trace(lm, task, scheduler, path, switch=FakeSwitch(lm.model), **options)


def test_captured_steps_answer_the_same_and_the_trace_says_so(task, tmp_path):
    lm, schedule = tiny_llama(), Schedule.uniform(16)
    options = {"split": "test", "limit": 3, "progress": False}
    ordinary = record_trace(lm, task, schedule, tmp_path / "ordinary.jsonl", **options)
    captured = record_trace(lm, task, schedule, tmp_path / "captured.jsonl", graphs=True, **options)
    assert [response.tokens for response in captured] == [response.tokens for response in ordinary]
    traces = [read_trace(tmp_path / f"{name}.jsonl") for name in ("ordinary", "captured")]
    assert [trace.header.provenance.get("execution") for trace in traces] == [None, "fused steps, without graphs"]
    assert all(len(sequence.step_ns) == sequence.decode_steps for sequence in traces[1].sequences)


def test_steps_that_cannot_be_captured_as_asked_are_refused_by_name(task, tmp_path):
    lm, path = tiny_llama(), tmp_path / "trace.jsonl"
    with pytest.raises(InputError, match=r"graphs: batch_size = 2: must be 1; leave them out"):
        record_trace(lm, task, FALLING, path, split="test", batch_size=2, graphs=True)
    with pytest.raises(InputError, match="graphs: a switch or workers are given"):
        record(task, path, graphs=True)
    with pytest.raises(InputError, match="graphs: tokens are sampled"):
        record_trace(lm, task, FALLING, path, split="test", sampling=Sampling(), graphs=True)


class Killed(BaseException):
    pass


def stop_after(monkeypatch, calls):
    done = []
    decode = Decoder.decode_batch

    def limited(self, prompts, schedulers, **options):
        if len(done) == calls:
            raise Killed
        done.append(len(prompts))
        return decode(self, prompts, schedulers, **options)

    monkeypatch.setattr(Decoder, "decode_batch", limited)
    return done


def test_single_prompts_are_timed_and_batches_are_not(task, tmp_path):
    responses = record(task, tmp_path / "one.jsonl")
    trace = read_trace(tmp_path / "one.jsonl")
    assert [sequence.id for sequence in trace.sequences] == [response.prompt_id for response in responses]
    assert all(len(sequence.step_ns) == sequence.decode_steps for sequence in trace.sequences)
    record(task, tmp_path / "many.jsonl", batch_size=4)
    together = read_trace(tmp_path / "many.jsonl")
    assert all(sequence.step_ns is None for sequence in together.sequences)
    assert [sequence.expand() for sequence in together.sequences] == [sequence.expand() for sequence in trace.sequences]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many.jsonl", "one.jsonl"]


def test_a_scheduler_that_decides_step_by_step_is_recorded_as_it_ran(task, tmp_path):
    scheduler = ConfidenceScheduler([4, 2], [0.5])
    responses = record(task, tmp_path / "t.jsonl", scheduler)
    trace = read_trace(tmp_path / "t.jsonl")
    assert (trace.header.scheduler, trace.header.schedule) == ("confidence", None)
    assert trace.header.provenance["scheduler_label"] == scheduler.label
    assert [sequence.expand() for sequence in trace.sequences] == [
        list(response.decode_weight_bits) for response in responses
    ]
    assert {4, 2} <= {bits for sequence in trace.sequences for bits in sequence.expand()}


def test_a_stopped_recording_goes_on_and_refuses_other_settings(task, tmp_path, monkeypatch):
    path = tmp_path / "t.jsonl"
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(Killed):
            record(task, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.jsonl.part"]
    kept = (tmp_path / "t.jsonl.part" / "responses.jsonl").read_bytes()
    with pytest.raises(InputError, match=r"t.jsonl.part: holds a run with schedulers = p4:4>2@3, now p4:4;"):
        record(task, path, Schedule.uniform(4))
    assert (tmp_path / "t.jsonl.part" / "responses.jsonl").read_bytes() == kept
    done = stop_after(monkeypatch, 99)
    record(task, path)
    assert done == [1, 1]
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.jsonl"]
    assert len(read_trace(path).sequences) == 6


def test_another_number_of_threads_is_another_arithmetic(task, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Killed):
            record(task, tmp_path / "t.jsonl")
    now = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: now + 1)
    with pytest.raises(InputError, match=rf"holds a run with arithmetic: threads = {now}, now {now + 1};"):
        record(task, tmp_path / "t.jsonl")


def test_one_prompt_can_be_sampled(tmp_path):
    (first,) = record(PromptTask("t5 t6", 8), tmp_path / "a.jsonl", sampling=Sampling(2.0, seed=1))
    (again,) = record(PromptTask("t5 t6", 8), tmp_path / "b.jsonl", sampling=Sampling(2.0, seed=1))
    (other,) = record(PromptTask("t5 t6", 8), tmp_path / "c.jsonl", sampling=Sampling(2.0, seed=2))
    assert first.tokens == again.tokens != other.tokens
    assert read_trace(tmp_path / "a.jsonl").header.task == "prompt"
    with pytest.raises(InputError, match="prompt: empty"):
        PromptTask(" ", 8)


@pytest.mark.parametrize(("jobs", "prompts", "workers"), [(0, 1, 2), (1, 32, 4), (7, 32, 2), (1000, 1, 2), (999, 8, 3)])
def test_chunks_hold_every_job_once_in_order_and_lose_little_to_a_kill(jobs, prompts, workers):
    made = [Job(prompts=(None,) * prompts, schedulers=()) for _ in range(jobs)]
    chunks = chunked(made, workers)
    assert [number for chunk in chunks for number in chunk] == list(range(jobs))
    assert all(len(chunk) * prompts <= max(MAX_CHUNK_PROMPTS, prompts) for chunk in chunks)
    assert len(chunks) >= min(jobs, workers * CHUNKS_PER_WORKER)
