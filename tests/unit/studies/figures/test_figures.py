"""Figures from real results: what is drawn is what the result says."""

import pandas as pd
import pytest

import hwsim
from hwsim.trace import InputError, Schedule, synthetic_trace
from studies.common.style import save_figure
from studies.figures.bandwidth_budget import bandwidth_budget
from studies.figures.iso_throughput import iso_throughput
from studies.figures.roofline import operation_points, roofline
from studies.figures.stall_breakdown import PARTS, stall_breakdown, stall_shares
from studies.figures.step_latency import step_latency
from studies.figures.timeline_strip import COLOURS, block_window, kind_of, timeline_strip

SHAPE = hwsim.load_shape("phi-1.5")
NPU = hwsim.load_npu("pmpd-4k")
TRACE = synthetic_trace(SHAPE, Schedule.from_pairs(4, [(0, 4), (3, 2)]), prompt_tokens=40, decode_tokens=6)


@pytest.fixture(scope="module")
def result():
    return hwsim.simulate(NPU, SHAPE, TRACE)


@pytest.fixture(scope="module")
def fast():
    return hwsim.simulate(NPU, SHAPE, TRACE, hwsim.SimulationOptions(engine="fast"))


@pytest.fixture(scope="module")
def profile():
    return hwsim.profile_step(NPU, SHAPE, TRACE.header, weight_bits=4, cached_tokens=40)


def test_latency_shows_every_step_in_milliseconds_and_marks_the_switch(result):
    axes = step_latency(result, NPU.clock_hz).axes[0]
    drawn = {}
    for line in axes.lines[:2]:
        drawn[line.get_label()] = [value for value in line.get_ydata() if not pd.isna(value)]
    cycles = result.columns.cycles[1:]
    assert drawn == {
        "4 bit": pytest.approx(cycles[:3] / NPU.clock_hz * 1e3),
        "2 bit": pytest.approx(cycles[3:] / NPU.clock_hz * 1e3),
    }
    assert [text.get_text() for text in axes.texts] == ["4 → 2 bit, step 3"]


def test_a_prefill_alone_has_no_latency_figure():
    trace = synthetic_trace(SHAPE, Schedule.uniform(4), prompt_tokens=8, decode_tokens=0)
    with pytest.raises(ValueError, match="no decode step"):
        step_latency(hwsim.simulate(NPU, SHAPE, trace), NPU.clock_hz)


def test_stall_shares_fill_every_unit_in_every_phase_and_width(result):
    shares = stall_shares(result)
    assert list(zip(shares["phase"], shares["weight_bits"], strict=True))[::3] == [
        ("prefill", 4),
        ("decode", 4),
        ("decode", 2),
    ]
    assert shares[list(PARTS)].sum(axis=1).tolist() == pytest.approx([1] * len(shares))
    assert (shares[list(PARTS)] >= 0).all(axis=None)
    assert len(stall_breakdown(result).axes) == 3


def test_the_fast_engine_has_no_stall_breakdown(fast):
    with pytest.raises(InputError, match="engine = 'fast': knows no reasons"):
        stall_breakdown(fast)


def test_no_operation_lies_above_the_roof(result, fast):
    # Two balanced units, where loads of an operation run during the one before.
    u280 = hwsim.load_npu("flightllm-u280")
    for npu, one in ((NPU, result), (NPU, fast), (u280, hwsim.simulate(u280, SHAPE, TRACE))):
        position = hwsim.roofline_position(npu, SHAPE, TRACE, one)
        points = list(operation_points(one, position.clock_hz))
        assert {name for _, name, _, _ in points} >= {"q_proj", "up_proj", "lm_head"}
        for _, _, intensity, speed in points:
            assert speed <= min(position.peak_macs_per_s, intensity * position.peak_bytes_per_s) * 1.001
        (axes,) = roofline(one, position).axes
        assert axes.get_xscale() == axes.get_yscale() == "log"


def test_the_strip_covers_one_block_and_colours_what_it_holds(profile):
    low, high = block_window(profile)
    assert 0 < low < high < profile.cycles
    kinds = {kind_of(stage) for stage, layer in zip(profile.stages, profile.layers, strict=True) if layer == 1}
    assert kinds <= COLOURS.keys()
    assert kinds >= {"linear layers", "attention", "KV append", "sync"}
    figure = timeline_strip(profile, NPU.clock_hz)
    upper, lower = figure.axes
    assert upper.get_xlim() == pytest.approx((low / 1e3, high / 1e3))  # 1 GHz: 1000 cycles a microsecond
    assert upper.get_xlim()[0] <= lower.get_xlim()[0] < lower.get_xlim()[1] <= upper.get_xlim()[1]
    assert [label.get_text() for label in upper.get_yticklabels()] == ["memory", "matrix", "SFU", "control"]


def test_every_stage_of_a_prefill_with_spills_has_a_colour():
    npu = hwsim.load_npu("pmpd-4k", {"buffers.activation_kib": 1024})
    profile = hwsim.profile_step(npu, SHAPE, TRACE.header, weight_bits=4, prompt_tokens=300)
    kinds = {stage.name: kind_of(stage) for stage in profile.stages}
    assert kinds["up_proj.spill"] == kinds["embedding"] == "activations, embedding"
    assert set(kinds.values()) <= COLOURS.keys()


def test_a_width_out_of_reach_breaks_its_line():
    rows = [
        {"mean_decode_bits": bits, "bandwidth_bytes_per_s": value}
        for bits, value in ((2, 1e10), (8, float("nan")), (16, 9e10))
    ]
    table = pd.DataFrame(rows).assign(model="m", prompt_tokens=8, kind="uniform", target_tokens_per_s=5.0)
    figure = bandwidth_budget(table)
    assert pd.isna(figure.axes[0].lines[0].get_ydata()).tolist() == [False, True, False]


def test_the_map_draws_the_bounds_it_contains_and_files_are_equal_on_each_run(tmp_path):
    grid = pd.DataFrame(
        [
            {
                "macs": macs,
                "bandwidth_bytes_per_s": bandwidth,
                "decode_tokens_per_s": min(bandwidth / 1e9, macs / 8),
                "decode_elasticity": float(bandwidth / 1e9 < macs / 8),
                "prefill_elasticity": 0.0,
            }
            for macs in (64, 128, 256, 512)
            for bandwidth in (4e9, 8e9, 16e9, 32e9, 64e9)
        ]
    )
    files = []
    for name in ("a", "b"):
        figure = iso_throughput(grid, title="t")
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert labels == ["equal decoding speed (tokens/s)", "decode: memory-bound on the left"]
        (path,) = save_figure(figure, tmp_path / name, ["svg"], column=True)
        files.append(path.read_bytes())
    assert files[0] == files[1]
