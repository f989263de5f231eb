"""Figures of the validation; reads the tables that the run wrote and computes nothing but their layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from studies.common.style import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, figure_style, save_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def write_figures(folder: Path) -> list[Path]:
    """Draw every figure into the folder of a finished run, as PNG and SVG."""
    import matplotlib as mpl
    import pandas as pd

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    paths: list[Path] = []
    with figure_style():
        for name, (table, draw) in FIGURES.items():
            figure = plt.figure()
            draw(figure, pd.read_csv(folder / f"{table}.csv"))
            paths += save_figure(figure, folder / name)
            plt.close(figure)
    return paths


def _draw_overview(figure: Figure, rows: pd.DataFrame) -> None:
    """How much of its bound every judged row uses, by check."""
    judged = rows[rows["verdict"] != "shown"]
    used = judged["error"].abs() / judged["bound"]
    ratio = judged["predicted"] / judged["reference"].where(judged["reference"] != 0, 1)
    used = used.where(judged["demand"] != "predicted <= reference", ratio)
    used = used.where(judged["demand"] != "predicted >= reference", 1 / ratio)
    figure.set_size_inches(6.8, 3.6)
    axes = figure.add_subplot()
    names = list(dict.fromkeys(rows["check"]))[::-1]
    for place, name in enumerate(names):
        mine = judged["check"] == name
        if not mine.any():
            axes.text(0.02, place, "nothing demanded, shown only", color=GREY, va="center", fontsize=8.5)
            continue
        values, failed = used[mine].clip(upper=2.0), judged["verdict"][mine] == "fail"
        spread = [place + 0.22 * ((index % 5) - 2) / 2 for index in range(len(values))]
        colours = [VERMILION if fail else GREEN for fail in failed]
        axes.scatter(values, spread, s=16, c=colours, alpha=0.75, linewidths=0, zorder=3)
        passed = f"{int((~failed).sum())} of {len(failed)} pass"
        axes.text(2.08, place, passed, va="center", fontsize=8.5, color=VERMILION if failed.any() else "black")
    axes.axvline(1, color="black", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(-0.04, 2.05)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel("share of the allowed bound used (beyond 2 drawn at 2)")


def _draw_roofline(figure: Figure, rows: pd.DataFrame) -> None:
    """Cycles above the roofline, for ideal and real NPUs."""
    axes = figure.add_subplot()
    names = list(dict.fromkeys(rows["npu"]))[::-1]
    for bits, marker, colour in ((16, "s", BLUE), (4, "o", GREEN), (3, "^", ORANGE), (2, "D", VERMILION)):
        mine = rows[rows["weight_bits"] == bits]
        places = mine["npu"].map(names.index) + 0.1 * (bits % 5 - 2)
        axes.scatter(100 * mine["excess"], places, s=18, marker=marker, color=colour, label=f"{bits} bits", zorder=3)
    axes.axvline(0.1, color="black", linestyle="--", linewidth=1)
    axes.text(0.105, len(names) - 0.45, "0.1%", fontsize=8.5, va="bottom")
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("simulated cycles above the roofline (%), 512 + 256 tokens")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=4)


def _draw_figure5(figure: Figure, rows: pd.DataFrame) -> None:
    """Every label of the paper's Fig. 5 beside both modes."""
    figure.set_size_inches(7.2, 3.8)
    axes = figure.add_subplot()
    places = [index + index // 3 * 0.6 for index in range(len(rows))]
    axes.bar(places, rows["published_speedup"], width=0.75, color="#d8d8d8", label="published label")
    axes.plot(places, rows["analytic_speedup"], "o", color=BLUE, markersize=4.5, label="pmpd-analytic, fitted")
    axes.plot(places, rows["realistic_speedup"], "^", color=VERMILION, markersize=4.5, label="realistic")
    axes.set_xticks(places, rows["case"].str.replace("PMPD-", ""), rotation=60, ha="right", fontsize=8)
    for first in range(0, len(rows), 3):
        label = f"{rows['dataset'][first]}\n{rows['model'][first]}"
        axes.text(places[first + 1], 8.6, label, ha="center", va="bottom", fontsize=7.5)
    axes.set_ylim(0, 9.6)
    axes.set_ylabel("decoding speed-up over fp16")
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=3)


def _draw_systolic(figure: Figure, rows: pd.DataFrame) -> None:
    """Cycles of every recorded product in both counts."""
    figure.set_size_inches(4.6, 3.8)
    axes = figure.add_subplot()
    limits = [rows["scalesim_cycles"].min() / 1.3, rows["scalesim_cycles"].max() * 1.3]
    axes.plot(limits, limits, color=GREY, linewidth=1)
    for dataflow, marker, colour in (("output-stationary", "o", BLUE), ("weight-stationary", "^", ORANGE)):
        mine = rows[rows["dataflow"] == dataflow]
        label = f"{dataflow} (n = {len(mine)})"
        axes.plot(mine["scalesim_cycles"], mine["predicted_cycles"], marker, color=colour, markersize=5, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("cycles, SCALE-Sim")
    axes.set_ylabel("cycles, hwsim")
    axes.legend(loc="upper left")


def _draw_dram(figure: Figure, rows: pd.DataFrame) -> None:
    """Sustained share of the peak by traffic pattern."""
    figure.set_size_inches(6.4, 3.2)
    axes = figure.add_subplot()
    peak = rows["peak_gb_per_s"] / 100
    places = [len(rows) - 1 - index for index in range(len(rows))]
    reference = rows["reference_gb_per_s"] / peak
    axes.barh(places, 0.06 * reference, left=0.97 * reference, height=0.62, color="#dcdcdc", label="DRAMsim3, ±3%")
    axes.plot(rows["channel_gb_per_s"] / peak, places, "o", color=BLUE, label="channel, burst by burst")
    axes.plot(rows["closed_form_gb_per_s"] / peak, places, "D", color=ORANGE, markersize=5, label="closed form")
    axes.set_yticks(places, rows["memory"] + ": " + rows["pattern"], fontsize=8.5)
    axes.set_xlim(80, 101)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("sustained share of the peak (%)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.25, -0.18), ncols=3)


def _draw_devices(figure: Figure, rows: pd.DataFrame) -> None:
    """Share of the roofline of every device; what was predicted from a device's other speeds."""
    figure.set_size_inches(7.2, 6.2)
    axes = figure.add_subplot()
    scored = rows[rows["class"] == "bandwidth"].sort_values("share_of_roofline")
    control = rows[rows["class"] != "bandwidth"].sort_values("share_of_roofline")
    names: list[str] = []
    places: list[float] = []
    for kind, colour, label in ((control, GREY, "control, shown only"), (scored, BLUE, "bandwidth-limited")):
        first = places[-1] + 1.8 if places else 0.0
        mine = [first + index for index in range(len(kind))]
        axes.barh(mine, 100 * kind["share_of_roofline"], height=0.7, color=colour, alpha=0.45, label=label)
        names += list(kind["id"])
        places += mine
        predicted = 100 * kind["held_out_tokens_per_s"] / kind["roofline_tokens_per_s"]
        if predicted.notna().any():
            axes.plot(predicted, mine, "D", color=VERMILION, markersize=5, label="predicted, leave-one-out")
    axes.set_yticks(places, names, fontsize=7.5)
    axes.set_xlim(0, 103)
    axes.axvline(100, color="black", linewidth=1)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("decoding speed (% of the roofline at the peak bandwidth)")
    axes.legend(loc="lower right", bbox_to_anchor=(0.955, 0.02))


def _draw_flightllm(figure: Figure, rows: pd.DataFrame) -> None:
    """Errors against the authors' profiler with none, one and two constants."""
    figure.set_size_inches(6.8, 3.8)
    axes = figure.add_subplot()
    variants = {
        "NPU file as it is": (GREY, "x"),
        "no constant": (ORANGE, "s"),
        "one constant": (BLUE, "^"),
        "two constants": (GREEN, "o"),
        "two constants, held out": (VERMILION, "D"),
    }
    targets = list(dict.fromkeys(rows["target"]))[::-1]
    for place, target in enumerate(targets):
        bound = 5 if target.startswith("rate") else 10
        axes.barh(place, 2 * bound, left=-bound, height=0.62, color="#e4e4e4")
    for variant, (colour, marker) in variants.items():
        mine = rows[rows["variant"] == variant]
        places = [targets.index(target) for target in mine["target"]]
        axes.plot(100 * mine["error"], places, marker, color=colour, markersize=5, label=variant, alpha=0.9)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(targets)), targets, fontsize=8.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("error against the profiler (%); grey: what is allowed")
    axes.legend(loc="upper center", bbox_to_anchor=(0.3, -0.16), ncols=3, columnspacing=1.2)


PARTS = (
    ("extra_waiting_for_loads_ms", BLUE, "matrix unit waits for loads"),
    ("extra_computing_ms", GREEN, "matrix unit computes"),
    ("extra_waiting_for_inputs_ms", ORANGE, "waits for earlier outputs"),
    ("extra_drained_ms", PURPLE, "drained"),
)


def _draw_prefill(figure: Figure, rows: pd.DataFrame) -> None:
    """Overhead of the high precision by what the matrix unit did in it, and what was hidden."""
    figure.set_size_inches(7.4, 5.4)
    npus, models = list(dict.fromkeys(rows["npu"])), list(dict.fromkeys(rows["model"]))
    grid = figure.subplots(len(npus), len(models), sharex=True)
    for line, npu in enumerate(npus):
        for column, model in enumerate(models):
            axes = grid[line][column]
            mine = rows[(rows["npu"] == npu) & (rows["model"] == model)].reset_index(drop=True)
            loads = mine["extra_planes_ms"] + mine["extra_codebooks_ms"]
            axes.bar(mine.index, loads, width=0.8, facecolor="none", edgecolor=GREY, linewidth=0.9)
            above, below = loads * 0, loads * 0
            for name, colour, _ in PARTS:
                value = mine[name]
                bottom = above.where(value >= 0, below)
                axes.bar(mine.index, value, bottom=bottom, width=0.62, color=colour)
                above, below = above + value.clip(lower=0), below + value.clip(upper=0)
            axes.plot(mine.index, mine["searched_overhead_ms"], "D", color="black", markersize=3.5)
            highest = loads.combine(above, max).combine(mine["searched_overhead_ms"], max)
            top = highest.max()
            for place, (height, share) in enumerate(zip(highest, 100 * mine["overhead"], strict=True)):
                label = f"{share:+.0f}%" if abs(share) >= 9.95 else f"{share:+.1f}%"
                axes.text(place, height + 0.03 * top, label, ha="center", va="bottom", fontsize=7)
            axes.set_ylim(min(below.min() * 1.15, 0), 1.13 * top)
            axes.set_xticks(mine.index, mine["prompt_tokens"])
            axes.grid(axis="x", visible=False)
            axes.tick_params(labelsize=8)
            if line == 0:
                axes.set_title(f"{model}\n{mine['high_bits'][0]} instead of {mine['low_bits'][0]} bits", fontsize=8.5)
            if line == len(npus) - 1:
                axes.set_xlabel("prompt tokens", fontsize=8.5)
        grid[line][0].set_ylabel(f"{npu}: overhead (ms)", fontsize=8.5)
    handles = [axes.bar(0, 0, color=colour, label=label) for _, colour, label in PARTS]
    handles.append(axes.bar(0, 0, facecolor="none", edgecolor=GREY, label="extra bytes / peak bandwidth"))
    handles += axes.plot([], [], "D", color="black", markersize=3.5, label="overhead with searched tiles")
    figure.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, -0.06), ncols=3)
    figure.tight_layout()


FIGURES: dict[str, tuple[str, Callable[[Figure, pd.DataFrame], None]]] = {
    "overview": ("validation", _draw_overview),
    "roofline": ("roofline", _draw_roofline),
    "figure5": ("figure5", _draw_figure5),
    "systolic": ("systolic", _draw_systolic),
    "flightllm": ("flightllm", _draw_flightllm),
    "devices": ("devices", _draw_devices),
    "prefill": ("prefill", _draw_prefill),
    "dram": ("dram", _draw_dram),
}
