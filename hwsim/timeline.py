"""Chrome-trace export: what happened when, for chrome://tracing or ui.perfetto.dev.

Every step is a slice of the whole run. In chosen steps every operation is a slice too, with the units' work in it;
in their first block, every instruction. Time runs in microseconds, as the format wants it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hwsim.config import NpuConfig
from hwsim.metrics import SimulationResult
from hwsim.plan import PREFILL_STEP, SCHEDULER_STEP
from hwsim.step_profile import OUTSIDE_LAYERS, StepProfile, profile_step
from hwsim.trace import InputError, ModelShape, Trace, write_json

US_PER_S = 1e6
RUN, OPERATIONS, INSTRUCTIONS = 1, 2, 3
UNITS = ("dram", "matrix", "sfu", "control")


def interesting_rows(result: SimulationResult) -> list[int]:
    """Rows of the step table worth detail: of the first sequence, prefill, first decode step and every switch."""
    columns = result.columns
    rows: list[int] = []
    for row in range(len(columns.step)):
        if columns.sequence[row] != 0:
            break
        first = columns.step[row] in {PREFILL_STEP, 0}
        if first or columns.weight_bits[row] != columns.weight_bits[row - 1]:
            rows.append(row)
    return rows


def _slice(process: int, thread: int, name: str, start_us: float, us: float, **arguments: object) -> dict[str, Any]:
    return {"ph": "X", "pid": process, "tid": thread, "name": name, "ts": start_us, "dur": us, "args": arguments}


def _names(process: int, name: str, threads: Sequence[str]) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "pid": process, "name": "process_name", "args": {"name": name}}
    for thread, thread_name in enumerate(threads):
        yield {"ph": "M", "pid": process, "tid": thread, "name": "thread_name", "args": {"name": thread_name}}


def _detail(profile: StepProfile, start_us: float, us_per_cycle: float) -> Iterator[dict[str, Any]]:
    """Operations of one step, and the instructions of its first block and of what lies outside blocks."""
    ends: dict[tuple[int, str], tuple[int, int, int]] = {}
    for span in profile.spans:
        stage = profile.stages[span.stage]
        end = span.start + span.cycles
        first, last, busy = ends.get((span.stage, span.unit), (span.start, end, 0))
        ends[span.stage, span.unit] = min(first, span.start), max(last, end), busy + span.cycles
        if profile.layers[span.stage] in {OUTSIDE_LAYERS, 0}:
            thread, cycles = UNITS.index(span.unit), span.cycles
            opcode = {"dram": "ST" if stage.opcode == "ST" else "LD", "sfu": "MISC"}.get(span.unit, stage.opcode)
            start = start_us + span.start * us_per_cycle
            yield _slice(INSTRUCTIONS, thread, f"{opcode} {stage.name}", start, cycles * us_per_cycle, cycles=cycles)
    for (index, unit), (first, last, busy) in ends.items():
        stage = profile.stages[index]
        yield _slice(
            OPERATIONS,
            UNITS.index(unit),
            stage.name,
            start_us + first * us_per_cycle,
            (last - first) * us_per_cycle,
            layer=profile.layers[index],
            busy_cycles=busy,
        )


def timeline_events(
    npu: NpuConfig,
    shape: ModelShape,
    trace: Trace,
    result: SimulationResult,
    rows: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Make the events of a Chrome trace.

    Args:
        npu: The hardware ``result`` was simulated on.
        shape: The model.
        trace: The trace.
        result: Its simulation in the realistic mode.
        rows: Rows of the step table to show in detail; :func:`interesting_rows` if left out. Steps of several
            sequences are never shown in detail.

    Raises:
        InputError: If the result is of the analytic mode, which knows no instructions.
    """
    if result.mode != "realistic":
        raise InputError(f"mode = '{result.mode}': a timeline needs 'realistic'; the analytic mode has no instructions")
    us_per_cycle = US_PER_S / npu.clock_hz
    columns = result.columns
    starts = [0, *columns.cycles.cumsum().tolist()]
    detailed = set(interesting_rows(result) if rows is None else rows)
    events = list(_names(RUN, f"{result.model} on {npu.name}", ["steps"]))
    events += _names(OPERATIONS, "operations", UNITS)
    events += _names(INSTRUCTIONS, "instructions (first block)", UNITS)
    for row, cycles in enumerate(columns.cycles.tolist()):
        step, bits, context = (int(column[row]) for column in (columns.step, columns.weight_bits, columns.context))
        is_prefill = step == PREFILL_STEP
        name = f"prefill {context} tokens, {bits} bit" if is_prefill else f"step {step}, {bits} bit"
        if step == SCHEDULER_STEP:
            name = "learned scheduler"
        start_us = starts[row] * us_per_cycle
        events.append(
            _slice(
                RUN,
                0,
                name,
                start_us,
                cycles * us_per_cycle,
                sequence=int(columns.sequence[row]),
                weight_bits=bits,
                context_tokens=context,
                cycles=cycles,
                dram_bytes=int(columns.dram_bytes[row]),
            )
        )
        if row in detailed and columns.tokens[row] == 1:
            tokens = {"prompt_tokens" if is_prefill else "cached_tokens": context}
            profile = profile_step(npu, shape, trace.header, weight_bits=bits, **tokens)
            events += _detail(profile, start_us, us_per_cycle)
    return events


def write_timeline(
    path: Path | str,
    npu: NpuConfig,
    shape: ModelShape,
    trace: Trace,
    result: SimulationResult,
    rows: Sequence[int] | None = None,
) -> None:
    """Write :func:`timeline_events` as a file that chrome://tracing and ui.perfetto.dev open."""
    write_json(path, {"displayTimeUnit": "ms", "traceEvents": timeline_events(npu, shape, trace, result, rows)})
