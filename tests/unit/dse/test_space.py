"""The space holds every listed schedule, no other, and counts its designs right."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.space import Design, Space
from dse.study import Parameter
from hwsim.trace import InputError, Schedule

optuna.logging.set_verbosity(optuna.logging.WARNING)

SCHEDULES = st.lists(
    st.builds(
        lambda prefill, first, rest: Schedule.from_pairs(prefill, [(0, first), *rest]),
        st.sampled_from([3, 4]),
        st.sampled_from([2, 3, 4]),
        st.lists(st.tuples(st.sampled_from([5, 9, 20]), st.sampled_from([2, 3, 4, 16])), max_size=3),
    ),
    min_size=1,
    max_size=12,
    unique_by=Schedule.label,
)

PARAMETERS = {
    "matrix.macs": Parameter(type="categorical", choices=(16384, 4096)),
    "matrix.weight_widths": Parameter(type="categorical", choices=([2, 3, 4], [2, 3, 4, 8])),
    "buffers.weight_kib": Parameter(type="int", low=64, high=256, step=64),
    "sfu.lanes": Parameter(type="int", low=15, high=16, when={"matrix.macs": 16384}),
    "memory.scale": Parameter(type="float", low=0.1, high=0.3, step=0.1),
}


def suggested(space: Space, seed: int, n: int) -> list[Design]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    designs = []
    for _ in range(n):
        trial = study.ask()
        designs.append(space.suggest(trial))
        study.tell(trial, 0.0)
    return designs


@settings(max_examples=40, deadline=None)
@given(SCHEDULES, st.integers(0, 1000))
def test_sampling_gives_only_listed_schedules(schedules, seed):
    space = Space({}, schedules)
    labels = {schedule.label() for schedule in schedules}
    assert {design.schedule.label() for design in suggested(space, seed, 15)} <= labels


@settings(max_examples=60, deadline=None)
@given(SCHEDULES)
def test_every_listed_schedule_can_be_suggested(schedules):
    space = Space({}, schedules)
    for schedule in schedules:
        design = Design({}, schedule)
        params, distributions = space.encode(design)
        assert space.suggest(optuna.trial.FixedTrial(params)) == design
        assert set(params) == set(distributions)


@settings(max_examples=20, deadline=None)
@given(SCHEDULES)
def test_size_counts_distinct_designs(schedules):
    space = Space(PARAMETERS, schedules)
    designs = list(space.enumerate())
    # 2 MAC counts, of which one has 2 lane counts; 2 sets of widths, 4 buffers, 3 scales.
    assert space.size() == len(designs) == len({design.key for design in designs}) == len(schedules) * 3 * 2 * 4 * 3


def test_sampler_and_enumeration_see_the_same_designs(schedules):
    space = Space({"matrix.macs": PARAMETERS["matrix.macs"]}, schedules[:3])
    every = {design.key for design in space.enumerate()}
    rng = np.random.default_rng(0)
    assert {space.random(rng).key for _ in range(200)} == every
    assert {design.key for design in suggested(space, 0, 200)} == every


def test_encoding_and_suggesting_are_inverse_for_every_design(schedules):
    space = Space(PARAMETERS, schedules[:4])
    for design in space.enumerate():
        params, _ = space.encode(design)
        assert space.suggest(optuna.trial.FixedTrial(params)) == design
        assert space.decode(design.canonical()).key == design.key


def test_an_inactive_parameter_is_not_part_of_the_design(schedules):
    space = Space(PARAMETERS, schedules[:1])
    for design in space.enumerate():
        assert ("sfu.lanes" in design.npu) == (design.npu["matrix.macs"] == 16384)


def test_a_condition_may_look_at_the_schedule():
    parameter = Parameter(type="int", low=1, high=5, when={"schedule.last_decode_bits": [2]})
    space = Space({"x": parameter}, [Schedule.uniform(2), Schedule.uniform(3)])
    assert space.size() == len(list(space.enumerate())) == 5 + 1


def test_parts_that_are_always_the_same_are_not_asked():
    schedules = [Schedule.from_pairs(4, [(0, 4), (step, 3)]) for step in (10, 20, 30)]
    params, _ = Space({}, schedules).encode(Design({}, schedules[1]))
    assert params == {"schedule.switch_1_step": 1}


def test_ends_and_middle_of_a_logarithmic_range():
    space = Space({"bw": Parameter(type="log", low=1e9, high=1e11)}, [])
    assert [space.at(share, None).npu["bw"] for share in (0.0, 0.5, 1.0)] == [1e9, pytest.approx(1e10), 1e11]
    assert space.size() is None


def test_random_designs_stay_within_their_ranges(schedules):
    parameters = {
        "a": Parameter(type="log", low=1e9, high=3e11),
        "b": Parameter(type="int", low=3, high=700, log=True),
        "c": Parameter(type="float", low=-1, high=1),
    }
    space = Space(parameters, schedules)
    rng = np.random.default_rng(1)
    for design in [*(space.random(rng) for _ in range(200)), *suggested(space, 1, 50)]:
        assert 1e9 <= design.npu["a"] <= 3e11
        assert 3 <= design.npu["b"] <= 700 and isinstance(design.npu["b"], int)
        assert -1 <= design.npu["c"] <= 1


def test_a_condition_on_a_continuous_parameter_is_refused():
    parameters = {
        "a": Parameter(type="float", low=0, high=1),
        "b": Parameter(type="int", low=0, high=1, when={"a": 0.5}),
    }
    with pytest.raises(InputError, match=r"parameters\.b\.when names 'a', which is continuous"):
        Space(parameters, [])


def test_a_condition_on_an_unknown_part_of_the_schedule_is_refused():
    with pytest.raises(InputError, match=r"did you mean 'schedule\.last_decode_bits'"):
        Space({"b": Parameter(type="int", low=0, high=1, when={"schedule.last_bits": 2})}, [Schedule.uniform(3)])
