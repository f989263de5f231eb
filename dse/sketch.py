"""A trace told by a handful of its steps: which to simulate, and how much each counts.

Steps of one kind (phase, width, which codebooks are on chip) differ in their tokens only, and a step's time is
nearly linear in them: weights are read whatever the context, the cache in proportion to it. So a few steps of each
kind are simulated, spread over the tokens it meets, and those between are interpolated. Everything asked of a
trace (time to the first token, of a token, of the whole) is a sum over steps, and hence a weighted sum over the few.
Where steps do not depend on their tokens that is exact.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hwsim.plan import Plan, PlannedStep, StepKind
    from hwsim.trace import Trace

NODES = 3
"""Steps of each kind that are simulated: the fewest and most tokens it meets, and what lies half-way."""

Node = tuple["StepKind", int]
"""One step to simulate: its kind, and its prompt or cached tokens."""


@dataclass(frozen=True)
class Sketch:
    """The steps of one trace that are simulated, and what they stand for.

    Attributes:
        nodes: The steps.
        weights: What each counts in: all steps; the first tokens, the last tokens, and the decode steps times the
            tokens they yield, each a sum over sequences; ``[4, nodes]``.
        sequences: Sequences of the trace.
        decode_steps: Decode steps of all of them.
        mean_decode_bits: Mean weight width over these.
        exact: Whether every step is simulated, so that nothing is interpolated.
    """

    nodes: tuple[Node, ...]
    weights: NDArray[np.float64]
    sequences: int
    decode_steps: int
    mean_decode_bits: float
    exact: bool


def _group_key(step: PlannedStep) -> tuple[object, ...]:
    kind = step.kind
    if kind.members is None:
        return kind
    return kind._replace(members=None), tuple(sorted(bits for bits, _ in kind.members))


def _chosen_tokens(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """The distinct tokens nearest to equal distances, ends included."""
    distinct = np.unique(tokens)
    wanted = np.linspace(distinct[0], distinct[-1], NODES)
    return np.unique(distinct[np.abs(distinct[:, None] - wanted).argmin(axis=0)])


def _interpolation(tokens: NDArray[np.int64], nodes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of each node in each step, ``[nodes, steps]``: straight lines between neighbours."""
    return np.array([np.interp(tokens, nodes, row) for row in np.eye(len(nodes))])


def sketch_of(trace: Trace, *, resident_codebooks: bool) -> Sketch:
    """Choose the steps of a trace that tell the rest.

    Steps of a kind are chosen from all tokens that its phase meets anywhere in the trace, so that traces of equal
    lengths under other schedules share them.

    Args:
        trace: What runs.
        resident_codebooks: Whether codebooks can stay on chip.
    """
    from hwsim.plan import DECODE, plan_steps  # noqa: PLC0415 - importing dse does not load the simulator

    plan = plan_steps(trace, resident_codebooks=resident_codebooks)
    context = np.array([step.context for step in plan.steps], dtype=np.int64)
    counted = _row_weights(plan, len(trace.sequences))
    alone = np.array([step.kind.phase == DECODE and step.kind.members is None for step in plan.steps])
    groups: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for row, step in enumerate(plan.steps):
        groups[_group_key(step)].append(row)
    nodes: list[Node] = []
    weights: list[NDArray[np.float64]] = []
    for rows in groups.values():
        kind = plan.steps[rows[0]].kind
        chosen = _chosen_tokens(context[alone] if alone[rows[0]] else context[rows])
        share = _interpolation(context[rows], chosen)
        weights += [counted[:, rows] @ part for part in share]
        # Steps of several sequences differ in more than the sum of their tokens: one that does occur stands for it.
        members = {int(context[row]): plan.steps[row] for row in rows} if kind.members is not None else {}
        nodes += [
            (members[tokens].kind, members[tokens].tokens) if members else (kind, tokens) for tokens in chosen.tolist()
        ]
    return Sketch(
        nodes=tuple(nodes),
        weights=np.array(weights).T,
        sequences=len(trace.sequences),
        decode_steps=trace.decode_steps(),
        mean_decode_bits=trace.mean_decode_bits(),
        exact=len(plan.steps) <= len(nodes),
    )


def _row_weights(plan: Plan, sequences: int) -> NDArray[np.float64]:
    """How often each step counts in what :class:`Sketch` sums, ``[4, steps]``."""
    from hwsim.plan import DECODE  # noqa: PLC0415

    counted = np.zeros((4, len(plan.steps)))
    counted[0] = 1
    for index in range(sequences):
        start = plan.start_rows[index]
        counted[1, start : plan.first_token_rows[index] + 1] += 1
        counted[2, start : plan.end_rows[index] + 1] += 1
    counted[3] = [step.yields if step.kind.phase == DECODE else 0 for step in plan.steps]
    return counted
