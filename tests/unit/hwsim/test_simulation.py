from __future__ import annotations

import json

import pytest

import hwsim
from hwsim.config import Timing
from hwsim.load import load_npu
from hwsim.shapes import load_shape
from hwsim.simulation import SimulationOptions, simulate
from hwsim.trace import InputError, Schedule, synthetic_trace
from hwsim_strategies import TINY


def _trace(shape=TINY, schedule=None, prompt=12, steps=9, **options):
    schedule = schedule or Schedule.from_pairs(4, [(0, 4), (5, 3)])
    return synthetic_trace(shape, schedule, prompt_tokens=prompt, decode_tokens=steps, **options)


@pytest.fixture(scope="module")
def npu():
    return load_npu("pmpd-4k")


def test_a_result_carries_every_promised_key_as_json(npu):
    result = simulate(npu, TINY, _trace())
    value = json.loads(json.dumps(result.to_json_dict(), allow_nan=False))
    promised = ["mode", "engine", "prefill_s", "ttft_s", "decode_tokens_per_s", "e2e_s", "cycles", "dram_bytes"]
    for key in [*promised, "energy_j", "area_mm2"]:
        assert value[key] is not None
    assert (value["mode"], value["engine"]) == ("realistic", "events")


def test_times_and_rates_follow_from_the_step_table(npu):
    result = simulate(npu, TINY, _trace(sequences=2))
    steps = result.steps
    decode = steps[steps["step"] >= 0]
    assert len(decode) == result.decode_steps == 18
    assert result.cycles == steps["cycles"].sum()
    assert result.dram_bytes == steps["dram_bytes"].sum() == sum(result.bytes_by_kind.values())
    assert result.decode_tokens_per_s == pytest.approx(18 / (decode["cycles"].sum() / 1e9))
    assert result.tpot_s == pytest.approx(1 / result.decode_tokens_per_s)
    assert result.prefill_s == pytest.approx(steps[steps["step"] < 0]["cycles"].mean() / 1e9)
    assert result.e2e_s == pytest.approx(result.cycles / 2 / 1e9)
    assert result.sequences == 2


def test_the_step_table_follows_the_schedule(npu):
    steps = simulate(npu, TINY, _trace()).steps
    assert steps["weight_bits"].tolist() == [4] + [4] * 5 + [3] * 4
    assert steps["context"].tolist() == [12, *range(12, 21)]


def test_memo_and_exact_simulation_agree_to_the_cycle(npu):
    trace = _trace(schedule=Schedule.from_pairs(8, [(0, 4), (2, 2), (4, 3), (5, 16)]))
    memo, exact = (simulate(npu, TINY, trace, SimulationOptions(exact=flag)) for flag in (False, True))
    assert memo.steps["cycles"].tolist() == exact.steps["cycles"].tolist()
    assert exact.events_memoised == 0 < memo.events_memoised


def test_a_real_model_with_a_switch_is_the_same_by_memo_by_exact_events_and_by_recurrences(npu):
    shape = load_shape("mobilellama-1.4b")
    trace = _trace(shape, Schedule.from_pairs(4, [(0, 4), (4, 3)]), prompt=128, steps=8)
    options = SimulationOptions(), SimulationOptions(exact=True), SimulationOptions(engine="fast")
    memo, exact, fast = (simulate(npu, shape, trace, one) for one in options)
    assert memo.columns.cycles.tolist() == exact.columns.cycles.tolist() == fast.columns.cycles.tolist()
    assert memo.events_simulated < exact.events_simulated / 5


@pytest.mark.parametrize("execution", ["sequential", "batched"])
def test_the_learned_schedulers_run_delays_the_first_token_and_nothing_else(npu, execution):
    trace = _trace()
    plain, learned = (
        trace.model_copy(update={"header": trace.header.model_copy(update={"scheduler": name, "execution": execution})})
        for name in ("static", "learned")
    )
    without, result = simulate(npu, TINY, plain), simulate(npu, TINY, learned)
    run = result.steps[result.steps["step"] == -2]
    assert run["tokens"].tolist() == [0]
    delay_s = run["cycles"].sum() / 1e9
    assert delay_s > 0
    assert result.ttft_s == pytest.approx(without.ttft_s + delay_s)
    assert result.e2e_s == pytest.approx(without.e2e_s + delay_s)
    assert (result.prefill_s, result.decode_tokens_per_s) == (without.prefill_s, without.decode_tokens_per_s)
    # Two fp16 layers, 96 to 96 and 96 to 4, with biases; one layer's keys and values but for the newest token.
    assert result.bytes_by_kind["scheduler"] == (96 + 4) * (2 * 96 + 2)
    assert result.bytes_by_kind["kv_read"] - without.bytes_by_kind["kv_read"] == 11 * 2 * 2 * 16 * 2
    fast = simulate(npu, TINY, learned, SimulationOptions(engine="fast"))
    assert fast.columns.cycles.tolist() == result.columns.cycles.tolist()


def test_a_response_of_one_token_has_no_decode_rate(npu):
    result = simulate(npu, TINY, _trace(steps=0))
    assert (result.decode_steps, result.decode_tokens_per_s, result.tpot_s) == (0, None, None)
    assert result.prefill_s > 0


def test_a_long_memory_bound_decode_is_close_to_its_roofline():
    # Overheads off: what is left is one tile's fill and drain at the start and the end of each step.
    overrides = {f"memory.timing.{name}": 0 for name in Timing.model_fields if name.startswith("t_")}
    overrides |= {
        "memory.timing.t_refi_ns": 3904,
        "memory.timing.controller_latency_ns": 0,
        "control.issue_cycles": 0,
        "control.sync_cycles": 0,
    }
    npu, shape = load_npu("pmpd-16k", overrides), load_shape("mobilellama-1.4b")
    trace = _trace(shape, Schedule.uniform(4), prompt=64, steps=4)
    result, bound = simulate(npu, shape, trace), hwsim.roofline_cycles(npu, shape, trace)
    prefill = result.columns.cycles[0]
    decode_bound = bound - hwsim.roofline_cycles(npu, shape, _trace(shape, Schedule.uniform(4), prompt=64, steps=0))
    assert 1 <= (result.cycles - prefill) / decode_bound < 1.001


def test_decode_speed_follows_the_bits():
    npu, shape = load_npu("pmpd-16k"), load_shape("vicuna-7b")
    speed = {
        bits: simulate(npu, shape, _trace(shape, Schedule.uniform(bits), 32, 2)).decode_tokens_per_s
        for bits in (16, 4, 3, 2)
    }
    assert speed[16] < speed[4] < speed[3] < speed[2]
    # 4-bit linear weights, fp16 lm_head, 32 GB/s: (3.24 + 0.26 + codebooks) GB a token at about 91% of peak.
    assert 7.5 < speed[4] < 9.1


def test_pmpd_analytic_is_linear_weights_and_int8_keys_and_values_over_the_peak():
    npu, shape = load_npu("pmpd-16k"), load_shape("vicuna-7b")
    result = simulate(npu, shape, _trace(shape, Schedule.uniform(16), 1, 1), SimulationOptions(mode="pmpd-analytic"))
    # facts: fp16 linear weights alone give Vicuna 2.47 tokens/s at 32 GB/s.
    assert result.decode_tokens_per_s == pytest.approx(2.47, abs=0.005)
    assert (result.mode, result.engine) == ("pmpd-analytic", "analytic")
    assert result.prefill_s == 0
    assert result.bytes_by_kind["kv_read"] == 2 * 32 * 4096
    assert result.bytes_by_kind["lm_head"] == 0


@pytest.mark.parametrize(("name", "speed"), [("mobilellama-1.4b", 12.98), ("phi-1.5", 13.25)])
def test_pmpd_analytic_gives_the_other_models_fp16_speeds(name, speed):
    shape = load_shape(name)
    trace = _trace(shape, Schedule.uniform(16), 1, 1)
    result = simulate(load_npu("pmpd-4k"), shape, trace, SimulationOptions(mode="pmpd-analytic"))
    assert result.decode_tokens_per_s == pytest.approx(speed, abs=0.015)


def test_pmpd_analytic_counts_codebooks_only_when_asked():
    npu, shape = load_npu("pmpd-16k"), load_shape("vicuna-7b")
    trace = _trace(shape, Schedule.uniform(3), 8, 2)
    without, with_tables = (
        simulate(npu, shape, trace, SimulationOptions(mode="pmpd-analytic", analytic_codebooks=flag))
        for flag in (False, True)
    )
    assert without.bytes_by_kind["codebooks"] == 0
    assert with_tables.bytes_by_kind["codebooks"] == 2 * 32 * (5 * 4096 + 2 * 11008) * 8 * 2
    assert with_tables.cycles > without.cycles


def test_a_trace_of_another_model_is_refused_or_labelled(npu):
    trace = _trace()
    other = TINY.model_copy(update={"layers": 4, "name": "other"})
    with pytest.raises(InputError, match="trace model 'tiny' has another shape than 'other'"):
        simulate(npu, other, trace)
    result = simulate(npu, other, trace, SimulationOptions(allow_model_mismatch=True))
    assert result.model_mismatch
    assert result.to_json_dict()["model_mismatch"] is True
    renamed = TINY.model_copy(update={"name": "renamed"})
    assert not simulate(npu, renamed, trace).model_mismatch


def test_a_width_the_loader_lacks_is_refused(npu):
    narrow = load_npu("pmpd-4k", {"matrix.weight_widths": [2, 3, 16]})
    with pytest.raises(InputError, match=r"weight_bits = 4: pmpd-4k supports 2, 3, 16"):
        simulate(narrow, TINY, _trace())


def test_a_model_that_does_not_fit_is_refused():
    shape = load_shape("vicuna-7b")
    small = load_npu("pmpd-16k", {"memory.capacity_bytes": 2 * 10**9})
    with pytest.raises(
        InputError, match=r"memory.capacity_bytes = 2000000000: vicuna-7b with weights of 3/4"
    ) as caught:
        simulate(small, shape, _trace(shape, Schedule.uniform(3, 4)))
    assert "\n" not in str(caught.value)


def test_a_sequence_beyond_the_context_is_refused(npu):
    trace = _trace()
    short = TINY.model_copy(update={"max_context": 20})
    with pytest.raises(InputError, match="holds at most 20 tokens"):
        simulate(npu, short, trace, SimulationOptions(allow_model_mismatch=True))


def test_an_empty_trace_is_refused(npu):
    trace = _trace()
    with pytest.raises(InputError, match="0 sequences"):
        simulate(npu, TINY, trace.model_copy(update={"sequences": ()}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "event"}, "unknown engine 'event'; did you mean 'events'"),
        ({"mode": "real"}, "unknown mode 'real'.*pmpd-analytic, realistic"),
    ],
)
def test_an_unknown_mode_or_engine_is_refused_instead_of_labelling_another(options, message):
    with pytest.raises(InputError, match=message):
        SimulationOptions(**options)
