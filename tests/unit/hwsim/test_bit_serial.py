"""Bit-serial products: one pass per bit of the weights, coefficients instead of codebooks."""

from __future__ import annotations

import pytest

from hwsim.checks import step_precision
from hwsim.cost import NODES, area_mm2, energy_j
from hwsim.load import load_npu
from hwsim.lowering import build_lowering
from hwsim.precision import table_bytes
from hwsim.program import Work
from hwsim.roofline import roofline_cycles
from hwsim.service import build_services
from hwsim.shapes import load_shape
from hwsim.simulation import SimulationOptions, simulate
from hwsim.trace import InputError, Schedule, synthetic_trace
from hwsim.workload import decode_step, stored_model_bytes

SERIAL = {"matrix.bit_serial": True}
SHAPE = load_shape("mobilellama-1.4b")


def _stage(npu, name, bits):
    header = synthetic_trace(SHAPE, Schedule.uniform(bits), prompt_tokens=1, decode_tokens=1).header
    precision = step_precision(npu, header, bits)
    program = build_lowering(npu, precision, SHAPE.hidden_size).program(decode_step(SHAPE, precision, 99))
    return next(stage for stage in (*program.runs[0].block, *program.tail) if stage.name == name)


def test_a_product_takes_a_pass_for_each_bit_of_its_weights_keys_or_values():
    matrix = build_services(load_npu("pmpd-4k", SERIAL)).matrix
    assert [matrix.weight_passes(8, bits) for bits in (1, 2, 3, 8, 16)] == [1, 2, 3, 8, 16]
    assert matrix.weight_passes(16, 3) == 2 * 3
    assert [matrix.passes(8, kv_bits) for kv_bits in (4, 8, 16)] == [4, 8, 16]


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16])
def test_matrix_work_is_proportional_to_the_bits(bits):
    npu = load_npu("pmpd-4k", SERIAL)
    work = _stage(npu, "q_proj", bits).work
    assert work.mac_ops == 2048 * 2048 * bits
    # A 64 x 64 array takes 32 x 32 blocks a pass; one cycle more a tile to issue.
    assert work.matrix_busy_cycles == 32 * 32 * bits + _stage(npu, "q_proj", bits).timing.tiles
    assert work.lookup_bits == 0
    assert work.macs == 2048 * 2048


def test_lm_head_goes_bit_by_bit_too():
    assert _stage(load_npu("pmpd-4k", SERIAL), "lm_head", 3).work.mac_ops == 16 * 32000 * 2048


def test_a_row_has_a_coefficient_for_each_plane_and_an_offset():
    assert table_bytes(4, 16, binary_coded=False) == 16 * 2
    assert table_bytes(4, 16, binary_coded=True) == (4 + 1) * 2
    assert _stage(load_npu("pmpd-4k", SERIAL), "q_proj", 3).work.codebook_bytes == 2048 * 4 * 2
    assert _stage(load_npu("pmpd-4k"), "q_proj", 3).work.codebook_bytes == 2048 * 8 * 2
    precisions = [
        step_precision(
            load_npu("pmpd-4k", changes),
            synthetic_trace(SHAPE, Schedule.uniform(4), prompt_tokens=1, decode_tokens=1).header,
            4,
        )
        for changes in ({}, SERIAL)
    ]
    rows = 24 * (5 * 2048 + 2 * 5632)
    tables, coefficients = (stored_model_bytes(SHAPE, {4}, precision) for precision in precisions)
    assert tables - coefficients == rows * (16 - 5) * 2


def test_both_engines_agree_above_the_roofline():
    trace = synthetic_trace(SHAPE, Schedule.from_pairs(4, [(0, 3), (2, 2)]), prompt_tokens=33, decode_tokens=4)
    npu = load_npu("pmpd-4k", SERIAL)
    fast, events = (simulate(npu, SHAPE, trace, SimulationOptions(engine=engine)) for engine in ("fast", "events"))
    assert fast.cycles == events.cycles >= roofline_cycles(npu, SHAPE, trace)


def test_lookups_need_not_be_described_and_take_no_area():
    bare = load_npu("pmpd-4k", {**SERIAL, "matrix.lookups_per_cycle": {}})
    assert area_mm2(bare) == area_mm2(load_npu("pmpd-4k", SERIAL))
    assert area_mm2(bare)["codebook_lookup"] == 0
    with pytest.raises(InputError, match="lookups_per_cycle lacks 2 bits"):
        load_npu("pmpd-4k", {"matrix.lookups_per_cycle": {}})


def test_a_bit_serial_mac_is_an_adder_with_gates_and_its_rows_have_a_coefficient_multiplier():
    npu, node = load_npu("pmpd-4k", SERIAL), NODES["7nm"]
    macs_um2 = 4096 * (node.add_um2 + 8 * node.mux_um2)
    assert area_mm2(npu)["matrix"] == pytest.approx((macs_um2 + 64 * node.fp16_lane_um2) / 1e6)
    assert energy_j(npu, Work(mac_ops=10**12), 0.0)["matrix"] == pytest.approx(node.add_pj + 8 * node.mux_pj)
    # Cheaper per pass than a multiplier, dearer than it from 7 passes on: what the scheme lives by.
    multiplier = energy_j(load_npu("pmpd-4k"), Work(mac_ops=10**12), 0.0)["matrix"]
    serial = energy_j(npu, Work(mac_ops=10**12), 0.0)["matrix"]
    assert 6 * serial < multiplier < 7 * serial


def test_a_systolic_array_is_not_bit_serial():
    array = {"matrix.kind": "systolic", "matrix.dataflow": "weight-stationary", "matrix.mm": [64, 64, 1]}
    with pytest.raises(InputError, match="bit_serial with kind = 'systolic': only an MPE has it"):
        load_npu("pmpd-4k", {**SERIAL, **array, "matrix.mv": [64, 64, 1]})
