"""The look of figures: names are drawn letter by letter, and logarithmic axes stay readable."""

from __future__ import annotations

import warnings
import xml.etree.ElementTree as ET

import pytest

from studies.common.style import figure_style, save_figure

HOSTILE = ("$x^{2$ _a_", r"_\frac{1}{0} **b** `c`", "costs $5, not $6 <b>&amp;</b>", "a|b\\$ %s {x} {0:d} 100%")


def texts_of(path) -> list[str]:
    found = [element.text or "" for element in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]
    return [text.replace("\xa0", " ") for text in found]


def figure_named(name: str):
    from matplotlib.figure import Figure

    with figure_style(column=True):
        figure = Figure(layout="constrained")
        axes = figure.subplots()
        axes.plot([1, 100], [1, 20])
        axes.set_title(name)
        axes.set_ylabel(name)
        axes.annotate(name, (1, 20))
        axes.set_xticks([1, 100], [name, name])
        figure.legend(axes.lines, [f"{name} (4 MACs)"], title=name)
    return figure


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_drawn_as_it_is_written(name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (path,) = save_figure(figure_named(name), tmp_path / "figure", ["svg"], column=True)
    drawn = texts_of(path)
    assert drawn.count(name) == 6  # title, y label, note, two ticks, title of the legend
    assert f"{name} (4 MACs)" in drawn


def test_logarithmic_axes_have_powers_without_mathtext(tmp_path):
    from matplotlib.figure import Figure

    with figure_style():
        figure = Figure(layout="constrained")
        axes = figure.subplots()
        axes.plot([1e-4, 1, 1e4], [1, 20, 3000])
        axes.set_xscale("log")
        axes.set_yscale("log", base=2)
    for _ in range(2):  # a figure may be saved again
        (path,) = save_figure(figure, tmp_path / "figure", ["svg"])
        drawn = texts_of(path)
        assert {"10⁻⁴", "10⁰", "10⁴", "2⁴"} <= set(drawn)
        assert not any("$" in text or "mathdefault" in text for text in drawn)


def test_a_colour_bar_on_a_logarithmic_scale_has_plain_powers_too(tmp_path):
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    with figure_style():
        figure = Figure(layout="constrained")
        axes = figure.subplots()
        figure.colorbar(axes.scatter([1, 2], [1, 2], c=[1, 1e6], norm=LogNorm()), ax=axes)
    (path,) = save_figure(figure, tmp_path / "figure", ["svg"])
    assert "10⁶" in texts_of(path)
