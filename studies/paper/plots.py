"""The figures; each reads what its result wrote and computes nothing but its layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studies.common.style import (
    BLACK,
    BLUE,
    COLUMN_IN,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    TWO_COLUMNS_IN,
    VERMILION,
    figure_style,
    save_figure,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Draw = Callable[[Path, str], list[Path]]
MODEL_NAMES = {
    "vicuna-7b": "Vicuna-7B",
    "mobilellama-1.4b": "MobileLLaMA",
    "phi-1.5": "Phi-1.5",
    "stablelm-zephyr-3b": "Zephyr-3B",
    "llama-3-8b": "Llama-3-8B",
    "longchat-13b": "Longchat-13B",
}


def _styled(draw: Draw) -> Draw:
    """Draw in the style of a figure in print: text sizes are taken when text is made."""

    @wraps(draw)
    def styled(out: Path, name: str) -> list[Path]:
        import matplotlib as mpl

        mpl.use("Agg")
        with figure_style(column=True):
            return draw(out, name)

    return styled


@_styled
def paper_beside_ours(out: Path, name: str) -> list[Path]:
    """Every entry of a table, the printed value and ours, one line each; summaries of them have another scale."""
    rows = _comparisons(out, name)
    quantity = rows[0]["quantity"]
    rows = [row for row in rows if row["quantity"] == quantity and None not in (row["paper"], row["ours"])]
    size = (TWO_COLUMNS_IN, 0.7 + 0.155 * len(rows))
    figure, (axes,) = _panels(1, size)
    places = range(len(rows))
    axes.hlines(places, [row["paper"] for row in rows], [row["ours"] for row in rows], color=GREY, linewidth=0.8)
    axes.plot([row["paper"] for row in rows], places, "D", color=BLACK, markerfacecolor="none", markersize=4.5)
    axes.plot([row["ours"] for row in rows], places, "o", color=BLUE, markersize=3)
    axes.plot([], [], "D", color=BLACK, markerfacecolor="none", markersize=4.5, label="printed")
    axes.plot([], [], "o", color=BLUE, markersize=3, label="ours")
    axes.set_yticks(places, [row["case"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel(quantity)
    axes.legend(loc="best")
    return _save(figure, out / name)


@_styled
def figure5(out: Path, name: str) -> list[Path]:
    """All 18 labels: printed, the idealised mode, the realistic mode."""
    rows = _table(out, name, "labels")
    sets = list(dict.fromkeys(row["dataset"] for row in rows))
    figure, panels = _panels(len(sets), (TWO_COLUMNS_IN, 2.5), sharey=True)
    for axes, task in zip(panels, sets, strict=True):
        mine = [row for row in rows if row["dataset"] == task]
        for offset, (column, label, colour, hatch) in enumerate(
            (
                ("published_speedup", "printed in Fig. 5", GREY, ""),
                ("analytic_speedup", "pmpd-analytic", BLUE, ""),
                ("realistic_speedup", "realistic", ORANGE, "///"),
            )
        ):
            places = [index + 0.27 * (offset - 1) for index in range(len(mine))]
            axes.bar(
                places,
                [row[column] for row in mine],
                width=0.27,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                linewidth=0.4,
                label=label,
            )
        axes.set_xticks(
            range(len(mine)),
            [row["case"].replace("PMPD-", "").replace("bit", " bits") for row in mine],
            rotation=40,
            ha="right",
        )
        for index, model in enumerate(dict.fromkeys(row["model"] for row in mine)):
            axes.text(
                3 * index + 1,
                1.01,
                model.removesuffix("-1.4B"),
                ha="center",
                va="bottom",
                transform=axes.get_xaxis_transform(),
            )
        axes.set_title(task, pad=14)
    panels[0].set_ylabel("decoding speed-up over fp16")
    _legend_below(figure, panels[0])
    return _save(figure, out / name)


@_styled
def figure2(out: Path, name: str) -> list[Path]:
    """How long outputs stay equal to the full-precision ones, by method."""
    looks = {
        "4 bits": (BLACK, "-"),
        "3 bits": (BLUE, "-"),
        "2 bits": (VERMILION, "-"),
        "prefill 4, decode 3": (SKY, "--"),
        "prefill 3, decode 2": (ORANGE, "--"),
        "PMPD 4 then 3": (GREEN, ":"),
        "PMPD 3 then 2": (PURPLE, ":"),
    }
    rows = _table(out, name, "curves")
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure, panels = _panels(len(models), (TWO_COLUMNS_IN if len(models) > 1 else COLUMN_IN, 2.6), sharey=True)
    for axes, model in zip(panels, models, strict=True):
        mine = [row for row in rows if row["model"] == model]
        for method, (colour, line) in looks.items():
            curve = [row for row in mine if row["method"] == method]
            axes.plot(
                [row["tokens"] for row in curve],
                [row["share"] for row in curve],
                color=colour,
                linestyle=line,
                label=method,
            )
        axes.set_title(f"{model} (n = {mine[0]['n']})")
        axes.set_xlabel("tokens written")
        axes.set_ylim(0, 1.02)
        axes.set_xlim(left=0)
    panels[0].set_ylabel("share of outputs still equal\nto full precision")
    _legend_below(figure, panels[0], columns=4)
    return _save(figure, out / name)


@_styled
def table2(out: Path, name: str) -> list[Path]:
    """Rouge-L to the full-precision answers over mean bits: the paper's four models, and ours by turn."""
    looks = {
        "low": (GREY, "v", "low width"),
        "high": (BLACK, "^", "high width"),
        "high prefill": (SKY, "s", "high prefill"),
        "learned": (GREEN, "D", "PMPD learned"),
        "dns": (ORANGE, "X", "dense-and-sparse"),
    }
    paper = [row for row in _table(out, name, "paper") if row["metric"] == "fidelity_rouge_l"]
    scores = [row for row in _table(out, name, "scores") if row["metric"] == "fidelity_rouge_l"]
    pairs = list(dict.fromkeys(row["pair"] for row in scores))
    figure, panels = _panels(1 + len(pairs), (TWO_COLUMNS_IN, 2.6))
    left = panels[0]
    for row in paper:
        points = [(row[f"{method}_bits"], row[method]) for method in ("low", "learned", "high")]
        left.plot(*zip(*points, strict=True), color=GREY, linewidth=0.7, zorder=1)
        for method, (colour, marker, _) in looks.items():
            if method in row:
                left.plot(row[f"{method}_bits"], row[method], marker, color=colour, markersize=4)
        # The others begin at nearly the same point, so that the end tells them apart.
        end = "low" if row["low_bits"] == min(other["low_bits"] for other in paper) else "high"
        left.annotate(
            MODEL_NAMES[row["model"]],
            (row[f"{end}_bits"], row[end]),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=5.5,
        )
    left.set_xlim(1.85, 4.95)
    left.set_title("printed (Table 2)")
    left.set_ylabel("Rouge-L to full precision")
    for axes, pair in zip(panels[1:], pairs, strict=True):
        mine = [row for row in scores if row["pair"] == pair]
        for turn, face in ((1, None), (2, "none")):
            for row in (row for row in mine if row["turn"] == turn):
                colour, marker, _ = looks[row["method"]]
                error = [[row["value"] - row["ci_low"]], [row["ci_high"] - row["value"]]]
                axes.errorbar(
                    row["mean_bits"] + (0.015 if turn == 2 else -0.015),
                    row["value"],
                    yerr=error,
                    fmt=marker,
                    color=colour,
                    markerfacecolor=face or colour,
                    markersize=4,
                    capsize=2,
                    linewidth=0.8,
                )
        axes.set_title(f"{mine[0]['model']}, {pair} bits (n = {mine[0]['n']})")
    for axes in panels:
        axes.set_xlabel("mean decode bits")
    for colour, marker, label in looks.values():
        left.plot([], [], marker, color=colour, markersize=4, label=label)
    left.plot([], [], "o", color=BLACK, markersize=4, label="turn 1")
    left.plot([], [], "o", color=BLACK, markerfacecolor="none", markersize=4, label="turn 2")
    _legend_below(figure, left, columns=7)
    return _save(figure, out / name)


@_styled
def table5(out: Path, name: str) -> list[Path]:
    """Quoted quality over simulated speed, a panel a model, on the larger NPU in the realistic mode."""
    tasks = {"cnn-dm": ("CNN/DM", "o"), "dialogsum": ("DialogSum", "s"), "iwslt-fr-en": ("IWSLT", "D")}
    methods = {"2 bits": GREY, "PMPD static": BLUE, "3 bits": BLACK}
    rows = [
        row
        for row in _table(out, name, "runs")
        if (row["npu"], row["mode"]) == ("pmpd-16k", "realistic") and row["method"] in methods
    ]
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure, panels = _panels(len(models), (TWO_COLUMNS_IN, 2.5), sharey=True)
    for axes, model in zip(panels, models, strict=True):
        axes.axhline(100, color=BLACK, linewidth=0.6)
        for task, (_, marker) in tasks.items():
            mine = {row["method"]: row for row in rows if (row["model"], row["task"]) == (model, task)}
            points = [mine[method] for method in methods]
            speeds = [row["decode_tokens_per_s"] for row in points]
            axes.plot(speeds, [100 * row["relative_quality"] for row in points], color=GREY, linewidth=0.7, zorder=1)
            for row, colour in zip(points, methods.values(), strict=True):
                axes.plot(
                    row["decode_tokens_per_s"], 100 * row["relative_quality"], marker, color=colour, markersize=4.5
                )
        axes.set_title(MODEL_NAMES[model])
        axes.set_xlabel("decoding speed, simulated (tokens/s)")
    panels[0].set_ylabel("quality, quoted\n(% of 3 bits)")
    for label, marker in tasks.values():
        panels[0].plot([], [], marker, color=BLACK, markerfacecolor="none", markersize=4.5, label=label)
    for label, colour in methods.items():
        panels[0].plot([], [], "o", color=colour, markersize=4.5, label=label)
    _legend_below(figure, panels[0], columns=6)
    return _save(figure, out / name)


def phases(out: Path, name: str) -> list[Path]:
    """Prefill and decode widths, as ``bittaper study pmpd`` draws them."""
    return _small_models(out, name, "table4")


def patterns(out: Path, name: str) -> list[Path]:
    """Where the high width is spent."""
    return _small_models(out, name, "fig3")


def schedulers(out: Path, name: str) -> list[Path]:
    """Schedulers and baselines over mean bits."""
    return _small_models(out, name, "table1")


def inputs(out: Path, name: str) -> list[Path]:
    """Inputs of the learned scheduler."""
    return _small_models(out, name, "fig7")


def gptq(out: Path, name: str) -> list[Path]:
    """Schedulers with GPTQ."""
    return _small_models(out, name, "table9")


def _small_models(out: Path, name: str, experiment: str) -> list[Path]:
    import pandas as pd

    from studies.pmpd.plot import draw_experiment

    rows: pd.DataFrame = pd.DataFrame(_table(out, name, "scores"))
    return draw_experiment(out / name, rows, experiment)


def _comparisons(out: Path, name: str) -> Sequence[Mapping[str, Any]]:
    from studies.paper.files import read_result

    return read_result(out, name).comparisons


def _table(out: Path, name: str, table: str) -> Sequence[Mapping[str, Any]]:
    from studies.paper.files import read_result

    return read_result(out, name).tables[table]


def _panels(count: int, size: tuple[float, float], *, sharey: bool = False) -> tuple[Figure, Sequence[Axes]]:
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(1, count, figsize=size, squeeze=False, sharey=sharey, layout="constrained")
    return figure, list(grid[0])


def _legend_below(figure: Figure, axes: Axes, *, columns: int = 3) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _save(figure: Figure, stem: Path) -> list[Path]:
    import matplotlib.pyplot as plt

    paths = save_figure(figure, stem, column=True)
    plt.close(figure)
    return paths
