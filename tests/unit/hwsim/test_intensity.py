import pytest

import hwsim
from hwsim.trace import Schedule, synthetic_trace

SHAPE = hwsim.load_shape("vicuna-7b")
NPU = hwsim.load_npu("pmpd-16k")


def place(schedule, prompt=64, steps=4, mode="realistic", npu=NPU, **bits):
    trace = synthetic_trace(SHAPE, schedule, prompt_tokens=prompt, decode_tokens=steps, **bits)
    result = hwsim.simulate(npu, SHAPE, trace, hwsim.SimulationOptions(mode=mode, engine="fast"))
    return result, hwsim.roofline_position(npu, SHAPE, trace, result)


def test_the_ridge_point_is_peak_macs_over_peak_bytes():
    _, position = place(Schedule.uniform(4))
    assert position.ridge_macs_per_byte == 16384e9 / 32e9
    assert position.peak_macs_per_s == 16384e9


def test_a_16_bit_decode_step_does_half_a_mac_per_byte():
    # Every weight is two bytes and one multiplication; keys, values and the embedding row are small beside them.
    _, position = place(Schedule.uniform(16), prompt=1)
    decode = position.phases[1]
    assert decode.macs_per_byte == pytest.approx(0.5, rel=1e-3)
    assert decode.side == "memory"


def test_attained_speed_stays_below_both_roofs():
    for schedule in (Schedule.uniform(2), Schedule.uniform(4), Schedule.from_pairs(4, [(0, 4), (2, 3)])):
        result, position = place(schedule, prompt=256)
        for phase in position.phases:
            assert phase.macs_per_s <= phase.roof_macs_per_s
            assert 0 < phase.share_of_bound <= 1
        assert sum(phase.cycles for phase in position.phases) == result.cycles
        assert sum(phase.macs for phase in position.phases) == result.macs
        assert sum(phase.bound_cycles for phase in position.phases) <= result.cycles


def test_a_long_prompt_is_on_the_matrix_side_of_the_ridge():
    _, position = place(Schedule.uniform(3), prompt=2000)
    assert [phase.side for phase in position.phases] == ["matrix", "memory"]


def test_the_analytic_mode_lies_on_the_roof_and_has_no_bound():
    _, position = place(Schedule.uniform(3), mode="pmpd-analytic")
    (decode,) = position.phases
    assert decode.share_of_roof == pytest.approx(1, abs=1e-6)
    assert decode.share_of_bound is None


def test_a_prefill_alone_has_no_speed_per_bandwidth():
    _, position = place(Schedule.uniform(3), steps=0)
    assert position.tokens_per_s_per_gb_per_s is None
    assert [phase.phase for phase in position.phases] == ["prefill"]


def test_the_json_form_names_phases():
    numbers = place(Schedule.uniform(3))[1].to_json_dict()
    assert list(numbers["phases"]) == ["prefill", "decode"]
    assert "phase" not in numbers["phases"]["decode"]
