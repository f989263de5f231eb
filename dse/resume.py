"""Whether a run may go on with a record: it must be of the same study, and of a simulator that gives the same.

A record's trials are compared with each other, so they must be one simulator's. Versions differ by more than what
decides a number (a title, a study, a test), and the same version may be changed without a commit; so the numbers
decide. Where the version or the commit differs, or holds changes that are not committed, some finished trials of the
record are simulated again: the run goes on if they are the same, and the record says so; it is refused if they are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dse.log import LogWriter, Outcome, Record, version_of
from dse.problem import Problem
from dse.simulator import Simulator
from hwsim.trace import InputError

MAX_DIFFERENCES = 3
"""Differences that are spelt out where a record belongs to another study."""

AGAIN = 3
"""Trials that are simulated again: the first, the middle and the last one."""

SAME = 1e-9
"""Relative difference of two numbers that are the same: libraries may sum in another order."""


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """Where two JSON values differ, each as ``field = its value there, here its value here``.

    >>> differences({"seed": 1, "limits": {"a": 2}}, {"seed": 1, "limits": {"a": 3, "b": 4}})
    ['limits.a = 2, here 3', 'limits.b is not there, here 4']
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return [
            line
            for key in sorted({*before, *now})
            for line in differences(before.get(key), now.get(key), f"{path}.{key}" if path else key)
        ]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = zip(before, now, strict=True)
        return [line for index, pair in enumerate(pairs) for line in differences(*pair, f"{path}.{index}")]
    if before == now:
        return []
    there, here = (" is not there" if before is None else f" = {_short(before)}"), _short(now)
    return [f"{path}{there}, here {here if now is not None else 'nothing'}"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def check_same_study(log: Path, record: Record, problem: Problem) -> None:
    """Refuse to go on with the record of another study.

    Raises:
        InputError: With what differs.
    """
    before, now = record.header["meaning"], problem.meaning
    found = differences(before, now)
    if list(before["parameters"]) != list(now["parameters"]) and not found:
        found.append("parameters are in another order, which samplers follow")
    if found:
        more = f" and {len(found) - MAX_DIFFERENCES} more" if len(found) > MAX_DIFFERENCES else ""
        raise InputError(
            f"{log}: was written by another study ({'; '.join(found[:MAX_DIFFERENCES])}{more}); choose another folder, "
            f"or move it away"
        )


def check_same_simulator(log: LogWriter, record: Record, problem: Problem, provenance: Mapping[str, str]) -> None:
    """Refuse to mix the trials of simulators that differ; note in the record that another version goes on.

    Args:
        log: Where the record is.
        record: What an earlier run left.
        problem: The study.
        provenance: Of this run.

    Raises:
        InputError: With the trial and the metric that differ.
    """
    again = check_same_numbers(log.path, record, problem, provenance)
    if again is not None and version_of(record.last_provenance) != version_of(provenance):
        log.continued(record, provenance, again)


def check_same_numbers(
    log: Path, record: Record, problem: Problem, provenance: Mapping[str, str]
) -> Sequence[int] | None:
    """Refuse to compare with the trials of a simulator that differs.

    What stands in for the simulator has no version that could be known, and is not looked at.

    Args:
        log: Where the record is.
        record: What an earlier run left.
        problem: The study.
        provenance: Of this run.

    Returns:
        Trials that were simulated again; null where the simulator is the same one for sure.

    Raises:
        InputError: With the trial and the metric that differ.
    """
    if not isinstance(problem.evaluate, Simulator):
        return None
    before, now = version_of(record.last_provenance), version_of(provenance)
    if before == now and "-dirty" not in now:
        return None
    known = sorted(number for number, one in record.outcomes.items() if not one.unknown)
    # Where all were taken over, as under a loosened limit, only those can tell which simulator it was.
    done = [number for number in known if record.outcomes[number].source is None] or known
    chosen = {done[round(index * (len(done) - 1) / (AGAIN - 1))] for index in range(AGAIN)} if done else set()
    designs = record.designs_by_number()
    for number in sorted(chosen):
        design = problem.space.decode(designs[number])
        (metrics,) = problem.evaluate.many([design])
        difference = _difference(record.outcomes[number], metrics)
        if difference is not None:
            raise InputError(
                f"{log}: was written by {before}, whose simulator gives {difference[0]} for trial {number}, and "
                f"{now} gives {difference[1]}; their trials do not compare: choose another folder, or go on with that "
                "version"
            )
    return sorted(chosen)


def _difference(outcome: Outcome, metrics: Mapping[str, float] | InputError) -> tuple[str, str] | None:
    """What the record and the simulator say of a trial where they differ."""
    if isinstance(metrics, InputError) or outcome.error is not None:
        there = "an error" if outcome.error is not None else "a result"
        here = "an error" if isinstance(metrics, InputError) else "a result"
        return None if there == here else (there, here)
    for name, value in metrics.items():
        known = outcome.metrics.get(name)
        if known is None or not math.isclose(known, value, rel_tol=SAME):
            there = "nothing" if known is None else f"{known:.10g}"
            return f"{name} = {there}", f"{value:.10g}"
    return None
