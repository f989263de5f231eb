from __future__ import annotations

import pytest

from hwsim.load import load_npu
from hwsim.roofline import roofline_cycles
from hwsim.service import build_services, systolic_cycles
from hwsim.shapes import load_shape
from hwsim.simulation import SimulationOptions, simulate
from hwsim.trace import Schedule, synthetic_trace


@pytest.fixture(scope="module")
def services():
    return build_services(load_npu("pmpd-4k"))


@pytest.mark.parametrize(
    ("n", "k", "m", "cycles", "opcode"),
    [
        (64, 64, 1, 1, "MV"),
        (65, 64, 1, 2, "MV"),
        (4096, 4096, 1, 64 * 64, "MV"),
        (1, 1, 1, 1, "MV"),
        (2, 16, 128, 1, "MM"),
        (4096, 4096, 128, 2048 * 256, "MM"),
        (4096, 4096, 129, 129 * 64 * 64, "MV"),
        (4096, 4096, 2, 2 * 64 * 64, "MV"),
    ],
)
def test_a_product_takes_every_dimension_in_whole_array_widths(services, n, k, m, cycles, opcode):
    assert services.matrix.cycles(n, k, m) == cycles
    assert services.matrix.opcode(n, k, m) == opcode


def test_operands_wider_than_a_mac_take_several_passes(services):
    assert services.matrix.passes(8, 8) == 1
    assert services.matrix.passes(8, 16) == 2
    assert services.matrix.passes(16, 16) == 4
    assert services.matrix.passes(4, 4) == 1
    assert services.matrix.weight_passes(8, 3) == 1
    assert services.matrix.weight_passes(8, 16) == 2


def test_the_sfu_takes_passes_times_elements_over_lanes(services):
    issue = 1
    assert services.sfu_cycles("softmax", 33) == 2 * 3 + issue
    assert services.sfu_cycles("residual", 16) == 1 + issue
    assert services.sfu_latency("norm") == 32
    assert services.sfu_latency(None) == 0


def test_lookups_follow_their_rate(services):
    assert services.matrix.lookup_cycles(4096, 4) == 1
    assert services.matrix.lookup_cycles(4097, 8) == 17


def test_heads_are_shared_out_among_cores_each_with_its_share_of_the_rows():
    one, four = (
        build_services(load_npu("pmpd-16k", {"matrix.cores": cores})).matrix.head_cycles(32, 32, 128, 1)
        for cores in (1, 4)
    )
    # 32 keys fill a quarter of 128 rows, but all 32 rows of one core of four.
    assert (one, four) == (32, 8)


def test_tiles_of_a_layer_pay_its_edges_once(services):
    # 100 x 64 on a 64 x 64 array takes 2 cycles; each of four tiles of 25 rows half a cycle, rounded up.
    assert services.tile_cycles(25, 100, 64, 2, []) == 1 + 1
    assert services.tile_cycles(100, 100, 64, 2, []) == 2 + 1
    # 8-bit lookups: 25 x 64 weights at 256 a cycle; 4-bit ones for another width at 4096 a cycle come on top.
    assert services.tile_cycles(25, 100, 64, 2, [8]) == 7 + 1
    assert services.tile_cycles(25, 100, 64, 2, [4, 8]) == 1 + 7 + 1


@pytest.mark.parametrize(
    ("array", "dataflow", "scalesim"),
    [((128, 1, 128), "output-stationary", 12_255), ((128, 128, 1), "weight-stationary", 14_303)],
)
def test_systolic_arrays_take_the_cycles_scale_sim_counts_from_zero(array, dataflow, scalesim):
    assert systolic_cycles(array, dataflow, 512, 512, 512) == scalesim


# Total cycles of scalesim 3.0.0 (PyPI) in its CALC bandwidth mode, without its memory stalls: array rows and
# columns, then M x N x K of random products.
SCALE_SIM = {
    "output-stationary": (
        (32, 4, 75, 38, 136, 5099),
        (16, 4, 39, 9, 146, 1475),
        (16, 4, 66, 110, 2, 2799),
        (8, 8, 106, 148, 75, 23673),
        (16, 4, 62, 82, 113, 11003),
        (32, 32, 140, 21, 118, 899),
        (32, 4, 31, 43, 34, 747),
        (8, 4, 67, 25, 128, 8693),
        (32, 32, 25, 25, 102, 163),
        (16, 16, 150, 90, 134, 9839),
        (16, 4, 122, 24, 124, 6815),
        (16, 4, 76, 50, 120, 8969),
        (32, 4, 94, 137, 24, 6089),
        (8, 32, 31, 57, 11, 391),
        (32, 8, 34, 146, 138, 6687),
        (8, 4, 22, 130, 24, 3365),
        (4, 16, 115, 59, 147, 19139),
        (16, 16, 141, 147, 55, 7649),
        (8, 4, 121, 103, 39, 20383),
        (4, 32, 3, 96, 86, 359),
    ),
    "weight-stationary": (
        (32, 16, 86, 130, 55, 2951),
        (8, 32, 27, 97, 133, 4963),
        (32, 16, 85, 64, 60, 1303),
        (32, 4, 54, 137, 66, 12599),
        (8, 4, 59, 45, 14, 1847),
        (32, 4, 26, 43, 16, 1011),
        (4, 4, 66, 113, 110, 61711),
        (32, 16, 39, 40, 132, 1754),
        (4, 32, 111, 26, 111, 4171),
        (8, 16, 50, 86, 126, 7679),
        (4, 4, 55, 33, 51, 7604),
        (4, 4, 26, 12, 97, 2699),
        (16, 16, 67, 89, 130, 6101),
        (32, 16, 60, 108, 21, 965),
        (16, 32, 66, 39, 86, 1535),
        (8, 16, 138, 44, 147, 9575),
        (8, 16, 123, 1, 50, 1070),
        (16, 4, 75, 105, 29, 5885),
        (32, 16, 18, 67, 108, 1919),
        (16, 4, 87, 20, 112, 4234),
    ),
}


@pytest.mark.parametrize("dataflow", SCALE_SIM)
def test_systolic_cycles_equal_scale_sim_on_twenty_random_products(dataflow):
    for rows, columns, m, n, k, counted in SCALE_SIM[dataflow]:
        array = (columns, 1, rows) if dataflow == "output-stationary" else (columns, rows, 1)
        assert systolic_cycles(array, dataflow, n, k, m) == counted


def test_a_systolic_array_simulates_and_obeys_its_bound():
    shape = load_shape("mobilellama-1.4b")
    trace = synthetic_trace(shape, Schedule.uniform(4), prompt_tokens=30, decode_tokens=2)
    for dataflow, array in (("weight-stationary", [64, 64, 1]), ("output-stationary", [64, 1, 64])):
        changes = {"matrix.kind": "systolic", "matrix.dataflow": dataflow, "matrix.mm": array, "matrix.mv": array}
        npu = load_npu("pmpd-4k", changes)
        fast, events = (simulate(npu, shape, trace, SimulationOptions(engine=engine)) for engine in ("fast", "events"))
        assert npu.matrix.macs == 4096
        assert fast.cycles == events.cycles >= roofline_cycles(npu, shape, trace)
