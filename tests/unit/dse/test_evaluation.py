"""A chunk is as large as its evaluations are short, and no result depends on how designs were put into chunks."""

from __future__ import annotations

import itertools
from collections import deque

import pytest

import dse
from dse.evaluation import CHUNK_S, MAX_GROWTH, ChunkSizer, InProcess, WorkerSpec, evaluate_chunk, take_chunk
from dse.pool import ProcessPool
from dse.problem import prepare
from hwsim.trace import InputError
from picklable_npu import closed_form


def numbered(*numbers):
    return deque((number, f"design {number}") for number in numbers)


def test_a_chunk_holds_consecutive_numbers_up_to_its_size():
    waiting = numbered(3, 4, 5, 6, 9, 10)
    sizes = [[number for number, _ in take_chunk(waiting, size)] for size in (2, 5, 5)]
    assert sizes == [[3, 4], [5, 6], [9, 10]]
    assert not waiting


@pytest.mark.parametrize("design_s", [1e-5, 1e-3, 0.05, 3.0])
def test_chunks_grow_until_they_take_long_enough(design_s):
    sizer = ChunkSizer()
    sizes = []
    for _ in range(12):
        sizes.append(sizer.size(waiting=10**9, workers=2))
        sizer.learn(sizes[-1], sizes[-1] * design_s)
    assert sizes[0] == 1
    assert all(after <= MAX_GROWTH * before for before, after in itertools.pairwise(sizes))
    assert sizes[-1] == max(1, round(CHUNK_S / design_s))


def test_the_last_designs_are_shared_between_the_workers():
    sizer = ChunkSizer()
    sizer.learn(1, 1e-9)
    sizer.learn(4, 1e-9)
    assert [sizer.size(waiting, workers=2) for waiting in (100, 10, 3, 1)] == [16, 5, 2, 1]


@pytest.fixture
def study(study_fields):
    return dse.parse_study(study_fields | {"sampler": "random", "budget": 30}, "study.yaml")


def test_a_chunk_gives_one_outcome_for_each_design_in_order(study):
    problem = prepare(study, closed_form)
    designs = list(problem.space.enumerate())[:6]
    outcomes = evaluate_chunk(problem, 40, designs)
    assert [outcome.number for outcome in outcomes] == list(range(40, 46))
    assert [dict(outcome.metrics) for outcome in outcomes] == [problem.metrics(design) for design in designs]


@pytest.fixture
def real_study(study_fields):
    """The simulator itself, small enough for a test."""
    fields = study_fields | {
        "workloads": [{"model": "vicuna-7b", "prompt_tokens": 8, "decode_tokens": 60}],
        "parameters": {
            "memory.bandwidth_bytes_per_s": {"type": "categorical", "choices": ["16e9", "32e9", "64e9"]},
            "clock_hz": {"type": "categorical", "choices": [2e8, 4e8]},
            # The smallest holds no tile of this model: such designs cannot run.
            "buffers.weight_kib": {"type": "categorical", "choices": [1, 512]},
        },
        "sampler": "random",
        "budget": 12,
    }
    return dse.parse_study(fields, "study.yaml")


def test_the_simulator_gives_the_same_bits_however_designs_are_put_into_chunks(real_study):
    problem = prepare(real_study)
    designs = list(problem.space.enumerate())[:16]
    whole = evaluate_chunk(problem, 0, designs)
    alone = [evaluate_chunk(problem, number, [design])[0] for number, design in enumerate(designs)]
    halves = evaluate_chunk(problem, 0, designs[:5]) + evaluate_chunk(problem, 5, designs[5:])
    assert whole == alone == halves
    assert len({outcome.error is None for outcome in whole}) == 2


@pytest.mark.slow
def test_the_simulator_gives_the_same_record_with_workers(real_study, tmp_path):
    alone = dse.explore(real_study, tmp_path / "alone", progress=False)
    pool = dse.explore(real_study, tmp_path / "pool", progress=False, workers=2)
    assert pool.trials.equals(alone.trials) and pool.pareto.equals(alone.pareto)


def test_a_spec_describes_the_whole_problem(study):
    problem = prepare(study, closed_form)
    again = WorkerSpec.of(problem, closed_form).build()
    assert again.meaning == problem.meaning and again.study == problem.study
    assert list(again.space.schedules) == list(problem.space.schedules)


@pytest.mark.parametrize("where", ["here", pytest.param("workers", marks=pytest.mark.slow)])
def test_holes_left_by_a_kill_are_filled(study, where):
    problem = prepare(study, closed_form)
    spec = WorkerSpec.of(problem, closed_form).pickled()
    backend = InProcess(problem) if where == "here" else ProcessPool(spec, 2)
    designs = [(number, design) for number, design in enumerate(problem.space.enumerate()) if number % 3]
    outcomes = list(backend.evaluate(designs[:20]))
    backend.close()
    assert sorted(outcome.number for outcome in outcomes) == [number for number, _ in designs[:20]]


def test_a_design_the_evaluator_refuses_is_an_outcome_with_the_reason(study):
    def refuses(design):
        raise InputError("matrix.macs = 1: too few")

    problem = prepare(study, refuses)
    (outcome,) = evaluate_chunk(problem, 7, [next(problem.space.enumerate())])
    assert (outcome.number, dict(outcome.metrics), outcome.error) == (7, {}, "matrix.macs = 1: too few")
