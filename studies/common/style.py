"""One look for every figure: size, fonts, colour-blind-safe colours, PNG and SVG."""

from __future__ import annotations

import math
import re
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
    # Names of NPUs, models and tasks are the user's: what looks like mathtext or a mark in them is a letter.
    "text.parse_math": False,
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
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


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
    _write_powers_as_text(figure)
    for kind in formats:
        path = stem.with_name(f"{stem.name}.{kind}")
        metadata = {"Date": None} if kind == "svg" else {}
        with figure_style(column=column), atomic_writer(path, "wb") as file:
            figure.savefig(file, format=kind, bbox_inches="tight", metadata=metadata)
        paths.append(path)
    return paths


def _write_powers_as_text(figure: Figure) -> None:
    """Give logarithmic axes labels that need no mathtext, which the style leaves unparsed: 10³ for 10^{3}."""
    from matplotlib.ticker import LogFormatterMathtext, LogFormatterSciNotation

    class Powers(LogFormatterSciNotation):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return power_text(super().__call__(x, pos))

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            for which in ("major", "minor"):
                formatter = getattr(axis, f"get_{which}_formatter")()
                if isinstance(formatter, LogFormatterMathtext):
                    base = getattr(axis.get_transform(), "base", 10.0)
                    getattr(axis, f"set_{which}_formatter")(Powers(base, formatter.labelOnlyBase))


def power_text(label: str) -> str:
    r"""A tick label of matplotlib's, without mathtext.

    >>> power_text(r"$\mathdefault{2\times10^{-3}}$"), power_text(r"$\mathdefault{10}$"), power_text("")
    ('2×10⁻³', '10', '')
    """
    inner = label.removeprefix(r"$\mathdefault{").removesuffix("}$").replace(r"\times", "×")
    return re.sub(r"\^\{([-\d]+)\}", lambda power: power[1].translate(_SUPERSCRIPTS), inner)


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
