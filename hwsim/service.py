"""How long each instruction keeps its unit busy, in cycles; both engines use these numbers."""

from __future__ import annotations

from dataclasses import dataclass

from hwsim.config import Matrix, NpuConfig, Sfu
from hwsim.dram import Dram, build_dram
from hwsim.trace import FULL_PRECISION_BITS
from hwsim.units import Amount, ceil_div, minimum


def _array_cycles(array: tuple[int, int, int], n: Amount, k: Amount, m: int) -> Amount:
    return ceil_div(n, array[0]) * ceil_div(k, array[1]) * ceil_div(m, array[2])


@dataclass(frozen=True, slots=True)
class MatrixUnit:
    """The MPE hierarchy: every dimension in whole array widths, in the better of the two arrangements."""

    matrix: Matrix

    def cycles(self, n: Amount, k: Amount, m: int) -> Amount:
        """Cycles of ``[m, k] x [k, n]`` with operands that fit one MAC."""
        return minimum(_array_cycles(self.matrix.mm, n, k, m), _array_cycles(self.matrix.mv, n, k, m))

    def opcode(self, n: int, k: int, m: int) -> str:
        """MV for one token or where that arrangement is the faster one, else MM."""
        slower = _array_cycles(self.matrix.mv, n, k, m) >= _array_cycles(self.matrix.mm, n, k, m)
        return "MM" if m > 1 and slower else "MV"

    def passes(self, activation_bits: int, operand_bits: int) -> int:
        """Passes over the array: an operand wider than a MAC's is split."""
        mac_bits = self.matrix.activation_bits
        return ceil_div(activation_bits, mac_bits) * ceil_div(operand_bits, mac_bits)

    def weight_operand_bits(self, weight_bits: int) -> int:
        """Width at which a weight enters the MACs: codebook entries are rounded to the MAC's width."""
        return FULL_PRECISION_BITS if weight_bits > 8 else self.matrix.activation_bits

    def lookup_cycles(self, weights: int, weight_bits: int) -> int:
        """Cycles to turn nested weights into codebook entries, once per tile whatever the tokens."""
        return ceil_div(weights, self.matrix.lookups_per_cycle[weight_bits])


@dataclass(frozen=True, slots=True)
class Services:
    """Service times of all units of one NPU."""

    matrix: MatrixUnit
    sfu: Sfu
    dram: Dram
    issue_cycles: int
    sync_cycles: int

    def sfu_cycles(self, function: str, elements: Amount) -> Amount:
        """Cycles of one SFU instruction."""
        return self.sfu.functions[function].passes * ceil_div(elements, self.sfu.lanes) + self.issue_cycles

    def sfu_latency(self, function: str | None) -> int:
        """Cycles from the last element in to the last element out."""
        return 0 if function is None else self.sfu.functions[function].latency_cycles


def build_services(npu: NpuConfig) -> Services:
    """Derive all service times of ``npu``."""
    return Services(
        matrix=MatrixUnit(npu.matrix),
        sfu=npu.sfu,
        dram=build_dram(npu.memory, npu.clock_hz),
        issue_cycles=npu.control.issue_cycles,
        sync_cycles=npu.control.sync_cycles,
    )
