"""A study is checked before anything runs: every field of an NPU can be a parameter, and what cannot hold is said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from dse.candidates import Candidates
from dse.problem import prepare
from dse.space import Design
from dse.study import parse_study
from hwsim import load_npu
from hwsim.trace import InputError, Schedule


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, list(value) if isinstance(value, tuple) else value


@pytest.fixture
def plain():
    return {
        "workloads": [{"model": "mobilellama-1.4b", "prompt_tokens": 4, "decode_tokens": 2}],
        "npu": "flightllm-u280",
        "schedules": ["p4:4"],
        "objectives": [{"name": "area_mm2", "direction": "minimize"}],
    }


def test_every_field_of_an_npu_may_be_a_parameter(plain):
    """FlightLLM's NPU has a second memory; lists, nested tables and whole groups are fields like the others."""
    npu = load_npu("flightllm-u280")
    fields = dict(leaves(npu.model_dump(mode="json")))
    groups = {
        "second_memory": npu.second_memory.model_dump(mode="json"),
        "memory.timing": npu.memory.timing.model_dump(),
    }
    fixed = {path for path in fields if path == "schema_version"}
    parameters = {
        path: {"type": "categorical", "choices": [value]}
        for path, value in (fields | groups).items()
        if path not in fixed
    }
    assert {"matrix.lookups_per_cycle.4", "second_memory.timing.t_refi_ns", "matrix.weight_widths"} <= set(parameters)
    for name, parameter in parameters.items():
        problem = prepare(parse_study(plain | {"parameters": {name: parameter}}, "s"))
        assert problem.evaluate.npu(next(problem.space.enumerate())) == npu


@pytest.mark.parametrize(
    ("path", "choices", "message"),
    [
        (
            "second_memory.bandwith_bytes_per_s",
            [1e9],
            r"unknown NPU parameter 'second_memory\.bandwith_bytes_per_s'; did you mean 'second_memory\.bandwidth",
        ),
        (
            "matrix.lookup_per_cycle.4",
            [8],
            r"unknown NPU parameter 'matrix\.lookup_per_cycle\.4'; did you mean 'matrix\.lookups_per_cycle\.4'",
        ),
        (
            "matrix.weight_widths",
            [[2, 3, 4, 16], [2, 11]],
            r"parameters\.matrix\.weight_widths = \[2, 11\]: .*must be 1\.\.8",
        ),
        (
            "memory.timing",
            [{"t_clns": 1}],
            r"unknown NPU parameter 'memory\.timing\.t_clns' = 1; did you mean 'memory\.timing\.t_cl_ns'",
        ),
    ],
)
def test_a_field_that_does_not_exist_is_named_with_the_nearest(plain, path, choices, message):
    parameters = {path: {"type": "categorical", "choices": choices}}
    with pytest.raises(InputError, match=message) as caught:
        prepare(parse_study(plain | {"parameters": parameters}, "s"))
    assert "\n" not in str(caught.value)


def test_a_choice_that_works_only_beside_another_is_no_mistake(plain):
    # 5 bits need lookups, which the other parameter brings.
    lookups = load_npu("flightllm-u280").model_dump(mode="json")["matrix"]["lookups_per_cycle"]
    parameters = {
        "matrix.weight_widths": {"type": "categorical", "choices": [[2, 3, 4, 16], [2, 3, 4, 7, 16]]},
        "matrix.lookups_per_cycle": {"type": "categorical", "choices": [lookups, lookups | {7: 64}]},
    }
    assert prepare(parse_study(plain | {"parameters": parameters}, "s")).space.size() == 4


CONDITIONAL = {
    "matrix.macs": {"type": "categorical", "choices": [4096, 16384]},
    "sfu.lanes": {"type": "categorical", "choices": [32, 64], "when": {"matrix.macs": 16384}},
}


def test_where_a_parameter_is_inactive_the_npu_files_value_is_what_a_limit_sees(study_fields, npu):
    fields = study_fields | {
        "parameters": CONDITIONAL,
        "objectives": [{"name": "sfu.lanes", "direction": "minimize"}, {"name": "area_mm2", "direction": "minimize"}],
    }
    problem = prepare(parse_study(fields, "s"), npu)
    lanes = load_npu("pmpd-4k").sfu.lanes
    four = Schedule.uniform(4)
    inactive = Design({"matrix.macs": 4096}, four)
    active = Design({"matrix.macs": 16384, "sfu.lanes": 64}, four)
    assert problem.metrics(inactive)["sfu.lanes"] == lanes
    assert "sfu.lanes" not in problem.metrics(active)
    column = problem.optimistic_many(Candidates.of(problem.space, [inactive, active]))["sfu.lanes"]
    assert column.tolist() == [lanes, 64]


def limits(*items: tuple[str, str, float]) -> dict[str, Any]:
    return {"constraints": [{"name": name, "op": op, "bound": bound} for name, op, bound in items]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"parameters": {}} | limits(("bandwidth_bytes_per_s", "<=", 1e9)),
            r"constraints\.0: bandwidth_bytes_per_s <= 1e\+09: memory\.bandwidth_bytes_per_s reaches 3\.2e\+10 "
            r"at best, 3\.1e\+10 off; make memory\.bandwidth_bytes_per_s a parameter or relax the bound",
        ),
        (
            {"parameters": CONDITIONAL} | limits(("sfu.lanes", ">=", 4096)),
            r"constraints\.0: sfu\.lanes >= 4096: parameter sfu\.lanes reaches \d+ at best",
        ),
        (
            # Each can be kept alone; of the schedules above 36 points none is above 0.95 with its interval.
            limits(("quality", ">=", 36), ("relative_quality_ci_low", ">=", 0.99)),
            r"constraint relative_quality_ci_low >= 0\.99: no measured schedule keeps it; the best, p16:16",
        ),
        (
            limits(("quality", ">=", 36), ("relative_quality", "<=", 0.8)),
            r"constraint .*: no measured schedule keeps it and the other limits; of those that keep the",
        ),
    ],
)
def test_limits_that_cannot_hold_are_said_with_what_binds_and_by_how_much(study_fields, npu, changes, message):
    with pytest.raises(InputError, match=message):
        prepare(parse_study(study_fields | changes, "s"), npu)
    assert npu.calls == []


def test_schedules_of_a_space_without_quality_are_excluded_with_the_reason(study_fields, npu):
    space = {"prefill_weight_bits": 4, "decode_weight_bits": [4, 3], "switch_steps": [20, 25]}
    problem = prepare(parse_study(study_fields | {"schedule_space": space}, "s"), npu)
    assert set(problem.space.schedules) == {"p4:4", "p4:3", "p4:4>3@20"}
    assert problem.excluded == {"p4:4>3@25": "no quality, and quality.json does not say how to interpolate"}


def test_a_field_refines_its_group_in_whatever_order_they_are_told():
    """A record keeps a design's values by name, so that a worker and a resumed run see them in another order."""
    npu = load_npu("pmpd-4k")
    matrix, sfu = (getattr(npu, name).model_dump(mode="json") for name in ("matrix", "sfu"))
    changes = {"sfu.lanes": 7, "sfu": sfu, "matrix.activation_bits": 16, "matrix.macs": 256, "matrix": matrix}
    one, other = load_npu("pmpd-4k", changes), load_npu("pmpd-4k", dict(sorted(changes.items())))
    assert one == other
    assert (one.sfu.lanes, one.matrix.macs, one.matrix.activation_bits) == (7, 256, 16)
    assert (sfu, matrix) == tuple(getattr(npu, name).model_dump(mode="json") for name in ("sfu", "matrix"))


def test_a_limit_on_bandwidth_holds_for_whole_memories(plain):
    memory = load_npu("flightllm-u280").memory.model_dump(mode="json")
    choices = [memory | {"bandwidth_bytes_per_s": bandwidth} for bandwidth in (1e10, 2e10)]
    limit = {"name": "bandwidth_bytes_per_s", "op": "<=", "bound": 10, "unit": "GB/s"}
    fields = plain | {"parameters": {"memory": {"type": "categorical", "choices": choices}}, "constraints": [limit]}
    problem = prepare(parse_study(fields, "s"))
    found = problem.optimistic_many(Candidates.enumerate(problem.space))
    assert found["bandwidth_bytes_per_s"].tolist() == [1e10, 2e10]
