from __future__ import annotations

import pytest

from hwsim.load import load_npu
from hwsim.service import build_services


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
