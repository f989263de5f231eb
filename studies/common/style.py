"""One look for every figure: size, fonts, colour-blind-safe colours, PNG and SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim.trace import atomic_writer

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Okabe and Ito's palette, distinguishable under every common colour vision deficiency.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#000000",
)
GREY = "#9a9a9a"

COLOURS, LIGHTEST = "viridis", 0.85
"""A map that grows lighter throughout, for every eye and in grey, up to what is still seen on paper."""

# matplotlib's stubs list every key as a literal type; a plain dict does not match it.
_RC: dict[Any, Any] = {
    "figure.figsize": (6.4, 4.0),
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "font.size": 9.5,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    # Text stays text in the SVG, and two runs of the same data give the same file.
    "svg.fonttype": "none",
    "svg.hashsalt": "bittaper",
}

# For figures that are printed as wide as one column of a two-column paper, or as both.
COLUMN_IN, TWO_COLUMNS_IN = 3.5, 7.16
_COLUMN_RC: dict[Any, Any] = _RC | {
    "font.size": 7.5,
    "legend.fontsize": 6.5,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "hatch.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "savefig.dpi": 300,
}
FIGURE_FORMATS = ("png", "svg")


@contextmanager
def figure_style(*, column: bool = False) -> Iterator[None]:
    """Apply the style to figures made inside the block; ``column``: print size of a paper, not of a screen."""
    import matplotlib as mpl

    with mpl.rc_context(_COLUMN_RC if column else _RC):
        yield


def save_figure(
    figure: Figure, stem: Path, formats: Sequence[str] = FIGURE_FORMATS, *, column: bool = False
) -> list[Path]:
    """Write ``stem`` with each format's suffix atomically; returns the paths."""
    paths = []
    for kind in formats:
        path = stem.with_name(f"{stem.name}.{kind}")
        metadata = {"Date": None} if kind == "svg" else {}
        with figure_style(column=column), atomic_writer(path, "wb") as file:
            figure.savefig(file, format=kind, bbox_inches="tight", metadata=metadata)
        paths.append(path)
    return paths


def colour_map() -> Colormap:
    """The colours of one more quantity."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap([colormaps[COLOURS](LIGHTEST * step / 255) for step in range(256)])


def plain_log_ticks(scale: Axis, low: float, high: float) -> None:
    """Label a logarithmic axis from ``low`` to ``high``, a colour bar's too, with plain numbers, all in one way."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    scale.set_major_locator(LogLocator(subs=(1, 2, 5) if math.log10(high / low) < 2.5 else (1,)))
    scale.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    scale.set_minor_formatter(NullFormatter())
