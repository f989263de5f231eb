"""The shipped evaluator gives what hwsim gives, and refuses what does not belong together."""

from __future__ import annotations

import json

import pytest

import dse
from dse.problem import prepare
from dse.simulator import Simulator, rescheduled
from dse.space import Design
from dse.study import parse_study
from hwsim import SimulationOptions, load_npu, load_shape, simulate
from hwsim.trace import InputError, Schedule, synthetic_trace, write_trace

FIVE, MIXED = Schedule.uniform(5), Schedule.from_pairs(6, [(0, 5), (4, 3)])


@pytest.fixture
def config_path(tmp_path):
    path = tmp_path / "tiny" / "config.json"
    path.parent.mkdir()
    fields = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "vocab_size": 512,
        "max_position_embeddings": 256,
    }
    path.write_text(json.dumps(fields))
    return path


@pytest.fixture
def shape(config_path):
    return load_shape(str(config_path))


@pytest.fixture
def make_trace(tmp_path, shape):
    def make(schedule, name="trace.jsonl", sequences=2, **changes):
        trace = synthetic_trace(shape, schedule, prompt_tokens=7, decode_tokens=9, sequences=sequences)
        path = tmp_path / name
        write_trace(path, trace.header.model_copy(update=changes), trace.sequences)
        return path

    return make


@pytest.fixture
def fields(config_path):
    return {
        "workloads": [{"model": str(config_path), "prompt_tokens": 7, "decode_tokens": 9}],
        "npu": "pmpd-4k",
        "schedules": [FIVE.label(), MIXED.label()],
        "parameters": {"memory.bandwidth_bytes_per_s": {"type": "log", "low": 1e9, "high": 64e9}},
        "objectives": [{"name": "decode_tokens_per_s", "direction": "maximize"}],
        "budget": 6,
    }


def simulator(fields):
    return Simulator(parse_study(fields, "study.yaml"))


def test_metrics_are_those_of_the_simulation(fields, shape):
    found = simulator(fields)(Design({"memory.bandwidth_bytes_per_s": 8e9}, MIXED))
    trace = synthetic_trace(shape, MIXED, prompt_tokens=7, decode_tokens=9)
    result = simulate(load_npu("pmpd-4k", {"memory.bandwidth_bytes_per_s": 8e9}), shape, trace, SimulationOptions())
    assert found["decode_tokens_per_s"] == pytest.approx(result.decode_tokens_per_s)
    assert found["energy_j_per_token"] == pytest.approx(result.energy_j / 10)
    assert found["dram_bytes_per_token"] == pytest.approx(result.dram_bytes / 10)
    assert (found["ttft_s"], found["e2e_s"], found["area_mm2"]) == pytest.approx(
        (result.ttft_s, result.e2e_s, result.area_mm2)
    )
    assert found["bandwidth_bytes_per_s"] == 8e9
    assert found["mean_decode_bits"] == pytest.approx((4 * 5 + 5 * 3) / 9)


def test_several_sequences_are_a_mean_sequence(fields, make_trace):
    one, two = (
        simulator(fields | {"workloads": [{"trace": str(make_trace(FIVE, sequences=n))}]})(Design({}, FIVE))
        for n in (1, 2)
    )
    assert one == pytest.approx(two, rel=1e-6)


def test_without_a_choice_of_schedules_the_trace_is_replayed(fields, make_trace):
    fields = fields | {"workloads": [{"trace": str(make_trace(MIXED))}], "schedules": None}
    found = dse.explore(parse_study(fields, "s"), make_trace(MIXED).parent / "out", progress=False)
    assert found.trials["mean_decode_bits"].unique() == pytest.approx([(4 * 5 + 5 * 3) / 9])
    assert found.trials["schedule"].isna().all()


def test_a_trace_of_another_schedule_gives_only_its_lengths(fields, make_trace, shape):
    replay = simulator(fields | {"workloads": [{"trace": str(make_trace(FIVE))}]})
    tokens = simulator(fields)
    assert replay(Design({}, MIXED)) == pytest.approx(tokens(Design({}, MIXED)), rel=1e-6)


def test_of_several_traces_the_one_of_the_schedule_is_replayed(fields, make_trace, shape, tmp_path):
    # Under MIXED the model was recorded to answer shorter, which only its own trace knows.
    short = synthetic_trace(shape, MIXED, prompt_tokens=7, decode_tokens=5)
    write_trace(tmp_path / "short.jsonl", short.header, short.sequences)
    paths = [str(make_trace(FIVE)), str(tmp_path / "short.jsonl")]
    found = simulator(fields | {"workloads": [{"trace": paths}]})(Design({}, MIXED))
    assert found["mean_decode_bits"] == pytest.approx((4 * 5 + 3) / 5)


def test_rescheduling_keeps_lengths_and_drops_measured_times(shape):
    trace = synthetic_trace(shape, FIVE, prompt_tokens=7, decode_tokens=9)
    timed = trace.model_copy(
        update={"sequences": (trace.sequences[0].model_copy(update={"prefill_ns": 5, "step_ns": (1,) * 9}),)}
    )
    sequence = rescheduled(timed, MIXED).sequences[0]
    assert (sequence.prompt_tokens, sequence.generated_tokens, sequence.prefill_weight_bits) == (7, 10, 6)
    assert sequence.expand() == MIXED.expand(9)
    assert (sequence.prefill_ns, sequence.step_ns) == (None, None)


def test_a_real_study_runs_resumes_and_answers(fields, tmp_path):
    study = parse_study(fields, "s")
    first = dse.explore(study.model_copy(update={"budget": 3}), tmp_path, progress=False)
    found = dse.explore(study, tmp_path, progress=False)
    assert len(found.trials) == 6
    assert found.trials.iloc[:3]["decode_tokens_per_s"].equals(first.trials["decode_tokens_per_s"])
    fastest = found.trials.sort_values("decode_tokens_per_s").iloc[-1]
    assert (fastest["memory.bandwidth_bytes_per_s"], fastest["schedule"]) == (64e9, MIXED.label())
    answer = dse.ask(tmp_path, {"min_tokens_per_s": 1}, minimise="memory.bandwidth_bytes_per_s")
    assert answer.design["memory.bandwidth_bytes_per_s"] == found.trials["memory.bandwidth_bytes_per_s"].min()


def test_widths_the_npu_lacks_are_left_out(fields, tmp_path):
    widths = {"type": "categorical", "choices": [[5, 6], [5, 6, 7]]}
    fields = fields | {"parameters": {"matrix.weight_widths": widths}, "budget": 50}
    problem = prepare(parse_study(fields, "s"))
    assert problem.excluded == {MIXED.label(): "matrix.weight_widths of pmpd-4k lacks 3 bits"}
    assert len(dse.explore(parse_study(fields, "s"), tmp_path, progress=False).trials) == 2


def test_widths_that_some_npu_of_the_space_reads_are_kept(fields, tmp_path):
    serial = {"type": "categorical", "choices": [False, True]}
    narrow = {"type": "categorical", "choices": [[5, 6]], "when": {"matrix.bit_serial": [True]}}
    fields = fields | {"parameters": {"matrix.bit_serial": serial, "matrix.weight_widths": narrow}}
    problem = prepare(parse_study(fields, "s"))
    assert problem.excluded == {}  # where the array is not bit-serial, the file's widths stand
    file = load_npu("pmpd-4k").model_dump(mode="json")
    wide = file["matrix"]
    file["matrix"] = wide | {"weight_widths": [5, 6], "lookups_per_cycle": {"5": 4096, "6": 4096}}
    (tmp_path / "narrow.yaml").write_text(json.dumps(file))
    whole = {"type": "categorical", "choices": [file["matrix"], wide]}
    fields = fields | {"npu": str(tmp_path / "narrow.yaml")}
    assert list(prepare(parse_study(fields | {"parameters": {}}, "s")).excluded) == [MIXED.label()]
    assert prepare(parse_study(fields | {"parameters": {"matrix": whole}}, "s")).excluded == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"npu": "pmpd-4"}, r"unknown NPU 'pmpd-4'; did you mean 'pmpd-4k'"),
        ({"workloads": [{"model": "vicuna-7", "prompt_tokens": 1, "decode_tokens": 1}]}, "did you mean 'vicuna-7b'"),
        (
            {"parameters": {"memory.bandwith_bytes_per_s": {"type": "log", "low": 1e9, "high": 2e9}}},
            r"unknown NPU parameter 'memory\.bandwith_bytes_per_s'; did you mean 'memory\.bandwidth_bytes_per_s'",
        ),
        (
            {"parameters": {"memory.bandwidth_bytes_per_s": {"type": "float", "low": -1, "high": 2e9}}},
            r"parameters\.memory\.bandwidth_bytes_per_s = -1\.0: .*must be > 0",
        ),
        (
            {"parameters": {"matrix.macs": {"type": "int", "low": 4096, "high": 5000}}},
            r"parameters\.matrix\.macs = 5000: .*must be a power of two",
        ),
        ({"workloads": [{"trace": "nowhere.jsonl"}]}, r"nowhere\.jsonl: no such file"),
        ({"quality": ["nowhere.json"]}, r"nowhere\.json: no such file"),
    ],
)
def test_bad_input_is_refused_before_the_first_simulation(fields, tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        dse.explore(parse_study(fields | changes, "s"), tmp_path / "out", progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_trace_of_another_model_is_refused_unless_allowed(fields, make_trace):
    workload = {"model": "phi-1.5", "trace": str(make_trace(FIVE))}
    with pytest.raises(InputError, match=r"trace\.jsonl: header\.model\.name = 'tiny': the workload runs 'phi-1\.5'"):
        simulator(fields | {"workloads": [workload]})
    allowed = simulator(fields | {"workloads": [workload | {"allow_model_mismatch": True}]})
    assert allowed.workload_sha256


def test_a_trace_without_decode_steps_is_refused(fields, shape, tmp_path):
    empty = synthetic_trace(shape, FIVE, prompt_tokens=7, decode_tokens=0)
    write_trace(tmp_path / "empty.jsonl", empty.header, empty.sequences)
    with pytest.raises(InputError, match="no sequence has a decode step"):
        simulator(fields | {"workloads": [{"trace": str(tmp_path / "empty.jsonl")}]})
