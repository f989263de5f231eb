"""What the figures share: colours and marks that go together, and how a figure reads its tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from studies.common.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, YELLOW

if TYPE_CHECKING:
    import pandas as pd

Read = Callable[[str], "pd.DataFrame"]
"""A table of the run by its name."""

GB = 1e9
HALF = 0.5  # elasticity at which two things weigh the same

COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, BLACK, SKY, GREY, YELLOW)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*")
