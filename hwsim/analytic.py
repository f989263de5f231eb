"""``pmpd-analytic``: the idealised model behind the paper's Fig. 5.

A decode step reads the linear weights and an int8 KV cache at the peak bandwidth and does nothing else; a prefill
takes no time. Source: Chen et al., PMPD, arXiv:2410.13461, Section 5.3 and App. A.6; what is counted was found from
the labels of Fig. 5.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np

from hwsim.config import NpuConfig
from hwsim.execution import Execution, run_separable
from hwsim.plan import DECODE, Plan, StepKind
from hwsim.program import Kind, Program, Ran, Stage, Timing, Work
from hwsim.trace import FULL_PRECISION_BITS, ModelShape
from hwsim.units import BITS_PER_BYTE, Amount, bits_to_bytes
from hwsim.workload import kv_cache_bytes

KV_BITS = 8  # the paper's NPU keeps int8 keys and values


def run_analytic(npu: NpuConfig, shape: ModelShape, plan: Plan, *, codebooks: bool) -> Execution:
    """Run ``plan`` by bytes over peak bandwidth.

    Args:
        npu: Gives clock and bandwidth.
        shape: The model.
        plan: Steps of sequences that run one after another.
        codebooks: Also count codebook traffic.
    """
    cycles_per_byte = Fraction(npu.clock_hz) / Fraction(npu.memory.bandwidth_bytes_per_s)
    rows = shape.layers * sum(n for _, n, _ in shape.block_linears())

    def bus_cycles(sizes: Amount) -> Amount:
        return np.array([ceil(size * cycles_per_byte) for size in np.atleast_1d(sizes).tolist()], dtype=np.int64)

    def lower(kind: StepKind, tokens: Amount) -> Program:
        if kind.phase != DECODE:
            return Program(head=(), runs=(), tail=())
        bits, macs = kind.weight_bits, shape.linear_weights()
        read_tables = codebooks and bits != FULL_PRECISION_BITS
        weights = macs * bits // BITS_PER_BYTE
        tables = rows * bits_to_bytes(npu.matrix.codebook_entry_bits << bits) if read_tables else 0
        kv_read = tokens * kv_cache_bytes(shape, KV_BITS, 1)
        # Rounded up once for the whole step, so the last stage takes what is left.
        linear_cycles = bus_cycles(weights + tables)
        kv_cycles = bus_cycles(weights + tables + kv_read) - linear_cycles
        linears = Work(
            weight_bytes=weights, codebook_bytes=tables, macs=macs, mac_ops=macs, dram_busy_cycles=linear_cycles
        )
        caches = Work(kv_read_bytes=kv_read, dram_busy_cycles=kv_cycles)
        stages = (
            Stage("weights", "LD", Timing(Kind.LOAD, load=linear_cycles), linears),
            Stage("kv_cache", "LD", Timing(Kind.LOAD, load=kv_cycles), caches),
        )
        return Program(head=stages, runs=(), tail=())

    def run(program: Program, count: int) -> Ran:
        cycles = sum((stage.timing.load for stage in program.head), np.zeros(count, dtype=np.int64))
        return Ran(cycles, None)

    return run_separable(plan, lower, run)
