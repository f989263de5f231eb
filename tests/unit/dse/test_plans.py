"""A scheduler that plans by prompt is explored as its trace recorded it, with its own quality."""

from __future__ import annotations

import json

import pytest

from dse.plans import RecordedPlan, recorded_names, recorded_plans, trace_of, typical_bits
from dse.problem import prepare
from dse.space import Design, Space
from dse.study import Parameter, parse_study
from hwsim import SimulationOptions, load_npu, load_shape, simulate
from hwsim.trace import InputError, Schedule, synthetic_trace, write_quality, write_trace

LEARNED = {"scheduler": "learned", "scheduler_label": "learned:small", "schedule": None, "schedule_sha256": None}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "vicuna-7b.json"  # the name of the quality records, at a size that simulates at once
    fields = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128}
    fields |= {"num_attention_heads": 4, "vocab_size": 512, "max_position_embeddings": 256}
    path.write_text(json.dumps(fields))
    return path


@pytest.fixture
def learned(tmp_path, config):
    """A trace whose two responses were planned apart: one switches from 4 to 3 bits, one stays at 3."""
    shape = load_shape(str(config))
    plans = [Schedule.from_pairs(4, [(0, 4), (5, 3)]), Schedule.uniform(3, prefill_weight_bits=4)]
    traces = [synthetic_trace(shape, plan, prompt_tokens=7, decode_tokens=9) for plan in plans]
    sequences = [trace.sequences[0].model_copy(update={"id": str(i)}) for i, trace in enumerate(traces)]
    changes = {"scheduler": "learned", "schedule": None, "provenance": {"scheduler_label": "learned:small"}}
    path = tmp_path / "learned.jsonl"
    write_trace(path, traces[0].header.model_copy(update=changes), sequences)
    return path


@pytest.fixture
def fields(tmp_path, make_quality, learned):
    records = [make_quality(Schedule.uniform(bits)) for bits in (16, 4)]
    records.append(
        make_quality(Schedule.uniform(4)).model_copy(update=LEARNED | {"value": 35.0, "mean_decode_bits": 3.3})
    )
    write_quality(tmp_path / "quality.json", records)
    return {
        "workloads": [{"trace": str(learned)}],
        "npu": "pmpd-4k",
        "quality": str(tmp_path / "quality.json"),
        "parameters": {"matrix.weight_widths": {"type": "categorical", "choices": [[2, 3, 4, 8, 16]]}},
        "objectives": [
            {"name": "decode_tokens_per_s", "direction": "maximize"},
            {"name": "quality", "direction": "maximize"},
        ],
    }


def test_quality_and_trace_together_are_one_candidate_timed_by_its_own_trace(fields, learned, config):
    problem = prepare(parse_study(fields, "s"))
    assert set(problem.space.schedules) == {"p16:16", "p4:4", "learned:small"}
    plan = problem.space.schedules["learned:small"]
    assert isinstance(plan, RecordedPlan)
    assert (plan.widths(), plan.mean_decode_bits) == ({3, 4}, pytest.approx((4 * 5 + 3 * 13) / 18))
    npu = {"matrix.weight_widths": [2, 3, 4, 8, 16]}
    found = problem.metrics(Design(npu, plan))
    from hwsim.trace import read_trace

    result = simulate(load_npu("pmpd-4k", npu), load_shape(str(config)), read_trace(learned), SimulationOptions())
    assert found["decode_tokens_per_s"] == pytest.approx(result.decode_tokens_per_s)
    assert found["mean_decode_bits"] == pytest.approx(plan.mean_decode_bits)
    assert found["quality"] == 35.0
    # The other candidates run at the lengths that it recorded.
    uniform = problem.metrics(Design(npu, Schedule.uniform(4)))
    assert uniform["decode_tokens_per_s"] < found["decode_tokens_per_s"]


def test_a_plan_goes_to_a_record_and_back(fields):
    space = prepare(parse_study(fields, "s")).space
    for design in space.enumerate():
        assert space.decode(json.loads(json.dumps(design.canonical()))) == design


def test_a_schedule_space_asks_for_recorded_schedulers_by_name(fields):
    space = {"prefill_weight_bits": 4, "decode_weight_bits": 4, "schedulers": ["static", "learned"]}
    assert set(prepare(parse_study(fields | {"schedule_space": space}, "s")).space.schedules) == {
        "p4:4",
        "learned:small",
    }
    only = {"schedulers": ["learned"]}
    assert set(prepare(parse_study(fields | {"schedule_space": only}, "s")).space.schedules) == {"learned:small"}
    with pytest.raises(InputError, match=r"'lerned'; did you mean 'learned'\? .*it needs a trace recorded under it"):
        prepare(parse_study(fields | {"schedule_space": {"schedulers": ["lerned"]}}, "s"))


def test_without_quality_files_a_recorded_plan_needs_only_its_trace(fields):
    plain = {name: value for name, value in fields.items() if name != "quality"}
    plain["objectives"] = fields["objectives"][:1]
    problem = prepare(parse_study(plain | {"schedule_space": {"schedulers": ["learned"]}}, "s"))
    assert set(problem.space.schedules) == {"learned:small"}


def test_a_parameter_may_depend_on_the_kind_of_scheduler():
    plan = RecordedPlan("learned", "learned:small", frozenset({3, 4}), 3.3)
    parameter = Parameter(type="int", low=1, high=5, when={"schedule.scheduler": "learned"})
    space = Space({"x": parameter}, [Schedule.uniform(4), plan])
    assert space.size() == len(list(space.enumerate())) == 1 + 5


def test_two_traces_of_one_scheduler_leave_open_which_is_meant(learned):
    from hwsim.trace import read_trace

    trace = read_trace(learned)
    assert recorded_names([trace]) == [("learned", "learned:small")]
    assert trace_of("learned", "learned:large", [trace]) is None
    assert recorded_plans([("learned", "learned:small")], [[trace], []]) == {}
    with pytest.raises(InputError, match="2 traces were recorded under the scheduler 'learned:small'"):
        recorded_plans([("learned", "learned:small")], [[trace, trace]])


def test_bits_order_schedules_and_plans_alike():
    plan = RecordedPlan("learned", "learned", frozenset({3, 4}), 3.3)
    switch = Schedule.from_pairs(4, [(0, 4), (5, 3)])
    assert [typical_bits(one) for one in (Schedule.uniform(3), plan, switch)] == [3, 3.3, 3.5]
