from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsim.config import DramTechnology
from hwsim.cost import DRAM_PJ_PER_BIT, NODES, area_mm2, energy_j, static_power_w
from hwsim.load import load_npu
from hwsim.program import Work


def test_node_constants_are_those_of_the_cited_table():
    # energy_area.csv: int8 MAC 0.0146 pJ and 23.5 um2 at 7 nm, 0.0288 pJ and 39.8 um2 at 14 nm (1/8 rule).
    assert NODES["7nm"].mac_pj == pytest.approx(0.0146, rel=5e-3)
    assert NODES["7nm"].mac_um2 == pytest.approx(23.5, rel=5e-3)
    assert NODES["14nm"].mac_pj == pytest.approx(0.0288, rel=5e-3)
    assert NODES["14nm"].mac_um2 == pytest.approx(39.8, rel=5e-3)
    assert NODES["45nm"].mac_pj == pytest.approx(0.23)


def test_a_byte_from_lpddr4_costs_112_pj():
    npu = load_npu("pmpd-4k")
    energy = energy_j(npu, Work(weight_bytes=10**12), seconds=0.0)
    assert energy["dram"] == pytest.approx(112.0)
    assert sum(energy.values()) == pytest.approx(112.0)
    assert DRAM_PJ_PER_BIT["lpddr4"] == 14.0


def test_static_energy_is_power_density_times_area_times_time():
    npu = load_npu("pmpd-4k")
    energy = energy_j(npu, Work(), seconds=2.0)
    assert energy["static"] == pytest.approx(2.0 * 0.05 * sum(area_mm2(npu).values()))


@pytest.mark.parametrize(
    ("path", "value", "component"),
    [
        ("matrix.macs", 8192, "matrix"),
        ("sfu.lanes", 32, "sfu"),
        ("buffers.weight_kib", 2048, "sram"),
        ("memory.bandwidth_bytes_per_s", 64e9, "dram_phy"),
        ("matrix.activation_bits", 16, "matrix"),
    ],
)
def test_more_of_anything_takes_more_area(path, value, component):
    assert area_mm2(load_npu("pmpd-4k", {path: value}))[component] > area_mm2(load_npu("pmpd-4k"))[component]


def test_supporting_fewer_widths_saves_area_and_none_needs_no_tables():
    def lookup(widths):
        return area_mm2(load_npu("pmpd-4k", {"matrix.weight_widths": widths}))["codebook_lookup"]

    assert lookup([16]) == 0
    assert 0 < lookup([2]) < lookup([2, 3]) < lookup([2, 3, 4]) < lookup([2, 3, 4, 8, 16])


WIDTHS = st.sets(st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 16]), min_size=1)


@given(WIDTHS, st.data(), st.lists(st.integers(1, 1 << 16), min_size=8, max_size=8), st.booleans())
def test_a_subset_of_the_widths_never_takes_more_area(widths, data, rates, bit_serial):
    fewer = data.draw(st.sets(st.sampled_from(sorted(widths)), min_size=1))
    lookups = {"matrix.lookups_per_cycle": dict(enumerate(rates, start=1)), "matrix.bit_serial": bit_serial}

    def area(supported):
        npu = load_npu("pmpd-4k", {**lookups, "matrix.weight_widths": sorted(supported)})
        return sum(area_mm2(npu).values()), static_power_w(npu)

    for less, more in zip(area(fewer), area(widths), strict=True):
        assert less <= more


def test_every_memory_technology_has_its_energy():
    assert set(DRAM_PJ_PER_BIT) == set(get_args(DramTechnology))
    for technology, pj_per_bit in DRAM_PJ_PER_BIT.items():
        npu = load_npu("pmpd-4k", {"cost.dram": technology})
        assert energy_j(npu, Work(weight_bytes=10**12), 0.0)["dram"] == pytest.approx(8 * pj_per_bit)
    # HBM2E and HBM3E as SK hynix gives them; the VHK158 has HBM2E.
    assert (DRAM_PJ_PER_BIT["hbm2e"], DRAM_PJ_PER_BIT["hbm3e"]) == (4.3, 3.44)
    assert load_npu("flightllm-vhk158").cost.dram == "hbm2e"


def test_energy_adds_up_by_component_and_work():
    npu = load_npu("pmpd-4k")
    first, second = Work(mac_ops=7, sfu_ops=3, sram_bytes=5), Work(lookup_bits=9, kv_read_bytes=11)
    whole = energy_j(npu, first + second, 0.0)
    parts = energy_j(npu, first, 0.0), energy_j(npu, second, 0.0)
    for name, value in whole.items():
        assert value == pytest.approx(parts[0][name] + parts[1][name])
