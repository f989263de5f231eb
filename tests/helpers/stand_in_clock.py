"""A benchmark session without a clock: everything runs, in the interpreter or on a GPU, and times are made up."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kernels.bench.session import Session
from kernels.bench.timing import Call


class StandInTimer:
    """Runs every distinct call once and says what it is told: so many microseconds a call."""

    name = "stand-in"

    def __init__(self, us_per_call: float = 2.0) -> None:
        self.us_per_call = us_per_call
        self.graphs: list[tuple[int, int, int]] = []

    def replay_times_us(self, calls: Sequence[Call], distinct: int, replays: int) -> list[float]:
        for call in calls[:distinct]:
            call()
        self.graphs.append((len(calls), distinct, replays))
        return [self.us_per_call * len(calls)] * replays

    def step_times_us(self, steps: Sequence[Call]) -> list[float]:
        for step in steps:
            step()
        return [self.us_per_call] * len(steps)


def stand_in_session(timer: StandInTimer | None = None, l2_bytes: int = 1000) -> Session:
    """A device that says it copies a terabyte a second."""
    return Session(
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        timer=timer or StandInTimer(),
        facts={"device": "stand-in", "driver": "none"},
        l2_bytes=l2_bytes,
        copy_bytes_per_s=1e12,
        read_bytes_per_s=1e12,
    )
