"""What explorations know of each other whose studies differ only in the bounds of their limits.

A design's metrics do not depend on a limit. What one of them has simulated one by one, settled step by step or
confirmed on the other engine, the others take over; what the grid finds in a fraction of a millisecond they find again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dse.candidates import Candidates
from hwsim.trace import InputError, canonical_sha256

if TYPE_CHECKING:
    from dse.evaluation import Numbered
    from dse.log import Outcome, Record, Settlement
    from dse.space import Space


class Related:
    """Grows by each exploration that is given it (see :func:`dse.explore`).

    Attributes:
        confirmed: Metrics of designs on the engine that confirms fronts, or why it cannot run them, by design key.
    """

    def __init__(self) -> None:
        self.confirmed: dict[str, Mapping[str, float] | InputError] = {}
        self._records: list[tuple[Record, str]] = []
        self._indexed = 0
        self._outcomes: dict[str, Outcome] = {}

    def learn(self, record: Record, source: str) -> None:
        """Take in what an exploration has found; ``source`` says whose it is."""
        self._records.append((record, source))

    def outcomes(self, numbered: Sequence[Numbered]) -> list[Outcome]:
        """What is known of designs with these trial numbers; nothing of one whose outcome says nothing of it."""
        if not numbered:
            return []
        for record, source in self._records[self._indexed :]:  # only now: a settled front needs none of them
            for number, design in record.designs_by_number().items():
                outcome = record.outcomes.get(number)
                if outcome is not None and not outcome.unknown:
                    taken = replace(outcome, source=outcome.source or source)
                    self._outcomes.setdefault(canonical_sha256(dict(design)), taken)
        self._indexed = len(self._records)
        known = ((number, self._outcomes.get(design.key)) for number, design in numbered)
        return [replace(outcome, number=number) for number, outcome in known if outcome is not None]

    def settled(self, space: Space, left_out: Collection[str]) -> list[Settlement]:
        """Parts that others settled of a space, or of a part of it: a looser limit on quality lets more schedules in.

        Args:
            space: The space.
            left_out: Schedules that are not in it.
        """
        parts: list[Settlement] = []
        candidates: Candidates | None = None
        for record, _ in self._records:
            missing = set(record.header["excluded_schedules"])
            if not record.settled or not missing.issuperset(left_out):
                continue
            candidates = candidates or Candidates.enumerate(space)
            # Both enumerate schedule by schedule in one order, so that the other's designs are these.
            theirs = np.array([*(label not in missing for label in candidates.labels), True])
            rows = np.flatnonzero(theirs[candidates.schedule_index])
            parts += [replace(part, rows=rows[list(part.rows)].tolist()) for part in record.settled]
        return parts
