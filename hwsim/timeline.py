"""Chrome-trace export: what happened when, for chrome://tracing or ui.perfetto.dev.

Every step is a slice of the whole run. In interesting steps every operation is a slice too, with the units' work in
it; in their first block, every instruction. In a window of steps every instruction of every block is shown. Time runs
in microseconds, as the format wants it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hwsim.config import NpuConfig
from hwsim.metrics import UNITS, SimulationResult
from hwsim.plan import PREFILL_STEP, SCHEDULER_STEP
from hwsim.step_profile import OUTSIDE_LAYERS, StepProfile, profile_row
from hwsim.trace import InputError, write_json

US_PER_S = 1e6
RUN, OPERATIONS, INSTRUCTIONS = 1, 2, 3
MAX_WINDOW_STEPS = 64  # a step of a 7B model has some 20,000 instructions


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


def window_rows(result: SimulationResult, first_step: int, last_step: int) -> list[int]:
    """Rows of decode steps ``first_step`` to ``last_step`` of the first sequence, to be shown tile by tile.

    Raises:
        InputError: If the window is empty or too long, or leaves the run.
    """
    columns = result.columns
    window = f"timeline steps {first_step}-{last_step}"
    rows = [row for row in range(len(columns.step)) if columns.sequence[row] == 0 and columns.step[row] >= 0]
    if not 0 <= first_step <= last_step < len(rows):
        known = f"0..{len(rows) - 1}" if rows else "none"
        raise InputError(f"{window}: must lie within the decode steps of the first sequence, {known}, first <= last")
    if last_step - first_step >= MAX_WINDOW_STEPS:
        raise InputError(f"{window}: at most {MAX_WINDOW_STEPS} steps are shown tile by tile; choose fewer")
    return rows[first_step : last_step + 1]


def _slice(process: int, thread: int, name: str, start_us: float, us: float, **arguments: object) -> dict[str, Any]:
    return {"ph": "X", "pid": process, "tid": thread, "name": name, "ts": start_us, "dur": us, "args": arguments}


def _names(process: int, name: str, threads: Sequence[str]) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "pid": process, "name": "process_name", "args": {"name": name}}
    for thread, thread_name in enumerate(threads):
        yield {"ph": "M", "pid": process, "tid": thread, "name": "thread_name", "args": {"name": thread_name}}


def _detail(
    profile: StepProfile, start_us: float, us_per_cycle: float, *, every_block: bool
) -> Iterator[dict[str, Any]]:
    """Operations of one step, and the instructions of all blocks or the first, and of what lies outside blocks."""
    ends: dict[tuple[int, str], tuple[int, int, int]] = {}
    for span in profile.spans:
        stage = profile.stages[span.stage]
        end = span.start + span.cycles
        first, last, busy = ends.get((span.stage, span.unit), (span.start, end, 0))
        ends[span.stage, span.unit] = min(first, span.start), max(last, end), busy + span.cycles
        layer = profile.layers[span.stage]
        if every_block or layer in {OUTSIDE_LAYERS, 0}:
            thread, cycles = UNITS.index(span.unit), span.cycles
            memory = "ST" if stage.opcode == "ST" else "LD"
            opcode = {"dram": memory, "second": memory, "sfu": "MISC"}.get(span.unit, stage.opcode)
            start = start_us + span.start * us_per_cycle
            name, us = f"{opcode} {stage.name}", cycles * us_per_cycle
            yield _slice(INSTRUCTIONS, thread, name, start, us, layer=layer, cycles=cycles)
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
    result: SimulationResult,
    rows: Sequence[int] | None = None,
    window: Sequence[int] = (),
) -> list[dict[str, Any]]:
    """Make the events of a Chrome trace.

    Args:
        npu: The hardware ``result`` was simulated on.
        result: Its simulation in the realistic mode.
        rows: Rows of the step table to show in detail; :func:`interesting_rows` if left out.
        window: Rows to show tile by tile in every block, from :func:`window_rows`.

    Raises:
        InputError: If the result is of the analytic mode, which knows no instructions.
    """
    if result.mode != "realistic":
        raise InputError(f"mode = '{result.mode}': a timeline needs 'realistic'; the analytic mode has no instructions")
    us_per_cycle = US_PER_S / npu.clock_hz
    columns = result.columns
    starts = [0, *columns.cycles.cumsum().tolist()]
    detailed = {*(interesting_rows(result) if rows is None else rows), *window}
    events = list(_names(RUN, f"{result.model} on {npu.name}", ["steps"]))
    events += _names(OPERATIONS, "operations", UNITS)
    events += _names(INSTRUCTIONS, "instructions", UNITS)
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
        if row in detailed:
            profile = profile_row(result, row)
            events += _detail(profile, start_us, us_per_cycle, every_block=row in window)
    return events


def write_timeline(
    path: Path | str,
    npu: NpuConfig,
    result: SimulationResult,
    rows: Sequence[int] | None = None,
    window: Sequence[int] = (),
) -> None:
    """Write :func:`timeline_events` as a file that chrome://tracing and ui.perfetto.dev open."""
    events = timeline_events(npu, result, rows, window)
    write_json(path, {"displayTimeUnit": "ms", "traceEvents": events})
