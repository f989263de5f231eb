"""What a settling has found where it takes long, kept in the log, so that a killed one goes on after its last part.

NPUs whose compiler searches tiles run every decode step: seconds each, hours for a thousand. Everything else is settled
in seconds, and begins again. A design is known by its place in the enumeration, which is the same for the same study.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dse.log import LogWriter, Record, Settlement
from dse.resume import SAME

if TYPE_CHECKING:
    from dse.design_grid import Metrics

AGAIN = 3
"""Known designs of a kind that are evaluated again: the first, the middle and the last one."""

Rows = NDArray[np.intp]


def look_up(known: Rows, rows: Rows) -> tuple[Rows, Rows]:
    """Which of ``rows`` are among ``known``, which ascends.

    Returns:
        Their places in ``rows``, and in ``known``.
    """
    at = np.searchsorted(known, rows)
    found = np.flatnonzero(at < len(known))
    found = found[known[at[found]] == rows[found]]
    return found, at[found]


class Settled:
    """Metrics of the parts that an earlier run settled, and a log for those of this one.

    Args:
        record: What the log holds.
        log: Where parts are added.
        others: Parts that related explorations settled of this space.
    """

    def __init__(self, record: Record, log: LogWriter, others: Sequence[Settlement] = ()) -> None:
        self._record = record
        self._log = log
        self._others = list(others)
        self._checked: set[int | None] = set()
        self._known: dict[int | None, tuple[Rows, Mapping[str, NDArray[np.float64]]]] = {}

    def find(self, rows: Rows, samples: int | None, evaluate: Callable[[Rows], Metrics]) -> tuple[Rows, Metrics]:
        """Look designs up.

        Args:
            rows: Places in the enumeration.
            samples: Steps of each width that bound them; null where all were run.
            evaluate: Evaluates a few of them again the first time some of this ``samples`` are found: another version
                of the simulator may have left them. If it gives other numbers, nothing is known, now and in later runs.

        Returns:
            The places in ``rows`` that are known, and their metrics.
        """
        known, metrics = self._of(samples)
        found, at = look_up(known, rows)
        if len(found) and samples not in self._checked:
            self._checked.add(samples)
            few = np.unique(np.linspace(0, len(found) - 1, AGAIN).round().astype(np.intp))
            again = evaluate(rows[found[few]])
            for name, values in metrics.items():
                if not np.allclose(values[at[few]], again[name], rtol=SAME, atol=0, equal_nan=True):
                    self._log.unsettled()
                    self._record.settled.clear()
                    self._others.clear()
                    self._known.clear()
                    return found[:0], {}
        return found, {name: values[at] for name, values in metrics.items()}

    def add(self, rows: Rows, samples: int | None, metrics: Metrics) -> None:
        """Keep what this run has found of some designs."""
        columns = {
            name: [None if np.isnan(value) else value for value in values.tolist()] for name, values in metrics.items()
        }
        part = Settlement(rows.tolist(), samples, columns)
        self._log.settled(part)
        self._record.settled.append(part)

    def _of(self, samples: int | None) -> tuple[Rows, Mapping[str, NDArray[np.float64]]]:
        """Known designs in their order, with their metrics."""
        if samples not in self._known:
            parts = [part for part in (*self._record.settled, *self._others) if part.samples == samples]
            if not parts:
                return np.empty(0, dtype=np.intp), {}
            rows, first = np.unique(np.concatenate([part.rows for part in parts]).astype(np.intp), return_index=True)
            metrics = {
                name: np.concatenate([np.array(part.metrics[name], dtype=float) for part in parts])[first]
                for name in parts[0].metrics
            }
            self._known[samples] = rows, metrics
        return self._known[samples]
