"""The figure of the study; reads what the run wrote."""

from __future__ import annotations

from pathlib import Path

from hwsim.trace import read_json
from studies.common.style import BLUE, GREY, ORANGE, VERMILION, figure_style, save_figure


def write_figure(folder: Path) -> list[Path]:
    """Draw every process's memory over time, into the folder of a finished run."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from studies.large_model.run import CASES, slug

    cases = {name: read_json(folder / f"{slug(name)}.json")["processes"] for name in CASES}
    model_bytes = next(process["model_disk_bytes"] for processes in cases.values() for process in processes[-1:])
    with figure_style():
        figure, panels = plt.subplots(1, len(cases), figsize=(9.6, 3.0), sharey=True, layout="constrained")
        for axes, (name, processes) in zip(panels, cases.items(), strict=True):
            start = 0.0
            for process in processes:
                times = [start + sample["seconds"] for sample in process["samples"]]
                for key, colour, label in (
                    ("rss_bytes", BLUE, "resident"),
                    ("anonymous_bytes", ORANGE, "of it not file pages"),
                ):
                    values = [sample[key] / 1e9 for sample in process["samples"]]
                    axes.plot(times, values, color=colour, linewidth=1, label=label if start == 0 else None)
                start = times[-1]
                if process["process"] == "killed":
                    axes.axvline(start, color=VERMILION, linewidth=1, linestyle="--")
                    axes.annotate(
                        "SIGKILL ", (start, 0.02), xycoords=("data", "axes fraction"), fontsize=7.5, ha="right"
                    )
            axes.axhline(model_bytes / 1e9, color=GREY, linewidth=1, linestyle=":", label="the model in fp16")
            axes.set_title(name, fontsize=9.5)
            axes.set_xlabel("seconds")
        panels[0].set_ylabel("GB")
        panels[0].set_ylim(bottom=0)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        paths = save_figure(figure, folder / "memory")
        plt.close(figure)
    return paths
