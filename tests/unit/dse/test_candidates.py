"""Arrays of designs hold what the space enumerates one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.candidates import Candidates
from dse.space import Space
from dse.study import Parameter
from hwsim.trace import Schedule

SCHEDULES = [Schedule.uniform(4), Schedule.uniform(3, prefill_weight_bits=4), Schedule.from_pairs(4, [(0, 4), (9, 3)])]
CONDITIONAL = {
    "a": Parameter(type="categorical", choices=("x", "y")),
    "b": Parameter(type="int", low=1, high=3, when={"a": ("y",)}),
    "c": Parameter(type="categorical", choices=([2, 3], [2, 3, 4]), when={"schedule.switches": (1,)}),
    "d": Parameter(type="float", low=0.0, high=1.0, step=0.5, when={"b": (2, 3), "schedule.switches": (0,)}),
}


def _check(space: Space, candidates: Candidates) -> None:
    expected = [design.canonical() for design in space.enumerate()]
    assert [candidates.design(index).canonical() for index in range(len(candidates))] == expected
    assert len(candidates) == space.size()


@pytest.mark.parametrize("schedules", [SCHEDULES, []])
def test_every_design_of_a_conditional_space_is_enumerated_in_order(schedules):
    parameters = CONDITIONAL if schedules else {path: CONDITIONAL[path] for path in "ab"}
    space = Space(parameters, schedules)
    _check(space, Candidates.enumerate(space))


def test_a_space_of_schedules_alone_is_enumerated():
    space = Space({}, SCHEDULES)
    _check(space, Candidates.enumerate(space))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_random_conditions_are_enumerated_as_one_by_one(data):
    parameters: dict[str, Parameter] = {}
    for name in "pqrs"[: data.draw(st.integers(1, 4))]:
        choices = tuple(range(data.draw(st.integers(1, 3))))
        parents = [*parameters, "schedule.prefill_weight_bits", "schedule.switches"]
        chosen = data.draw(st.lists(st.sampled_from(parents), unique=True, max_size=2))
        when = {parent: tuple(data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))) for parent in chosen}
        parameters[name] = Parameter(type="categorical", choices=choices, when=when or None)
    space = Space(parameters, SCHEDULES)
    _check(space, Candidates.enumerate(space))


def test_designs_given_come_back_in_their_order():
    space = Space(CONDITIONAL, SCHEDULES)
    designs = list(space.enumerate())[::-3]
    candidates = Candidates.of(space, designs)
    assert [candidates.design(index) for index in range(len(designs))] == designs
    assert [candidates.take([2, 0]).design(index) for index in range(2)] == [designs[2], designs[0]]


def test_a_design_is_found_among_many_by_what_it_is():
    space = Space(CONDITIONAL, SCHEDULES)
    candidates = Candidates.enumerate(space)
    assert candidates.indices(list(space.enumerate())).tolist() == list(range(len(candidates)))
    twice = candidates.take([3, 1, 3])
    assert twice.indices([twice.design(row) for row in range(3)]).tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="none of these 3 designs"):
        twice.indices([candidates.design(3), candidates.design(0)])


def test_columns_have_the_values_and_a_gap_where_a_parameter_is_inactive():
    candidates = Candidates.enumerate(Space({path: CONDITIONAL[path] for path in "ab"}, SCHEDULES[:1]))
    assert candidates.column("a").tolist() == ["x", "y", "y", "y"]
    np.testing.assert_array_equal(candidates.column("b"), [np.nan, 1, 2, 3])
    np.testing.assert_array_equal(candidates.schedule_column({"p4:4": 0.5}), [0.5] * 4)
    assert np.isnan(candidates.schedule_column({})).all()


def test_distinct_npus_are_found_whatever_their_number_of_values():
    candidates = Candidates.enumerate(Space(CONDITIONAL, SCHEDULES))
    first, index = candidates.distinct()
    rows = [tuple(candidates.npu_values(row).items()) for row in range(len(candidates))]
    assert len(first) == len({str(row) for row in rows})
    assert all(rows[first[index[row]]] == rows[row] for row in range(len(rows)))
    # More combinations than an integer can number.
    many = {f"p{number}": Parameter(type="int", low=0, high=10**6) for number in range(8)}
    space = Space(many, SCHEDULES)
    rng = np.random.default_rng(0)
    drawn = Candidates.of(space, [space.random(rng) for _ in range(40)] * 2)
    first, index = drawn.distinct()
    assert len(first) == 40 and (index[:40] == index[40:]).all()
