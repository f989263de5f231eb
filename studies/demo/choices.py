"""What the page's controls say, and the schedules that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from hwsim.trace import InputError, Schedule, unknown_name

PrecisionName = Literal["PMPD", "High", "Low"]
SchedulerName = Literal["Static", "Learned"]
PRECISIONS: tuple[str, ...] = get_args(PrecisionName)
SCHEDULERS: tuple[str, ...] = get_args(SchedulerName)
NO_RIVAL = "nothing"
FULL_PRECISION = "16 bits"
RIVALS = ("High", "Low", "PMPD", FULL_PRECISION, NO_RIVAL)


@dataclass(frozen=True)
class Choices:
    """How a prompt is to be answered.

    Attributes:
        precision: ``PMPD``: falling widths. ``High`` and ``Low``: the widest and the narrowest of the precision set
            throughout, prefill included, as the paper's baselines.
        scheduler: Of PMPD: ``Static`` follows the switch position, ``Learned`` chooses for each prompt.
        widths: The precision set of decoding, in any order.
        prefill_weight_bits: Width of PMPD's prefill; the widest of the set by default.
        switch_step: Decode steps that PMPD runs at each width before it falls to the next of the set.
        max_new_tokens: Bound M on the response.
        rival: What is decoded beside it: one of :data:`RIVALS`, or a schedule as ``p4:4>3@20``.
    """

    precision: str = "PMPD"
    scheduler: str = "Static"
    widths: tuple[int, ...] = (4, 2)
    prefill_weight_bits: int | None = None
    switch_step: int = 20
    max_new_tokens: int = 96
    rival: str = "High"

    def __post_init__(self) -> None:
        for field, known in (("precision", PRECISIONS), ("scheduler", SCHEDULERS)):
            if getattr(self, field) not in known:
                raise unknown_name(field, str(getattr(self, field)), known)
        if not self.widths:
            raise InputError("precision set: empty; choose at least one width")
        if self.max_new_tokens < 1:
            raise InputError(f"max new tokens = {self.max_new_tokens}: must be >= 1")
        if self.switch_step < 0:
            raise InputError(f"switch position = {self.switch_step}: must be >= 0")

    @property
    def learned(self) -> bool:
        """Whether a learned scheduler plans the response."""
        return self.precision == "PMPD" and self.scheduler == "Learned"

    def schedule(self, precision: str | None = None) -> Schedule:
        """The static schedule of ``precision``, or of what is chosen.

        >>> Choices(widths=(2, 4, 3), switch_step=20).schedule().label()
        'p4:4>3@20>2@40'
        >>> Choices(widths=(4, 2)).schedule("Low").label()
        'p2:2'
        """
        falling = sorted(set(self.widths), reverse=True)
        precision = precision or self.precision
        if precision == "High":
            return Schedule.uniform(falling[0])
        if precision == "Low":
            return Schedule.uniform(falling[-1])
        pairs = [(place * self.switch_step, bits) for place, bits in enumerate(falling)]
        return Schedule.from_pairs(self.prefill_weight_bits or falling[0], pairs)

    def rival_schedule(self) -> Schedule | None:
        """What is decoded beside the response; None for nothing.

        Raises:
            InputError: If it is neither a known name nor a schedule.
        """
        if self.rival == NO_RIVAL:
            return None
        if self.rival == FULL_PRECISION:
            return Schedule.uniform(16)
        if self.rival in PRECISIONS:
            return self.schedule(self.rival)
        return Schedule.from_label(self.rival)


def default_widths(stored: Sequence[int]) -> tuple[int, ...]:
    """A precision set to start with: 4 and 2 bits where they are stored, else the ends of what is.

    >>> default_widths([2, 3, 4, 5, 8, 16]), default_widths([3, 4, 16]), default_widths([5, 6, 16])
    ((4, 2), (4, 3), (6, 5))
    >>> default_widths([16])
    (16,)
    """
    nested = [bits for bits in sorted(stored) if bits <= 4] or [bits for bits in sorted(stored) if bits < 16]
    nested = nested or sorted(stored)
    return (nested[-1], nested[0]) if len(nested) > 1 else (nested[0],)
