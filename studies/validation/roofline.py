"""Check 1: nothing beats the roofline, and an NPU without overheads reaches it."""

from __future__ import annotations

from hwsim import SHAPE_NAMES, SimulationOptions, load_npu, load_shape, roofline_cycles, simulate
from hwsim.config import NpuConfig
from hwsim.trace import Schedule, synthetic_trace
from studies.validation.ideal import bandwidth_bound_npu, compute_bound_npu
from studies.validation.table import Cell, Outcome, at_least, within

CHECK = "1 roofline"
WIDTHS = (16, 4, 3, 2)
IDEAL_MODELS = ("vicuna-7b", "mobilellama-1.4b")
PROMPT_TOKENS, DECODE_TOKENS = 512, 256
IDEAL_BOUND = 0.001
IDEAL_BANDWIDTH = 32e9
# Published hardware, which the other checks are about; unit tests hold the templates to their bound.
NPUS = ("flightllm-u280", "flightllm-vhk158", "pmpd-16k", "pmpd-4k")


def _cycles(npu: NpuConfig, model: str, weight_bits: int) -> tuple[int, int]:
    """Simulated cycles and the roofline's."""
    shape = load_shape(model)
    trace = synthetic_trace(
        shape, Schedule.uniform(weight_bits), prompt_tokens=PROMPT_TOKENS, decode_tokens=DECODE_TOKENS
    )
    simulated = simulate(npu, shape, trace, SimulationOptions(engine="fast")).cycles
    return simulated, roofline_cycles(npu, shape, trace)


def check() -> Outcome:
    """Compare simulated cycles of 512 + 256 steps with the roofline's."""
    rows, details = [], []
    cases: list[tuple[str, NpuConfig, tuple[str, ...]]] = [
        ("ideal, bandwidth-bound", bandwidth_bound_npu(IDEAL_BANDWIDTH), IDEAL_MODELS),
        ("ideal, compute-bound", compute_bound_npu(), IDEAL_MODELS),
        *((name, load_npu(name, {"memory.capacity_bytes": 1 << 40}), SHAPE_NAMES) for name in NPUS),
    ]
    for name, npu, models in cases:
        ideal = name.startswith("ideal")
        found: list[tuple[float, str, int, int]] = []
        for model in models:
            for weight_bits in WIDTHS:
                simulated, bound = _cycles(npu, model, weight_bits)
                found.append((simulated / bound, f"{model}, {weight_bits} bits", simulated, bound))
                detail: dict[str, Cell] = {
                    "npu": name,
                    "model": model,
                    "weight_bits": weight_bits,
                    "simulated_cycles": simulated,
                    "roofline_cycles": bound,
                    "excess": simulated / bound - 1,
                }
                details.append(detail)
                if ideal:
                    case = f"{name}: {model}, {weight_bits} bits"
                    rows.append(within(CHECK, case, "cycles", simulated, bound, IDEAL_BOUND))
        _, case, simulated, bound = min(found)
        rows.append(at_least(CHECK, f"{name}: nearest of {len(found)} runs ({case})", "cycles", simulated, bound))
    return Outcome(rows, details)
