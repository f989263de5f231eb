"""One step in detail: every instruction, every stall with its reason, and a table by operation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import TYPE_CHECKING

from hwsim.checks import check_widths, step_precision
from hwsim.config import NpuConfig
from hwsim.events import Recorder, Span, Stall, State, run_stages
from hwsim.lowering import build_lowering
from hwsim.metrics import STALLING_UNITS, SimulationResult
from hwsim.program import Carry, Program, Stage, stage_at
from hwsim.trace import InputError, ModelShape, TraceHeader
from hwsim.workload import decode_step, prefill_step

if TYPE_CHECKING:
    import pandas as pd

OUTSIDE_LAYERS = -1


@dataclass(frozen=True)
class StepProfile:
    """What one step did, from the event engine without memo.

    Attributes:
        cycles: From start until all units are drained, prefetches aside.
        carried_cycles: For which the main memory is still busy with what the step before prefetches.
        stages: Stages in program order; spans and stalls index them.
        layers: Decoder block of each stage, -1 outside.
        spans: Every instruction.
        stalls: Every wait of a unit that had work to do.
    """

    cycles: int
    carried_cycles: int
    stages: tuple[Stage, ...]
    layers: tuple[int, ...]
    spans: tuple[Span, ...]
    stalls: tuple[Stall, ...]

    @property
    def _units(self) -> tuple[str, ...]:
        second = any(stage.timing.bus for stage in self.stages)
        return tuple(unit for unit in STALLING_UNITS if second or unit != "second")

    @cached_property
    def stall_cycles(self) -> dict[str, dict[str, int]]:
        """Stalled cycles by unit and reason; with its busy and its ``drained`` cycles they fill the step.

        What the memory prefetches behind the end of the step is left out; ``carried`` is what it still had to fetch.
        """
        total: dict[str, dict[str, int]] = {}
        for unit in self._units:
            reasons: defaultdict[str, int] = defaultdict(int)
            if unit == "dram" and self.carried_cycles:
                reasons["carried"] = min(self.carried_cycles, self.cycles)
            for stall in self.stalls:
                if stall.unit == unit and (cycles := self._within(stall.start, stall.cycles)):
                    reasons[stall.reason] += cycles
            busy = sum(self._within(span.start, span.cycles) for span in self.spans if span.unit == unit)
            total[unit] = {**reasons, "drained": self.cycles - busy - sum(reasons.values())}
        return total

    def _within(self, start: int, cycles: int) -> int:
        return max(0, min(start + cycles, self.cycles) - start)

    @cached_property
    def operations(self) -> pd.DataFrame:
        """One row per operation: layer, name, start and end cycle, instructions, busy and stalled cycles, bytes."""
        import pandas as pd  # noqa: PLC0415 - heavy, and the timeline does not need it

        spans: defaultdict[int, list[Span]] = defaultdict(list)
        for span in self.spans:
            spans[span.stage].append(span)
        stalled: defaultdict[tuple[int, str], int] = defaultdict(int)
        for stall in self.stalls:
            stalled[stall.stage, stall.unit] += stall.cycles
        rows = []
        for index, (stage, layer) in enumerate(zip(self.stages, self.layers, strict=True)):
            if not spans[index]:
                continue
            row: dict[str, object] = {
                "layer": layer,
                "operation": stage.name,
                "opcode": stage.opcode,
                "start_cycle": min(span.start for span in spans[index]),
                "end_cycle": max(span.start + span.cycles for span in spans[index]),
                "instructions": len(spans[index]),
                "dram_bytes": stage.work.dram_bytes,
                "macs": stage.work.macs,
            }
            for unit in self._units:
                row[f"{unit}_busy_cycles"] = sum(span.cycles for span in spans[index] if span.unit == unit)
                row[f"{unit}_stall_cycles"] = stalled[index, unit]
            rows.append(row)
        return pd.DataFrame(rows)


def _layers(program: Program) -> Iterator[int]:
    """Decoder block of every stage."""
    yield from repeat(OUTSIDE_LAYERS, len(program.head))
    layer = 0
    for run in program.runs:
        for _ in range(run.layers):
            yield from repeat(layer, len(run.block))
            layer += 1
    yield from repeat(OUTSIDE_LAYERS, len(program.tail) + (program.prefetch is not None))


def _profile(program: Program, element: int, carry: Carry) -> StepProfile:
    stages = [stage_at(stage, element) for stage in program.every_stage()]
    recorder = Recorder()
    outcome = run_stages([stage.timing for stage in stages], State.after(carry), recorder)
    spans, stalls = tuple(recorder.spans), tuple(recorder.stalls)
    return StepProfile(outcome.drained, int(carry.memory), tuple(stages), tuple(_layers(program)), spans, stalls)


def profile_row(result: SimulationResult, row: int) -> StepProfile:
    """Simulate one step of a simulation again, instruction by instruction, and keep what happened.

    Whatever the engine: the step meets what its predecessor left, and leaves what its successor met.

    Args:
        result: A simulation in the realistic mode.
        row: Row of its step table.

    Raises:
        InputError: If the row does not exist, or the result is of the analytic mode, which knows no instructions.
    """
    if result.mode != "realistic":
        raise InputError(f"mode = '{result.mode}': details need 'realistic'; the analytic mode has no instructions")
    rows = len(result.columns.step)
    if not 0 <= row < rows:
        raise InputError(f"row = {row}: must be 0..{rows - 1}, a row of the step table")
    part, element = result.places[:, row].tolist()
    return _profile(result.parts[part].program, element, Carry(*result.met[:, row].tolist()))


def profile_step(
    npu: NpuConfig,
    shape: ModelShape,
    header: TraceHeader,
    *,
    weight_bits: int | Sequence[int],
    prompt_tokens: int | None = None,
    cached_tokens: int | None = None,
) -> StepProfile:
    """Simulate one step from a drained NPU, instruction by instruction, and keep what happened.

    Args:
        npu: The hardware.
        shape: The model.
        header: Gives the bits of everything but the weights.
        weight_bits: Weight bits of the step; for a decode step also one width for each layer.
        prompt_tokens: For a prefill: its prompt's length.
        cached_tokens: For a decode step: tokens in the KV cache.

    Raises:
        ValueError: If not exactly one of ``prompt_tokens`` and ``cached_tokens`` is given.
        InputError: If a width is not supported, the widths are not one per layer, or a buffer is too small for a tile.
    """
    if (prompt_tokens is None) == (cached_tokens is None):
        raise ValueError("give either prompt_tokens (a prefill) or cached_tokens (a decode step)")
    widths = [weight_bits] if isinstance(weight_bits, int) else list(weight_bits)
    if prompt_tokens is not None and len(widths) > 1:
        raise ValueError("a prefill has one width for all layers")
    check_widths(npu, set(widths))
    precision = step_precision(npu, header, max(widths))
    if prompt_tokens is not None:
        step = prefill_step(shape, precision, prompt_tokens)
    else:
        by_layer = None if isinstance(weight_bits, int) else widths
        step = decode_step(shape, precision, cached_tokens, layer_weight_bits=by_layer)
    return _profile(build_lowering(npu, precision, shape.hidden_size).program(step), 0, Carry())
