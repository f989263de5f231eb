"""``pmpd-analytic``: the idealised model behind the paper's Fig. 5.

A decode step reads the linear weights and an int8 KV cache at the peak bandwidth and does nothing else; a prefill
takes no time. Source: Chen et al., PMPD, arXiv:2410.13461, Section 5.3 and App. A.6; what is counted was found from
the labels of Fig. 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil

import numpy as np
from numpy.typing import NDArray

from hwsim.config import NpuConfig
from hwsim.execution import Execution, run_separable
from hwsim.npu_table import NpuTable
from hwsim.plan import DECODE, Plan, StepKind
from hwsim.program import Kind, Program, Ran, Stage, Timing, Work
from hwsim.stacked_steps import StepKey
from hwsim.trace import FULL_PRECISION_BITS, ModelShape
from hwsim.units import BITS_PER_BYTE, Amount, IntArray, bits_to_bytes, ceil_div
from hwsim.workload import kv_cache_bytes

KV_BITS = 8  # the paper's NPU keeps int8 keys and values


def _bus_cycles(npu: NpuConfig, sizes: Amount) -> IntArray:
    """Cycles of ``sizes`` bytes at the peak bandwidth, rounded up."""
    ratio = Fraction(npu.clock_hz) / Fraction(npu.memory.bandwidth_bytes_per_s)
    flat = np.atleast_1d(sizes)
    if int(flat.max()) * ratio.numerator <= np.iinfo(np.int64).max and ratio.denominator <= np.iinfo(np.int64).max:
        return np.asarray(ceil_div(flat * ratio.numerator, ratio.denominator))
    return np.array([ceil(size * ratio) for size in flat.tolist()], dtype=np.int64)


def _decode_work(
    npu: NpuConfig, shape: ModelShape, weight_bits: int, cached: Amount, *, codebooks: bool
) -> tuple[Work, Work]:
    """Work of decode steps, cycles aside: of the linear layers, and of reading the cache."""
    macs = shape.linear_weights()
    rows = shape.layers * sum(n for _, n, _ in shape.block_linears())
    read_tables = codebooks and weight_bits != FULL_PRECISION_BITS
    tables = rows * bits_to_bytes(npu.matrix.codebook_entry_bits << weight_bits) if read_tables else 0
    linears = Work(weight_bytes=macs * weight_bits // BITS_PER_BYTE, codebook_bytes=tables, macs=macs, mac_ops=macs)
    return linears, Work(kv_read_bytes=cached * kv_cache_bytes(shape, KV_BITS, 1))


@dataclass(frozen=True)
class AnalyticSteps:
    """Single steps of one model on many NPUs, codebooks left out; for :func:`hwsim.trace_grid.evaluate_traces`."""

    table: NpuTable
    shape: ModelShape

    @property
    def stacks(self) -> Sequence[NDArray[np.intp]]:
        """Rows of NPUs that do the same work: all."""
        return [np.arange(len(self.table))]

    def cycles(self, key: StepKey, tokens: IntArray, rows: NDArray[np.intp]) -> IntArray:
        """Cycles of steps, ``[rows, steps]``."""
        npus, inverse = self.table.take(rows).combinations("clock_hz", "memory")
        sizes = np.broadcast_to(self.work(key, tokens, 0).dram_bytes, tokens.shape)
        return np.array([_bus_cycles(npu, sizes) for npu in npus])[inverse]

    def work(self, key: StepKey, tokens: IntArray, row: int) -> Work:
        """Work of steps, cycles aside."""
        if key.phase != DECODE:
            return Work()
        linears, caches = _decode_work(self.table.npu(row), self.shape, key.weight_bits, tokens, codebooks=False)
        return linears + caches

    def monotone_from(self, key: StepKey, tokens: IntArray, row: int) -> NDArray[np.bool_]:
        """Which decode steps take no longer than any later one: all, since a longer cache is more to read."""
        return np.ones(len(tokens), dtype=bool)


def run_analytic(npu: NpuConfig, shape: ModelShape, plan: Plan, *, codebooks: bool) -> Execution:
    """Run ``plan`` by bytes over peak bandwidth.

    Args:
        npu: Gives clock and bandwidth.
        shape: The model.
        plan: Steps of sequences that run one after another.
        codebooks: Also count codebook traffic.
    """

    def lower(kind: StepKind, tokens: Amount) -> Program:
        if kind.phase != DECODE:
            return Program(head=(), runs=(), tail=())
        linears, caches = _decode_work(npu, shape, kind.weight_bits, tokens, codebooks=codebooks)
        # Rounded up once for the whole step, so the last stage takes what is left.
        linear_cycles = _bus_cycles(npu, linears.dram_bytes)
        kv_cycles = _bus_cycles(npu, linears.dram_bytes + caches.dram_bytes) - linear_cycles
        stages = tuple(
            Stage(name, "LD", Timing(Kind.LOAD, load=cycles), replace(work, dram_busy_cycles=cycles))
            for name, cycles, work in (("weights", linear_cycles, linears), ("kv_cache", kv_cycles, caches))
        )
        return Program(head=stages, runs=(), tail=())

    def run(program: Program, count: int) -> Ran:
        cycles = sum((stage.timing.load for stage in program.head), np.zeros(count, dtype=np.int64))
        return Ran(cycles, None)

    return run_separable(plan, lower, run)
