"""Check 6: what a prefill at the high instead of the low precision costs, and why.

The matrix unit is busy, waits for a tile to be loaded, waits for an earlier operator's output, or has drained; these
four fill a prefill exactly, so their differences add up to the overhead. Extra bytes at the peak bandwidth stand
beside: as far as they exceed the overhead, they were hidden behind compute. By default tiles fill half of a buffer, so
that their number changes with the bits; the same overhead with searched tiles is free of that.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwsim import NpuConfig, SimulationOptions, SimulationResult, load_npu, load_shape, profile_step, simulate
from hwsim.trace import ModelShape, Schedule, Trace, synthetic_trace
from studies.validation.table import Cell, Outcome, Row, shown

CHECK = "6 prefill"
NPUS = ("pmpd-4k", "pmpd-16k")
# The paper's pairs: the lowest lossless width on C4, and one bit less.
PAIRS = {"vicuna-7b": (3, 2), "mobilellama-1.4b": (4, 3), "phi-1.5": (4, 3), "stablelm-zephyr-3b": (4, 3)}
PROMPTS = (32, 64, 128, 512)
COARSE = 16  # tokens of the first search for a crossing
MS = 1e3


@dataclass(frozen=True)
class _Prefill:
    """One prefill in milliseconds; the last four parts add up to ``total``."""

    total: float
    planes: float
    codebooks: float
    computing: float
    waiting_for_loads: float
    waiting_for_inputs: float
    drained: float


def _trace(shape: ModelShape, weight_bits: int, prompt_tokens: int) -> Trace:
    return synthetic_trace(shape, Schedule.uniform(weight_bits), prompt_tokens=prompt_tokens, decode_tokens=0)


def _simulate(npu: NpuConfig, shape: ModelShape, weight_bits: int, prompt_tokens: int) -> SimulationResult:
    return simulate(npu, shape, _trace(shape, weight_bits, prompt_tokens), SimulationOptions(engine="fast"))


def _measure(npu: NpuConfig, shape: ModelShape, weight_bits: int, prompt_tokens: int) -> _Prefill:
    result = _simulate(npu, shape, weight_bits, prompt_tokens)
    header = _trace(shape, weight_bits, prompt_tokens).header
    profile = profile_step(npu, shape, header, weight_bits=weight_bits, prompt_tokens=prompt_tokens)
    waits = profile.stall_cycles["matrix"]
    cycle_ms, byte_ms = MS / npu.clock_hz, MS / npu.memory.bandwidth_bytes_per_s
    return _Prefill(
        total=profile.cycles * cycle_ms,
        planes=result.bytes_by_kind["weights"] * byte_ms,
        codebooks=result.bytes_by_kind["codebooks"] * byte_ms,
        computing=(profile.cycles - sum(waits.values())) * cycle_ms,
        waiting_for_loads=waits.get("tile", 0) * cycle_ms,
        waiting_for_inputs=waits.get("input", 0) * cycle_ms,
        drained=waits["drained"] * cycle_ms,
    )


def _compute_bound_from(npu: NpuConfig, shape: ModelShape, weight_bits: int) -> int:
    """Fewest prompt tokens for which the matrix unit is busy for longer than the memory.

    Longer prompts may be memory-bound again: where activations no longer fit on chip, weights are read repeatedly.
    """

    def compute_bound(tokens: int) -> bool:
        busy = _simulate(npu, shape, weight_bits, tokens).busy_cycles
        return busy["matrix"] >= busy["dram"]

    coarse = next(tokens for tokens in range(COARSE, shape.max_context, COARSE) if compute_bound(tokens))
    return next(tokens for tokens in range(coarse - COARSE + 1, coarse + 1) if compute_bound(tokens))


def check() -> Outcome:
    """Compare prefills of four models, four prompt lengths and two NPUs; find where they become compute-bound."""
    rows: list[Row] = []
    details: list[dict[str, Cell]] = []
    for npu_name in NPUS:
        npu, searching = load_npu(npu_name), load_npu(npu_name, {"control.tiling": "search"})
        for model, (high_bits, low_bits) in PAIRS.items():
            shape = load_shape(model)
            for prompt in PROMPTS:
                high, low = (_measure(npu, shape, bits, prompt) for bits in (high_bits, low_bits))
                case = f"{npu_name}, {model}: {high_bits} instead of {low_bits} bits, {prompt} tokens"
                rows.append(shown(CHECK, case, "ms", high.total, low.total))
                searched = [_simulate(searching, shape, bits, prompt).prefill_s * MS for bits in (high_bits, low_bits)]
                rows.append(shown(CHECK, f"{case}, searched tiles", "ms", searched[0], searched[1]))
                parts = {name: getattr(high, name) - getattr(low, name) for name in _Prefill.__dataclass_fields__}
                extra_loads = parts["planes"] + parts["codebooks"]
                overhead = parts.pop("total")
                details.append(
                    {
                        "npu": npu_name,
                        "model": model,
                        "high_bits": high_bits,
                        "low_bits": low_bits,
                        "prompt_tokens": prompt,
                        "high_ms": high.total,
                        "low_ms": low.total,
                        "overhead_ms": overhead,
                        "overhead": overhead / low.total,
                        **{f"extra_{name}_ms": value for name, value in parts.items()},
                        "hidden_ms": extra_loads - overhead,
                        "searched_overhead_ms": searched[0] - searched[1],
                    }
                )
            # Bytes of a weight over the bandwidth against its multiplications over the array.
            peak = npu.matrix.macs * npu.clock_hz / npu.memory.bandwidth_bytes_per_s
            case = f"{npu_name}, {model}, {high_bits} bits: compute-bound from (reference: planes and MACs alone)"
            tokens = _compute_bound_from(npu, shape, high_bits)
            rows.append(shown(CHECK, case, "prompt tokens", tokens, high_bits / 8 * peak))
    return Outcome(rows, details)
