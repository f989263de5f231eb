import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hwsim
from hwsim.trace import InputError, Schedule
from studies.bandwidth_budget.schedules import PAPER_STATIC, paper_schedules
from studies.bandwidth_budget.search import (
    SCALINGS,
    Workload,
    decode_rate,
    decode_rate_by_events,
    least_bandwidth,
    limiting_unit,
    most_bandwidth,
    with_bandwidth,
)

NPU = hwsim.load_npu("pmpd-4k")
SHAPE = hwsim.load_shape("phi-1.5")


def work(label, steps=4, prompt=16):
    return Workload(SHAPE, Schedule.from_label(label), prompt, steps)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(("label", "target"), [("3", 7.5), ("p4:4>3@2", 40), ("16", 30)])
def test_the_answer_meets_the_target_in_both_engines_and_one_percent_less_misses_it(scaling, label, target):
    answer = least_bandwidth(NPU, work(label), target, scaling)
    chosen = with_bandwidth(NPU, answer.bandwidth_bytes_per_s, scaling)
    below = with_bandwidth(NPU, 0.99 * answer.bandwidth_bytes_per_s, scaling)
    assert answer.tokens_per_s == decode_rate(chosen, work(label)) == decode_rate_by_events(chosen, work(label))
    assert decode_rate_by_events(below, work(label)) < target <= answer.tokens_per_s
    assert answer.channels == chosen.memory.channels


def test_no_answer_is_below_the_bytes_that_must_move():
    answer = least_bandwidth(NPU, work("4"), 20)
    assert answer.bandwidth_bytes_per_s > 20 * SHAPE.linear_weights() * 4 / 8


def test_far_beyond_the_speed_grade_faster_pins_need_more_bandwidth_than_more_channels():
    by_channels, by_rate = (least_bandwidth(NPU, work("4"), 200, scaling) for scaling in SCALINGS)
    assert by_rate.bandwidth_bytes_per_s > by_channels.bandwidth_bytes_per_s
    assert by_rate.channels == NPU.memory.channels < by_channels.channels


@given(gigabytes=st.floats(0.01, 4000))
@settings(max_examples=100, deadline=None)
def test_channels_never_run_beyond_their_speed_grade(gigabytes):
    memory = with_bandwidth(NPU, gigabytes * 1e9, "channels").memory
    grade = NPU.memory.bandwidth_bytes_per_s / NPU.memory.channels
    assert memory.bandwidth_bytes_per_s == gigabytes * 1e9
    assert memory.bandwidth_bytes_per_s / memory.channels <= grade * (1 + 1e-12)
    assert memory.bandwidth_bytes_per_s > (memory.channels - 1) * grade * (1 - 1e-12)


def test_the_npus_own_bandwidth_is_the_npu_itself():
    for scaling in SCALINGS:
        assert with_bandwidth(NPU, NPU.memory.bandwidth_bytes_per_s, scaling) == NPU


def test_the_most_bandwidth_is_one_the_contract_accepts():
    for name in hwsim.NPU_NAMES:
        npu = hwsim.load_npu(name)
        for scaling in SCALINGS:
            widest = with_bandwidth(npu, most_bandwidth(npu, scaling), scaling)
            hwsim.NpuConfig.model_validate(widest.model_dump())


def test_out_of_reach_names_what_is_in_the_way():
    slow = {"matrix.lookups_per_cycle.8": 64}
    assert least_bandwidth(hwsim.load_npu("pmpd-4k", slow), work("8"), 200).limited_by == "codebook lookups"
    few = hwsim.load_npu("pmpd-4k", {"matrix.macs": 64, "matrix.lookups_per_cycle.8": 4096})
    answer = least_bandwidth(few, work("8"), 1000)
    assert (answer.bandwidth_bytes_per_s, answer.limited_by) == (None, "MACs")
    assert least_bandwidth(NPU, work("16"), 1e6, "rate").limited_by == "memory"
    one_lane = hwsim.load_npu("pmpd-4k", {"sfu.lanes": 1})
    assert limiting_unit(with_bandwidth(one_lane, 4e12, "channels"), work("2")) == "SFU lanes"


@pytest.mark.parametrize("target", [0, -1, float("nan")])
def test_a_target_that_is_no_speed_is_refused(target):
    with pytest.raises(InputError, match="must be > 0"):
        least_bandwidth(NPU, work("4"), target)


def test_a_target_met_by_any_bandwidth_is_refused():
    with pytest.raises(InputError, match="are enough; ask for more"):
        least_bandwidth(NPU, work("4"), 1e-6)


def test_the_papers_schedules_come_within_half_a_candidate_step_of_its_mean_bits():
    for model, by_task in PAPER_STATIC.items():
        means = [schedule.mean_bits(255) for schedule in paper_schedules(model, 255)]
        for mean_bits in by_task.values():
            assert min(abs(mean - mean_bits) for mean in means) < 1 / 6
        assert hwsim.load_shape(model)
    assert paper_schedules("my-model", 255) == []
