"""Energy and area: what a byte, a multiplication and a square millimetre cost, with node and source.

``quoted`` numbers come from the source named; ``computed`` ones from quoted numbers by the rule named; what is
neither says ``assumed`` with the reason. DRAM energy is per bit moved at the memory's own node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwsim.config import Buffers, Matrix, NpuConfig
from hwsim.program import Work
from hwsim.trace import FULL_PRECISION_BITS
from hwsim.units import KIB, Amount

if TYPE_CHECKING:
    from hwsim.npu_table import NpuTable

PJ_PER_J = 1e12
UM2_PER_MM2 = 1e6
INT8_BITS = 8  # width of the operators the constants are for
MB = 1e6


@dataclass(frozen=True, slots=True)
class Node:
    """Constants of one logic node.

    Attributes:
        mac_pj: One int8 multiply-accumulate.
        mac_um2: Its area.
        add_pj: One int8 addition.
        add_um2: Its area.
        fp16_op_pj: One fp16 SFU operation, a multiplication and an addition.
        fp16_lane_um2: One SFU lane.
        sram_pj_per_byte: Read or write of a buffer of tens to hundreds of KiB.
        sram_mm2_per_mb: Macro area per 1e6 bytes.
        mux_um2: A 2:1 multiplexer of one bit, of which codebook tables are made.
        mux_pj: One switch of it.
    """

    mac_pj: float
    mac_um2: float
    add_pj: float
    add_um2: float
    fp16_op_pj: float
    fp16_lane_um2: float
    sram_pj_per_byte: float
    sram_mm2_per_mb: float
    mux_um2: float
    mux_pj: float


# Horowitz, ISSCC 2014 (as transcribed in stillwater-sc/esim): 45 nm, int8 mult 0.2 pJ 282 um2, int8 add 0.03 pJ
# 36 um2, fp16 mult 1.1 pJ 1640 um2, fp16 add 0.4 pJ 1360 um2.
_MAC_45 = (0.2 + 0.03, 282.0 + 36.0)
_ADD_45 = (0.03, 36.0)
_FP16_45 = (1.1 + 0.4, 1640.0 + 1360.0)
# NeuroSim's factors in public code, 45 -> 7 nm: dynamic energy 0.06349, logic area 0.07386. 14 nm: 1/8 for both.
_ENERGY_7, _AREA_7, _14 = 0.06349, 0.07386, 1 / 8
# Assumed: a 2:1 multiplexer is about two NAND2 gates, 1.4 um2 and 0.5 fJ a switch at 45 nm; scaled like logic.
_MUX_45 = (0.0005, 1.4)

NODES: dict[str, Node] = {
    "45nm": Node(
        mac_pj=_MAC_45[0],
        mac_um2=_MAC_45[1],
        add_pj=_ADD_45[0],
        add_um2=_ADD_45[1],
        fp16_op_pj=_FP16_45[0],
        fp16_lane_um2=_FP16_45[1],
        sram_pj_per_byte=1.25,  # quoted: 8 KB SRAM, 10 pJ per 64 bits (PMC8934428 Table 3)
        sram_mm2_per_mb=0.0555835 / 0.008192 * (45 / 28) ** 2,  # computed: CACTI 8192 B at 28 nm, scaled by area
        mux_um2=_MUX_45[1],
        mux_pj=_MUX_45[0],
    ),
    "14nm": Node(
        mac_pj=_MAC_45[0] * _14,
        mac_um2=_MAC_45[1] * _14,
        add_pj=_ADD_45[0] * _14,
        add_um2=_ADD_45[1] * _14,
        fp16_op_pj=_FP16_45[0] * _14,
        fp16_lane_um2=_FP16_45[1] * _14,
        sram_pj_per_byte=0.3008 * 2,  # assumed: twice the 7 nm value
        sram_mm2_per_mb=29142 / UM2_PER_MM2 / (32 * KIB / MB),  # quoted at 12 nm: 32 KB macro (RPAccel), used here
        mux_um2=_MUX_45[1] * _14,
        mux_pj=_MUX_45[0] * _14,
    ),
    "7nm": Node(
        mac_pj=_MAC_45[0] * _ENERGY_7,
        mac_um2=_MAC_45[1] * _AREA_7,
        add_pj=_ADD_45[0] * _ENERGY_7,
        add_um2=_ADD_45[1] * _AREA_7,
        fp16_op_pj=_FP16_45[0] * _ENERGY_7,
        fp16_lane_um2=_FP16_45[1] * _AREA_7,
        sram_pj_per_byte=0.3008,  # quoted: 2 Mb bank (comment in public code)
        sram_mm2_per_mb=0.253,  # derived from quote: 0.0632 mm2 per 2 Mbit
        mux_um2=_MUX_45[1] * _AREA_7,
        mux_pj=_MUX_45[0] * _ENERGY_7,
    ),
}

DRAM_PJ_PER_BIT: dict[str, float] = {
    "lpddr3": 3.7,  # quoted: T-REX, ISSCC 2025, after ISSCC 2012
    "lpddr4": 14.0,  # quoted: Ha, Stanford thesis 2018 (simulated, single die package)
    "lpddr5x": 3.06,  # computed from Micron Y52P currents: read core only, no I/O
    "ddr4": 4.5,  # quoted: Vogelsang, MICRO 2010; device only
    "gddr5": 14.0,  # quoted: O'Connor et al., MICRO 2017
    "hbm2": 3.92,  # quoted: O'Connor et al., MICRO 2017
    "hbm2e": 4.3,  # quoted: SK hynix, IEDM 2023 15-6
    "hbm3e": 3.44,  # quoted: as hbm2e
}

PHY_MM2_PER_GB_PER_S = 0.05  # assumed: a 64-bit LPDDR4 PHY and controller of 1.6 mm2 at 32 GB/s, any node
CONTROL_SHARE = 0.05  # assumed: scheduler and interconnect as a share of the logic area
SFU_LANE_OPERATORS = 4  # assumed: exponential, division and rotation need several multiplier-adders a lane


def _array_um2(node: Node, matrix: Matrix) -> float:
    """Area of the MACs.

    A multiplier grows with the square of its width. A bit-serial MAC is an adder and one AND gate a bit, taken as a
    multiplexer each; both grow with the width. Each row of the array has a multiplier-adder for the coefficients,
    assumed enough for all tokens, because one is needed only once a plane has gone through the whole of K.
    """
    if not matrix.bit_serial:
        return matrix.macs * node.mac_um2 * (matrix.activation_bits / INT8_BITS) ** 2
    serial_um2 = node.add_um2 * matrix.activation_bits / INT8_BITS + node.mux_um2 * matrix.activation_bits
    return matrix.macs * serial_um2 + max(matrix.mm[0], matrix.mv[0]) * node.fp16_lane_um2


def _mac_op_pj(node: Node, matrix: Matrix) -> float:
    """Energy of one MAC in one pass; a bit-serial array's coefficients are K times rarer and left out."""
    if not matrix.bit_serial:
        return node.mac_pj * (matrix.activation_bits / INT8_BITS) ** 2
    return node.add_pj * matrix.activation_bits / INT8_BITS + node.mux_pj * matrix.activation_bits


def _lookup_multiplexers(matrix: Matrix) -> int:
    """Multiplexers for one bit of codebook entries."""
    nested = [bits for bits in matrix.weight_widths if bits != FULL_PRECISION_BITS]
    if matrix.bit_serial or not nested:
        return 0
    tree = max(matrix.lookups_per_cycle[bits] * ((1 << bits) - 1) for bits in nested)
    return tree + sum(matrix.lookups_per_cycle[bits] for bits in nested[1:])


def area_mm2(npu: NpuConfig) -> dict[str, float]:
    """Area by component in mm2.

    A codebook table of ``2**b`` entries is a tree of ``2**b - 1`` multiplexers a bit, as often as lookups run in
    one cycle. All widths share the tree of the most demanding one; each further width adds one multiplexer a
    bit, which selects its entries. So a width less never takes more area. N:M sparsity takes one multiplexer tree
    of M activations for each MAC (assumed: FlightLLM says no area).
    """
    node, matrix = NODES[npu.cost.node], npu.matrix
    select = 0 if matrix.sparsity is None else matrix.macs * (matrix.sparsity.group - 1) * matrix.activation_bits
    kibibytes = sum(getattr(npu.buffers, name) for name in Buffers.model_fields)
    bandwidth = npu.memory.bandwidth_bytes_per_s
    bandwidth += npu.second_memory.bandwidth_bytes_per_s if npu.second_memory else 0
    area = {
        "matrix": _array_um2(node, matrix) / UM2_PER_MM2,
        "codebook_lookup": _lookup_multiplexers(matrix) * matrix.codebook_entry_bits * node.mux_um2 / UM2_PER_MM2,
        "sparse_select": select * node.mux_um2 / UM2_PER_MM2,
        "sfu": npu.sfu.lanes * SFU_LANE_OPERATORS * node.fp16_lane_um2 / UM2_PER_MM2,
        "sram": kibibytes * KIB / MB * node.sram_mm2_per_mb,
        "dram_phy": bandwidth / 1e9 * PHY_MM2_PER_GB_PER_S,
    }
    logic = area["matrix"] + area["codebook_lookup"] + area["sparse_select"] + area["sfu"]
    return {**area, "control": CONTROL_SHARE * logic}


_AREA_FIELDS = {
    "matrix": ("matrix", "cost"),
    "codebook_lookup": ("matrix", "cost"),
    "sparse_select": ("matrix", "cost"),
    "sfu": ("sfu", "cost"),
    "sram": ("buffers", "cost"),
    "dram_phy": ("memory", "second_memory"),
}
"""Fields of an NPU that each component's area depends on."""


def total_areas_mm2(table: NpuTable) -> NDArray[np.float64]:
    """Area of many NPUs, ``[NPUs]``: for each the sum of :func:`area_mm2`."""
    area = {
        component: table.gather(lambda npu, component=component: area_mm2(npu)[component], *fields)  # type: ignore[misc]
        for component, fields in _AREA_FIELDS.items()
    }
    logic = area["matrix"] + area["codebook_lookup"] + area["sparse_select"] + area["sfu"]
    # In the order in which the components of one NPU are added up, so that the sums are equal and not only close.
    return np.asarray(sum([*area.values(), CONTROL_SHARE * logic]))


def static_power_w(npu: NpuConfig) -> float:
    """Power that flows whatever is done."""
    return npu.cost.static_w_per_mm2 * sum(area_mm2(npu).values())


def work_energy_j(npu: NpuConfig, work: Work) -> dict[str, Amount]:
    """Energy by component in joules of doing ``work``, however long it takes; arrays where ``work`` has them."""
    node, matrix, second = NODES[npu.cost.node], npu.matrix, npu.second_memory
    # One activation out of M switches the multiplexers on its path, for each of its bits.
    select_bits = 0 if matrix.sparsity is None else (matrix.sparsity.group - 1).bit_length() * matrix.activation_bits
    work_pj = {
        "dram": (work.dram_bytes - work.second_bytes) * 8 * DRAM_PJ_PER_BIT[npu.cost.dram],
        "second_dram": work.second_bytes * 8 * DRAM_PJ_PER_BIT[second.technology] if second else 0 * work.second_bytes,
        "matrix": work.mac_ops * _mac_op_pj(node, matrix),
        # Looking up one entry of 2**b switches the b multiplexers on its path, for each bit of the entry.
        "codebook_lookup": work.lookup_bits * matrix.codebook_entry_bits * node.mux_pj,
        "sparse_select": work.sparse_mac_ops * select_bits * node.mux_pj,
        "sfu": work.sfu_ops * node.fp16_op_pj,
        "sram": work.sram_bytes * node.sram_pj_per_byte,
    }
    return {name: value / PJ_PER_J for name, value in work_pj.items()}


def energy_j(npu: NpuConfig, work: Work, seconds: float) -> dict[str, float]:
    """Energy by component in joules of ``work`` done within ``seconds``."""
    parts = {name: float(value) for name, value in work_energy_j(npu, work).items()}
    return {**parts, "static": static_power_w(npu) * seconds}
