"""What needs no tuning: phases (Table 4, Fig. 6) and patterns (Fig. 3)."""

from __future__ import annotations

from accuracy.schedulers import PATTERNS, PatternScheduler
from hwsim.trace import FULL_PRECISION_BITS, Schedule
from studies.pmpd.bench import Bench, Measured
from studies.pmpd.table import Place, Tables

Pair = tuple[int, int]
PAIRS: tuple[Pair, ...] = ((4, 3), (3, 2))
"""High and low width; the paper's are 3/2 for Vicuna and 4/3 for the smaller models."""

FIRST_HALF = "first-half"
OTHER_HALVES = ("middle-half", "last-half", "alternate")


def pair_name(pair: Pair) -> str:
    """For example ``4/3``."""
    return f"{pair[0]}/{pair[1]}"


def measure_phases(bench: Bench, tables: Tables) -> dict[str, Measured]:
    """Every pair of prefill and decode width, and the unquantised weights (Table 4, Fig. 6)."""
    widths = sorted({width for pair in PAIRS for width in pair})
    methods = {"full precision": Schedule.uniform(FULL_PRECISION_BITS)} | {
        phase_name(prefill, decode): Schedule.uniform(decode, prefill) for prefill in widths for decode in widths
    }
    found = bench.measure("phases", methods)
    for pair in PAIRS:
        high, low = pair
        place = Place(bench.subject.name, "table4", pair_name(pair))
        ours, low_low = found[phase_name(high, low)], found[phase_name(low, low)]
        low_high, high_high = found[phase_name(low, high)], found[phase_name(high, high)]
        for one in (found["full precision"], high_high, ours, low_high, low_low):
            place.add(tables, one, high_high)
        for metric in bench.subject.metrics:
            place.compare(tables, "high prefill helps low decoding", ours, low_low, metric)
            place.compare(tables, "high decoding helps a low prefill", low_high, low_low, metric)
            place.compare(tables, "prefill bits matter more than decode bits", ours, low_high, metric)
    return found


def phase_name(prefill: int, decode: int) -> str:
    """For example ``4-bit prefill, 3-bit decode``."""
    return f"{prefill}-bit prefill, {decode}-bit decode"


def measure_patterns(bench: Bench, tables: Tables, high_alone: dict[int, Measured]) -> None:
    """Where the high width is spent, at exactly equal mean bits and lengths (Fig. 3).

    Args:
        bench: The nested store.
        tables: Where the results go.
        high_alone: Responses of each high width alone; their lengths are those of every pattern.
    """
    for pair in PAIRS:
        high, low = pair
        place = Place(bench.subject.name, "fig3", pair_name(pair))
        lengths = high_alone[high].tokens
        steps = {prompt: tokens - 1 for prompt, tokens in lengths.items()}
        found = bench.measure(
            f"patterns-{high}{low}",
            {pattern: PatternScheduler(pattern, steps, high, low) for pattern in PATTERNS},
            forced_tokens=lengths,
        )
        for one in found.values():
            place.add(tables, one, found["all-high"])
        for metric in bench.subject.metrics:
            for other in OTHER_HALVES:
                place.compare(tables, f"high bits first, not {other}", found[FIRST_HALF], found[other], metric)
            place.compare_lossless(
                tables, "first half high is as good as all high", found[FIRST_HALF], found["all-high"], metric
            )
