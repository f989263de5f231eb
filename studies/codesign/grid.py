"""Which schedules the study measures."""

from __future__ import annotations

from collections.abc import Sequence

from hwsim.trace import FULL_PRECISION_BITS, SWITCH_POINTS, InputError, Schedule, switch_steps


def schedule_grid(widths: Sequence[int], response_tokens: int, points: int = SWITCH_POINTS) -> list[Schedule]:
    """Uniform schedules, phase-aware ones, and progressive ones over the nested widths.

    Uniform: every stored width and full precision. For each pair of a high and a low width out of the narrow half
    that reads fewer bits than it costs in codebooks: the low width throughout decoding after a high prefill (the
    phase-aware case), and a switch from high to low at each inner candidate step, prefill high.

    Args:
        widths: Stored widths, 16 included where it is kept.
        response_tokens: Length M that the candidate switch steps divide; a typical response, not the bound,
            since switches after its end would never run.
        points: Number N of candidate switch points.

    Raises:
        InputError: If fewer than two nested widths are stored.
    """
    nested = sorted(width for width in widths if width < FULL_PRECISION_BITS)
    if len(nested) < 2:
        raise InputError(f"widths = {sorted(widths)}: co-design needs at least two nested widths to choose from")
    inner = switch_steps(response_tokens, points)[1:-1]
    schedules = [Schedule.uniform(width) for width in sorted(widths, reverse=True)]
    narrow = nested[: max(2, (len(nested) + 1) // 2)]
    for low in narrow:
        for high in narrow:
            if high <= low:
                continue
            schedules.append(Schedule.uniform(low, prefill_weight_bits=high))
            schedules += [Schedule.from_pairs(high, [(0, high), (step, low)]) for step in inner]
    return list({schedule.label(): schedule for schedule in schedules}.values())
