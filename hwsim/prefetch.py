"""Loads across steps: the first tiles of the next step's first weights, fetched while this step still drains.

The matrix unit and the SFU end a step with the lm_head and sampling, long after the last load. A compiler that lets
the memory run ahead fills both slots of the weight buffer with the next step's first tiles in the meantime. It must
know that step's width: a planned schedule says it; where precisions are decided token by token, the best guess is
that nothing changes, and a wrong guess costs the loads.
"""

from __future__ import annotations

from dataclasses import replace

from hwsim.program import Kind, Pool, Program, Stage, StageRun, Timing, Work

SLOTS = 2


def _first_weights(program: Program) -> Stage:
    stages = (stage for stage in program.runs[0].block if stage.timing.kind is Kind.TILES)  # not a block's input
    return next(stage for stage in stages if stage.timing.pool is Pool.WEIGHT and stage.timing.load is not None)


def _tiles(stage: Stage) -> int:
    return min(SLOTS, int(stage.timing.tiles))


def _load_stage(following: Program) -> Stage:
    """Loads of the first tiles of ``following``; their work counts in the step that uses them."""
    first = _first_weights(following)
    timing, tiles = first.timing, _tiles(first)
    last = timing.last_load if timing.tiles == tiles else timing.load  # where the last tile is among them
    loads = Timing(
        Kind.PREFETCH, Pool.WEIGHT, tiles=tiles, load=timing.load, last_load=last, load_latency=timing.load_latency
    )
    return Stage("prefetch", "LD", loads, Work())


def _thrown_away(expected: Program) -> Stage:
    """What loading the first tiles of ``expected`` cost, as a stage that takes no time of its own."""
    first = _first_weights(expected)
    timing, tiles = first.timing, _tiles(first)
    whole = timing.tiles == tiles  # then the last tile is among them
    size = first.tile_bytes * (tiles - 1) + (first.last_tile_bytes if whole else first.tile_bytes)
    cycles = timing.load * (tiles - 1) + (timing.last_load if whole else timing.load)
    work = Work(thrown_away_bytes=size, dram_busy_cycles=cycles, instructions=tiles, sram_bytes=size)
    return Stage("prefetch.thrown_away", "LD", Timing(Kind.MARK), work)


def _finding(program: Program) -> Program:
    """The step with its first tiles on chip already."""
    first = _first_weights(program)
    head_run, *runs = program.runs
    timing = first.timing._replace(prefetched=_tiles(first))
    block = tuple(replace(stage, timing=timing) if stage is first else stage for stage in head_run.block)
    rest = [replace(head_run, layers=head_run.layers - 1)] if head_run.layers > 1 else []
    return replace(program, runs=(StageRun(block, 1), *rest, *runs))


def with_prefetch(program: Program, *, met: Program | None, following: Program | None) -> Program:
    """A step between the one that prefetched for it and the one it prefetches for.

    Args:
        program: The step as if it started from nothing.
        met: The step whose first tiles were prefetched: ``program`` itself where the guess was right; null if none.
        following: The step whose first tiles to prefetch; null for none.
    """
    chained = program
    if met is program:
        chained = _finding(program)
    elif met is not None:
        chained = replace(program, head=(_thrown_away(met), *program.head))
    return chained if following is None else replace(chained, prefetch=_load_stage(following))
