"""The report of the co-design study: what came out, on what it rests, where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hwsim.trace import read_json
from studies.codesign.confirm import FULL_PRECISION
from studies.common.output import si
from studies.common.report import Cell, FigureFile, Report, Section, Table, write_report_file

LISTED_FRONT_ROWS = 40


def write_codesign_report(folder: Path) -> Path:
    """Write ``report.json`` of a finished run, of which its page is made; returns its path."""
    numbers = read_json(folder / "codesign.json")
    sections = [
        _chosen(folder, numbers),
        _quality(folder, numbers),
        _exploration(folder, numbers),
        _front(folder, numbers),
        _assumptions(numbers),
    ]
    report = Report("NPU and precision schedule, designed together", lead(numbers), sections, {})
    return write_report_file(folder, report)


def lead(numbers: dict[str, Any]) -> str:
    """What was asked of what, and what was found first."""
    explored, chosen = numbers["explored"], numbers["chosen"]
    return (
        f"{numbers['model']} ({numbers['weights'] / 1e6:.1f} million quantised weights) on task "
        f"{numbers['task']['name']}: {explored['evaluated']} pairs of NPU and schedule simulated, the chosen ones "
        f"measured again on {chosen[0]['test']['n']} test prompts. {answers(numbers)[-1]}"
    )


def answers(numbers: dict[str, Any]) -> list[str]:
    """What was found for every share of quality that was asked for, and what test prompts say of both rivals."""
    val = shares_on_validation(numbers)
    return [_answer(design, val) + _doubt(design) + _doubt_of_rival(design) for design in numbers["chosen"]]


def shares_on_validation(numbers: dict[str, Any]) -> dict[str, float]:
    """Quality relative to full precision on the prompts that chose, by schedule."""
    values = {row["schedule"]: row["value"] for row in numbers["quality"]["val"] if row["metric"] == numbers["metric"]}
    full = values[FULL_PRECISION]
    return {schedule: value / full for schedule, value in values.items()}


def _answer(design: dict[str, Any], val: dict[str, float]) -> str:
    test, rival = design["test"], design["uniform_rival"]
    found = (
        f"Asked to keep {design['floor']:.0%} of full-precision quality on validation prompts, schedule "
        f"{design['schedule']} ({val[design['schedule']]:.1%} there) at "
        f"{si(design['npu']['memory.bandwidth_bytes_per_s'], 'B/s')} decodes "
        f"{test['decode_tokens_per_s']:,.0f} tokens/s (simulated) at {_share(test)} of it on test prompts"
    )
    if rival is None:
        return f"{found}; no uniform width that this NPU reads keeps that."
    if rival["schedule"] == design["schedule"]:
        return f"{found}; no mixed schedule is faster."
    gain = test["decode_tokens_per_s"] / rival["test"]["decode_tokens_per_s"]
    return (
        f"{found}; the fastest uniform width by the same rule, {rival['schedule']} ({val[rival['schedule']]:.1%} on "
        f"validation), decodes {rival['test']['decode_tokens_per_s']:,.0f} on the same NPU at {_share(rival['test'])} "
        f"on test, so the mixed one is {gain:.2f} times as fast."
    )


def _doubt_of_rival(design: dict[str, Any]) -> str:
    """What test prompts say of the rival, where they leave anything open of either."""
    rival, floor = design["uniform_rival"], design["floor"]
    if rival is None or rival["schedule"] == design["schedule"]:
        return ""
    test = rival["test"]
    if test["relative_quality_low"] >= floor:
        return f" The rival's whole interval keeps {floor:.0%}." if _doubt(design) else ""
    place = "lies" if test["relative_quality_high"] < floor else "reaches"
    return f" The rival's interval {place} below {floor:.0%}{' too' if _doubt(design) else ''}."


def _doubt(design: dict[str, Any]) -> str:
    """What so few test prompts leave open, or say against it; nothing where the whole interval keeps the floor."""
    test, floor = design["test"], design["floor"]
    if test["relative_quality_low"] >= floor:
        return ""
    if test["relative_quality_high"] < floor:
        return (
            f" Its whole interval over {test['n']} test prompts lies below {floor:.0%}: it does not keep that, though "
            "it did on the prompts that it was chosen by; more --val-prompts make that choice firmer."
        )
    return (
        f" Its interval over {test['n']} test prompts reaches below {floor:.0%}, so that they do not settle whether it "
        "keeps that; more --test-prompts narrow it."
    )


def _beside(test: dict[str, Any], rival: dict[str, Any] | None) -> list[str]:
    """The rival's cells of a row, empty where there is none."""
    if rival is None:
        return [""] * 4
    speed = rival["test"]["decode_tokens_per_s"]
    return [rival["schedule"], f"{speed:,.0f}", _share(rival["test"]), f"{test['decode_tokens_per_s'] / speed:.2f}"]


def _share(test: dict[str, Any]) -> str:
    low, high = test["relative_quality_low"], test["relative_quality_high"]
    return f"{test['relative_quality']:.1%} [{low:.1%}, {high:.1%}]"


def _chosen(folder: Path, numbers: dict[str, Any]) -> Section:
    section = Section("Chosen designs, on prompts that nothing was tuned on")
    section.text(
        "For each floor on quality (relative to full precision, validation prompts): the fastest feasible design "
        "within the compared bandwidth. Speed is simulated on the recorded test responses, each alone (batch 1); "
        "quality is measured on them, with a paired 95% bootstrap interval. The rival is chosen by the same rule: the "
        "fastest uniform width that keeps the same floor on validation prompts, on the same NPU. On test prompts "
        "neither need keep it."
    )
    for answer in answers(numbers):
        section.text(answer)
    rows: list[list[str]] = []
    hardware: list[list[str | Cell]] = []
    paths = list(numbers["chosen"][0]["npu"])
    for design in numbers["chosen"]:
        test, rival = design["test"], design["uniform_rival"]
        name = [f"{design['floor']:.0%}", design["schedule"]]
        rows.append(
            [
                *name,
                f"{test['mean_decode_bits']:.2f}",
                f"{test['decode_tokens_per_s']:,.0f}",
                _share(test),
                *_beside(test, rival),
            ]
        )
        hardware.append(
            [
                *name,
                f"{test['ttft_s'] * 1e3:.2f}",
                Cell(si(test["energy_j_per_token"], "J"), test["energy_j_per_token"]),
                f"{test['area_mm2']:.2f}",
                *(_cell(path, design["npu"][path]) for path in paths),
            ]
        )
    header = ["floor", "schedule", "mean bits", "tokens/s", "quality [95%]"]
    header += ["rival", "its tokens/s", "its quality [95%]", "times as fast"]
    n = numbers["chosen"][0]["test"]["n"]
    section.table(Table(header, rows, caption=f"Test prompts, n = {n}; one row per distinct design."))
    header = ["floor", "schedule", "TTFT (ms)", "energy/token", "area (mm²)", *paths]
    section.table(Table(header, hardware, caption="The NPUs of these designs."))
    section.figure(
        FigureFile(
            folder / "front.svg",
            "Every simulated design. The front is coloured by off-chip bandwidth, its markers tell the kind of "
            "schedule; stars are the chosen designs on test prompts.",
            "decoding speed against relative quality of all designs",
        )
    )
    return section


def _cell(path: object, value: Any) -> str | Cell:
    if value is None:
        return "-"
    if str(path).endswith("bytes_per_s"):
        return Cell(si(value, "B/s"), value)
    return f"{value:,.6g}" if isinstance(value, int | float) else str(value)


def _quality(folder: Path, numbers: dict[str, Any]) -> Section:
    section = Section("What the precision does to the text")
    section.figure(
        FigureFile(
            folder / "quality.svg",
            "Measured quality of every schedule of the grid against the mean bits that its decode steps read.",
            "quality against mean decode bits by kind of schedule",
        )
    )
    by_split = {split: numbers["quality"][split] for split in ("val", "test")}
    for split, title in (("val", "Validation prompts (seen by the exploration)"), ("test", "Test prompts")):
        rows = [
            [
                row["schedule"],
                f"{row['mean_decode_bits']:.3f}",
                row["metric"],
                f"{row['value']:.2f}",
                f"{row['ci_low']:.2f}",
                f"{row['ci_high']:.2f}",
                str(row["n"]),
            ]
            for row in by_split[split]
        ]
        header = ["schedule", "mean bits", "metric", "value", "95% low", "95% high", "n"]
        section.table(Table(header, rows, caption=f"{title}: every schedule and metric", collapsed=True))
    return section


def _exploration(folder: Path, numbers: dict[str, Any]) -> Section:
    explored = numbers["explored"]
    section = Section("The exploration")
    section.text(
        f"{explored['evaluated']} designs were simulated with the {explored['sampler']} sampler: "
        f"{explored['infeasible']} break a limit, {explored['duplicates']} repeated suggestions cost nothing, "
        f"{explored['excluded_schedules']} schedules were left out beforehand because their measured quality breaks "
        f"the limit. {numbers['front_size']} designs are on the front."
    )
    study = numbers["study"]
    rows = [[item["name"], item["direction"], ""] for item in study["objectives"]]
    rows += [
        [item["name"], item["op"], f"{item['bound']:g} {item['unit'] or ''}".strip()] for item in study["constraints"]
    ]
    section.table(Table(["quantity", "direction or limit", "bound"], rows, caption="Objectives and limits"))
    section.figure(
        FigureFile(
            folder / "progress.svg",
            "Volume of objective space that the front dominates, against designs simulated.",
            "hypervolume against evaluations",
        )
    )
    return section


def _front(folder: Path, numbers: dict[str, Any]) -> Section:
    import pandas as pd

    pareto = pd.read_csv(folder / "pareto.csv")
    section = Section("The Pareto front")
    objectives = [item["name"] for item in numbers["study"]["objectives"]]
    columns = ["number", "schedule", *objectives, "area_mm2", *numbers["study"]["parameters"]]
    columns = [column for column in dict.fromkeys(columns) if column in pareto]
    shown = pareto[columns].head(LISTED_FRONT_ROWS)
    rows = [[_cell(column, value) for column, value in row.items()] for row in shown.to_dict("records")]
    caption = f"The first {len(rows)} of {len(pareto)} designs by speed; all are in pareto.csv. Quality on validation."
    section.table(Table([str(column) for column in columns], rows, caption=caption))
    return section


def _assumptions(numbers: dict[str, Any]) -> Section:
    section = Section("What this rests on")
    study = numbers["study"]
    section.text(
        f"Quality is measured by really decoding {numbers['model']} on its task; no value is interpolated. Speed, "
        f"energy and area come from the NPU model in its {study['mode']} mode ({study['engine']} engine) starting "
        f"from {numbers['npu']}: off-chip traffic of planes, codebooks, keys and values, the unquantised lm_head and "
        "embeddings, DRAM timing and refresh, matrix unit and SFU. Its constants and their sources are in the NPU's "
        f"YAML file, which marks these as assumed: {', '.join(numbers['assumed']) or 'none'}."
    )
    apart = max(abs(d["cycles"]["events"] - d["cycles"]["fast"]) / d["cycles"]["events"] for d in numbers["chosen"])
    section.text(
        "Every chosen design was simulated by both engines on all test responses, event by event and by recurrences: "
        + ("their cycles are equal." if apart == 0 else f"their cycles differ by up to {apart:.3%}.")
    )
    section.text(
        "While quality was measured, activations and the KV cache had floating-point precision; the NPU model reads "
        "activations of 8 bits and keys and values of 16, as FlightLLM and PMPD assume. The cost in quality of 8-bit "
        "activations is not measured here."
    )
    section.text(
        "The exploration simulates one response of the mean prompt and response length of the validation run at full "
        "precision; the table of chosen designs uses every recorded test response with its own length. A small model "
        "stands in for a large one: the speeds are those of this model, and its quality under few bits need not carry "
        "over to others."
    )
    return section
