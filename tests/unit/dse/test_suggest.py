"""Designs of the user's own come first, and warm starts come from bounds."""

from __future__ import annotations

import pytest

import dse
from dse.problem import prepare
from dse.starts import bounded, enqueued, starting_designs
from hwsim.trace import InputError

MINE = {"memory.bandwidth_bytes_per_s": "32e9", "matrix.macs": 8192, "schedule": "p4:4>3@20"}


@pytest.fixture
def study(study_fields):
    def study(**changes):
        return dse.parse_study(study_fields | changes, "study.yaml")

    return study


def roof(npu):
    return type(npu)()


@pytest.mark.parametrize("sampler", ["nsga3", "screened"])
def test_enqueued_designs_are_simulated_first(study, tmp_path, npu, sampler):
    other = MINE | {"matrix.macs": 4096}
    config = study(sampler=sampler, start=[MINE, other, MINE], budget=12)
    trials = dse.explore(config, tmp_path, evaluate=npu, bounds=roof(npu), progress=False).trials
    assert trials["matrix.macs"].tolist()[:2] == [8192, 4096]
    assert set(trials["schedule"][:2]) == {"p4:4>3@20"} and len(trials) == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"matrix.macs": 5000}, r"start\.0\.matrix\.macs = 5000: is not one of the values explored: 4096, 8192, 16384"),
        ({"matrix.macs": None}, r"start\.0: gives no value for matrix\.macs, which acts in this design; add it"),
        ({"sfu.lane": 3}, r"sfu\.lane"),
        ({"schedule": "p4:4>3@21"}, r"schedule in start\.0 .*p4:4>3@20"),
        ({"schedule": "p4:2"}, r"or it breaks a limit"),
    ],
)
def test_a_start_outside_the_space_is_refused(study, npu, change, message):
    values = {key: value for key, value in (MINE | change).items() if value is not None}
    with pytest.raises(InputError, match=message):
        enqueued(prepare(study(start=[values]), npu))


def test_a_start_beyond_a_range_is_refused(study, study_fields, npu):
    ranges = {"memory.bandwidth_bytes_per_s": {"type": "log", "low": "16e9", "high": "128e9"}}
    config = study(parameters=study_fields["parameters"] | ranges, start=[MINE | {next(iter(ranges)): 1}])
    with pytest.raises(InputError, match=r"bandwidth_bytes_per_s = 1: must be a number within 1\.6e\+10\.\.1\.28e\+11"):
        enqueued(prepare(config, npu))


def test_a_start_with_a_value_that_does_not_act_is_refused(study, study_fields, npu):
    lanes = {"sfu.lanes": {"type": "categorical", "choices": [1, 2], "when": {"matrix.macs": 16384}}}
    config = study(parameters=study_fields["parameters"] | lanes, start=[MINE | {"sfu.lanes": 2}])
    with pytest.raises(InputError, match=r"start\.0\.sfu\.lanes = 2: does not act in this design; leave it out"):
        enqueued(prepare(config, npu))


def test_bounds_that_are_exact_start_on_the_front(study, tmp_path, npu):
    config = study(budget=84)
    problem = prepare(config, npu, roof(npu))
    everything = dse.explore(config, tmp_path, evaluate=npu, progress=False)
    on_front = everything.trials[everything.trials["on_front"]]
    front = {tuple(row) for row in on_front[["memory.bandwidth_bytes_per_s", "schedule"]].to_numpy().tolist()}
    chosen = bounded(problem)
    assert chosen and bounded(prepare(config, npu)) == []
    assert {(d.npu["memory.bandwidth_bytes_per_s"], d.schedule.label()) for d in chosen} <= front
    keys = [design.key for design in starting_designs(problem)]
    assert len(keys) == len(set(keys)) >= len(chosen)
