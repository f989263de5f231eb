"""NPUs without overheads: the whole bandwidth, or the whole array, and nothing that waits."""

from __future__ import annotations

from collections.abc import Mapping

from hwsim import NpuConfig, load_npu
from hwsim.config import SFU_FUNCTIONS, Timing

NESTED_WIDTHS = tuple(range(1, 9))
MANY_LANES, MANY_LOOKUPS = 1 << 20, 1 << 40

# Zero latencies, refresh, issue and sync; tables and functions that never limit; bursts and tiles so small that
# rounding to them is invisible; activations that always fit.
_NO_OVERHEADS: dict[str, object] = {
    **{f"memory.timing.{name}": 0 for name in Timing.model_fields if name.startswith("t_")},
    "memory.timing.t_refi_ns": 1000,
    "memory.timing.controller_latency_ns": 0,
    "memory.channels": 1,
    "memory.burst_bytes": 8,
    "memory.capacity_bytes": 1 << 40,
    "matrix.pipeline_cycles": 0,
    "sfu.lanes": MANY_LANES,
    **{f"sfu.functions.{name}.latency_cycles": 0 for name in SFU_FUNCTIONS},
    "buffers.weight_kib": 128,
    "buffers.kv_kib": 64,
    "buffers.activation_kib": 1 << 17,
    "control.issue_cycles": 0,
    "control.sync_cycles": 0,
}
_FREE_COMPUTE: dict[str, object] = {"matrix.macs": 1 << 24}
# Rows that divide every layer and head, one column and one token a cycle: an array without edges, of operands as
# wide as any, behind a memory that never limits it.
_FREE_MEMORY: dict[str, object] = {
    "memory.bandwidth_bytes_per_s": 1e12,
    "matrix.activation_bits": 16,
    "matrix.mm": [16, 1, 1],
    "matrix.mv": [16, 1, 1],
    "matrix.cores": 16,
}


def _ideal(changes: Mapping[str, object]) -> NpuConfig:
    lookups = {
        "matrix.weight_widths": [*NESTED_WIDTHS, 16],
        "matrix.lookups_per_cycle": dict.fromkeys(NESTED_WIDTHS, MANY_LOOKUPS),
    }
    return load_npu("pmpd-16k", {**_NO_OVERHEADS, **changes, **lookups})


def bandwidth_bound_npu(bandwidth_bytes_per_s: float, changes: Mapping[str, object] | None = None) -> NpuConfig:
    """A memory of this bandwidth, and compute that never limits it."""
    return _ideal({**_FREE_COMPUTE, "memory.bandwidth_bytes_per_s": bandwidth_bytes_per_s, **(changes or {})})


def compute_bound_npu() -> NpuConfig:
    """An array of 16 MACs, and a memory that never limits it."""
    return _ideal(_FREE_MEMORY)
