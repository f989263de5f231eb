"""What candidate schedules cost together: decode steps that shared prefixes save, and the time of a whole grid."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from accuracy.decoding import Decoder
from accuracy.model import LanguageModel
from accuracy.schedulers import StaticScheduler
from hwsim.trace import Schedule, candidate_schedules
from studies.decoding_speed.subjects import WIDTHS, Case

POINTS = tuple(range(2, 9))
PAPER_POINTS = 4
FULL_LENGTH = "every response at its bound"
GRID_PROMPTS = 8


def full_length_sharing(max_new_tokens: int, points: Sequence[int] = POINTS) -> list[dict[str, Any]]:
    """Steps saved if no response ended before its bound, counted without running anything.

    A step is shared by the schedules whose widths agree up to and including it. For two widths the fraction saved is
    1/2 - 1/N, up to rounding of the switch points.
    """
    steps = max_new_tokens - 1
    return [
        _row(FULL_LENGTH, widths, count, schedules, len(schedules) * steps, _distinct_steps(schedules, steps))
        for widths in (WIDTHS[:2], WIDTHS)
        for count in points
        for schedules in [candidate_schedules(widths, max_new_tokens, count)]
    ]


def _distinct_steps(schedules: Sequence[Schedule], steps: int) -> int:
    expanded = [tuple(schedule.expand(steps)) for schedule in schedules]
    return len({bits[: step + 1] for bits in expanded for step in range(steps)})


def measure_sharing(
    lm: LanguageModel, case: Case, points: Sequence[int] = POINTS, prompts: int = GRID_PROMPTS
) -> Iterator[dict[str, Any]]:
    """Steps saved on real responses, which end where they end."""
    decoder = Decoder(lm)
    for widths in (WIDTHS[:2], WIDTHS):
        for count in points:
            schedules = candidate_schedules(widths, case.max_new_tokens, count)
            asked = case.prompts[:prompts]
            grid = decoder.decode_grid(asked, [StaticScheduler(one) for one in schedules], len(asked))
            yield _row(case.name, widths, count, schedules, grid.steps, grid.steps_run)


def _row(
    model: str, widths: Sequence[int], points: int, schedules: Sequence[Schedule], steps: int, steps_run: int
) -> dict[str, Any]:
    return {
        "model": model,
        "widths": len(widths),
        "points": points,
        "schedules": len(schedules),
        "steps": steps,
        "steps_run": steps_run,
        "steps_saved": 1 - steps_run / steps,
    }


def measure_grid_time(
    lm: LanguageModel, case: Case, repeats: int, prompts: int = GRID_PROMPTS
) -> Iterator[dict[str, Any]]:
    """Time the paper's grid (4 points, three widths) as a tree and schedule by schedule, with equal responses."""
    decoder = Decoder(lm)
    asked = case.prompts[:prompts]
    schedulers = [StaticScheduler(one) for one in candidate_schedules(WIDTHS, case.max_new_tokens, PAPER_POINTS)]
    for repeat in range(repeats):
        begin = time.process_time()
        tree = decoder.decode_grid(asked, schedulers, len(asked))
        tree_cpu_s = time.process_time() - begin
        begin = time.process_time()
        naive = [decoder.decode(asked, scheduler, len(asked)) for scheduler in schedulers]
        naive_cpu_s = time.process_time() - begin
        if naive != tree.responses:
            raise AssertionError(f"{case.name}: the tree's responses are not those of its schedules one by one")
        yield {
            "model": case.name,
            "repeat": repeat,
            "schedules": len(schedulers),
            "prompts": len(asked),
            "responses": len(schedulers) * len(asked),
            "steps_saved": tree.steps_saved,
            "naive_cpu_s": naive_cpu_s,
            "tree_cpu_s": tree_cpu_s,
            "speed_up": naive_cpu_s / tree_cpu_s,
        }
