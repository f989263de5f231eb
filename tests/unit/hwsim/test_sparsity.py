"""N:M sparsity: what is stored, read, selected and multiplied of a sparse linear layer, and nothing else."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsim.checks import check_fit, step_precision
from hwsim.cost import NODES, area_mm2, energy_j
from hwsim.load import load_npu
from hwsim.lowering import build_lowering
from hwsim.program import Work
from hwsim.roofline import roofline_cycles
from hwsim.shapes import load_shape
from hwsim.simulation import SimulationOptions, simulate
from hwsim.trace import InputError, Schedule, synthetic_trace
from hwsim.workload import Linear, Use, decode_step, stored_model_bytes

FLIGHTLLM = {"matrix.sparsity": {"group": 16, "index_bits": 4, "density": {"q_proj": 0.7, "k_proj": 0.7}}}
SHAPE = load_shape("mobilellama-1.4b")


def _linear(k, *uses, density=Fraction(7, 10), nested=True):
    used = tuple(Use(*use) for use in uses)
    return Linear("q_proj", 10, k, used, nested, "weights", True, density=density, index_bits=4)


def _stage(overrides, name, bits=4):
    npu = load_npu("pmpd-4k", overrides)
    header = synthetic_trace(SHAPE, Schedule.uniform(bits), prompt_tokens=1, decode_tokens=1).header
    precision = step_precision(npu, header, bits)
    program = build_lowering(npu, precision, SHAPE.hidden_size).program(decode_step(SHAPE, precision, 99))
    return next(stage for stage in program.runs[0].block if stage.name == name)


def test_planes_and_indices_hold_the_stored_weights_only():
    linear = _linear(4096, (3, 1))
    assert linear.nonzeros == ceil(2867.2)
    assert linear.row_bytes == 3 * 4 * ceil(2868 / 32)
    assert linear.index_row_bytes == 2868 * 4 // 8
    assert linear.macs == 10 * 2868


def test_unquantised_weights_are_as_sparse_and_all_widths_share_the_indices():
    linear = _linear(100, (2, 1), (16, 5))
    assert linear.row_bytes == 2 * 4 * ceil(70 / 32) + 2 * 70
    assert linear.index_row_bytes == 35
    assert linear.macs == 10 * 70 * 6


def test_a_dense_layer_has_no_indices_on_sparse_hardware():
    dense = _linear(4096, (3, 1), density=Fraction(1))
    assert (dense.nonzeros, dense.index_row_bytes) == (4096, 0)
    whole = {"matrix.sparsity": {"density": {"q_proj": 1.0}}}
    assert _stage(whole, "q_proj") == _stage({}, "q_proj")
    assert _stage(FLIGHTLLM, "v_proj") == _stage({}, "v_proj")


def test_a_sparse_layer_takes_its_density_of_bytes_and_products():
    half = {"matrix.sparsity": {"density": {"q_proj": 0.5}}}
    dense, sparse = _stage({}, "q_proj").work, _stage(half, "q_proj").work
    assert sparse.weight_bytes * 2 == dense.weight_bytes
    assert sparse.macs * 2 == dense.macs
    assert sparse.lookup_bits * 2 == dense.lookup_bits
    assert sparse.sparse_index_bytes == 2048 * 1024 // 2
    assert (dense.sparse_index_bytes, dense.sparse_mac_ops) == (0, 0)
    assert sparse.sparse_mac_ops == sparse.mac_ops
    # Codebooks are the rows', whatever they hold.
    assert sparse.codebook_bytes == dense.codebook_bytes
    # 32 of 64 columns of the 64 x 64 array's k dimension: half of the cycles, edges divide evenly.
    assert sparse.matrix_busy_cycles < dense.matrix_busy_cycles


def test_indices_share_the_weight_buffer_with_the_planes():
    # A dense row of 2 bits is 512 bytes; a row at 15/16 density 480 bytes and 960 of indices.
    almost = {"matrix.sparsity": {"density": {"q_proj": 0.9375}}, "buffers.codebook_kib": 4096}
    dense = _stage({"buffers.codebook_kib": 4096}, "q_proj", bits=2)
    assert dense.timing.tiles == 2048 * 512 // (512 * 1024)
    assert _stage(almost, "q_proj", bits=2).timing.tiles == ceil(2048 / ((512 * 1024) // 1440))


@given(st.floats(0.125, 1), st.floats(0.125, 1), st.integers(2, 8))
def test_a_sparser_layer_never_stores_more(density, other, bits):
    def stored(share):
        npu = load_npu("pmpd-4k", {"matrix.sparsity": {"density": {"down_proj": share, "q_proj": 0.7}}})
        header = synthetic_trace(SHAPE, Schedule.uniform(4), prompt_tokens=1, decode_tokens=1).header
        return stored_model_bytes(SHAPE, {bits, 16}, step_precision(npu, header, bits))

    sparse, dense = sorted((density, other))
    if dense < 1:  # a layer that is dense needs no indices
        assert stored(sparse) <= stored(dense)


def test_capacity_follows_the_stored_weights():
    shape = load_shape("vicuna-7b")
    header = synthetic_trace(shape, Schedule.uniform(16), prompt_tokens=1, decode_tokens=1).header
    small = {"memory.capacity_bytes": 10 * 10**9}
    with pytest.raises(InputError, match="memory.capacity_bytes = 10000000000"):
        check_fit(load_npu("pmpd-4k", small), shape, header, {16}, 2)
    density = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), 0.5)
    check_fit(load_npu("pmpd-4k", {**small, "matrix.sparsity": {"density": density}}), shape, header, {16}, 2)


def test_a_sparse_model_simulates_faster_and_above_its_roofline():
    trace = synthetic_trace(SHAPE, Schedule.uniform(4), prompt_tokens=40, decode_tokens=3)
    density = dict.fromkeys(("gate_proj", "up_proj", "down_proj"), 0.25)
    npu = load_npu("pmpd-4k", {"matrix.sparsity": {"density": density}})
    dense = simulate(load_npu("pmpd-4k"), SHAPE, trace, SimulationOptions(engine="fast"))
    fast, events = (simulate(npu, SHAPE, trace, SimulationOptions(engine=engine)) for engine in ("fast", "events"))
    assert roofline_cycles(npu, SHAPE, trace) <= fast.cycles == events.cycles < dense.cycles
    nonzeros = 24 * 2048 * 5632 * 3 // 4
    assert fast.bytes_by_kind["sparse_indices"] == (1 + 3) * nonzeros // 2
    assert dense.bytes_by_kind["sparse_indices"] == 0


def test_selectors_cost_area_and_each_selection_energy():
    npu, node = load_npu("pmpd-4k", FLIGHTLLM), NODES["7nm"]
    # A tree of 15 multiplexers for each of 8 bits and 4096 MACs, of which a selection switches 4 a bit.
    assert area_mm2(npu)["sparse_select"] == pytest.approx(4096 * 15 * 8 * node.mux_um2 / 1e6)
    assert energy_j(npu, Work(sparse_mac_ops=10**12), 0.0)["sparse_select"] == pytest.approx(4 * 8 * node.mux_pj)
    assert area_mm2(load_npu("pmpd-4k"))["sparse_select"] == 0


@pytest.mark.parametrize(
    ("sparsity", "parts"),
    [
        ({"density": {"q_porj": 0.5}}, ["density", "unknown linear layer 'q_porj'", "did you mean 'q_proj'?"]),
        ({"density": {"q_proj": 0.1}}, ["density.q_proj = 0.1", "0.125..1", "2 to 16 of 16"]),
        ({"density": {"q_proj": 1.5}}, ["density.q_proj = 1.5", "0.125..1"]),
        ({"density": {"q_proj": float("nan")}}, ["density.q_proj = nan", "finite"]),
        ({"group": 32, "density": {}}, ["index_bits = 4 names 16 positions of group = 32", "raise it to 5"]),
        ({"group": 2, "density": {}}, ["sparsity.group = 2", "greater than or equal to 4"]),
        ({"densities": {}}, ["densities"]),
        ({}, ["sparsity.density", "required"]),
    ],
)
def test_bad_sparsity_is_refused(sparsity, parts):
    with pytest.raises(InputError) as caught:
        load_npu("pmpd-4k", {"matrix.sparsity": sparsity})
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_systolic_array_cannot_skip_weights():
    array = {"matrix.kind": "systolic", "matrix.dataflow": "weight-stationary", "matrix.mm": [64, 64, 1]}
    with pytest.raises(InputError, match="sparsity with kind = 'systolic': only an MPE has it"):
        load_npu("pmpd-4k", {**FLIGHTLLM, **array, "matrix.mv": [64, 64, 1]})
