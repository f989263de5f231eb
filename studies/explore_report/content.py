"""What the report says, section by section; reads numbers and computes none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dse.uncertainty import INTERVALS
from dse.validation import judged_by, validation_errors
from studies.common.report import Section, Table
from studies.explore_report.analyses import (
    LISTED_ROWS,
    add_figure,
    binding_section,
    importance_section,
    leaves,
    search_section,
    sensitivity_section,
    worth_section,
)
from studies.explore_report.numbers import Numbers
from studies.explore_report.plot_designs import repeats
from studies.explore_report.quantities import cell, limit_text, quantity, share

if TYPE_CHECKING:
    import pandas as pd

    from dse import Parameter

LISTED_FRONT_ROWS = 20


def make_lead(numbers: Numbers) -> str:
    """What came out, in a paragraph."""
    found, names = numbers.found, numbers.objectives
    front = found.pareto
    space = "a continuous space" if found.space_size is None else f"a space of {found.space_size:,} designs"
    sure = "The front is exact: no design of the space is missing." if found.front_is_exact else _SAMPLED
    if front.empty:
        return f"{found.counts.evaluated:,} designs of {space} were simulated, and none keeps all limits."
    best = []
    for objective in found.study.objectives:
        values = front[objective.name]
        value = values.max() if objective.direction == "maximize" else values.min()
        best.append(f"{quantity(objective.name).name} {cell(objective.name, float(value))}")
    explored = f"{found.counts.evaluated:,} designs of {space} were simulated"
    if found.sampler == "exact" and found.front_is_exact:
        kept = found.counts.evaluated
        explored = f"All {found.space_size:,} designs of the space were enumerated, and all but {kept:,} ruled out"
    return (
        f"{explored}; {len(front):,} of them are on the front of "
        f"{', '.join(quantity(name).name for name in names)}. Best of each alone: {'; '.join(best)}. {sure}"
    )


_SAMPLED = "The space was sampled: designs that were not simulated may be better."


def make_sections(numbers: Numbers, figures: Mapping[str, Path]) -> list[Section]:
    """Every section that has something to say."""
    return [
        _explored(numbers),
        _front(numbers, figures),
        binding_section(numbers),
        *worth_section(numbers, figures),
        search_section(numbers, figures),
        *importance_section(numbers, figures),
        *sensitivity_section(numbers, figures),
        *_all_designs(figures),
        _basis(numbers),
    ]


def _explored(numbers: Numbers) -> Section:
    found = numbers.found
    study, counts = found.study, found.counts
    section = Section("What was explored")
    section.text(
        f"NPU {Path(study.npu).name} in mode {study.mode}, {study.engine} engine; sampler {found.sampler}, seed "
        f"{study.seed}. {counts.evaluated:,} designs were simulated: {counts.infeasible:,} of them break a limit; "
        f"{counts.invalid:,} more cannot run. Repeated suggestions, which cost nothing: {counts.duplicates:,}. "
        f"Schedules left out beforehand: {counts.excluded_schedules:,}."
    )
    if counts.taken_over:
        section.text(f"Taken over from elsewhere and not simulated again: {counts.taken_over:,} designs.")
    for note in found.notes:
        section.text(f"Note: {note}.")
    rows = [[quantity(path).name, *_parameter(path, parameter)] for path, parameter in study.parameters.items()]
    schedules = found.trials["schedule"].dropna()
    if len(schedules):
        rows.append(["schedule", f"{schedules.nunique():,} that were simulated", ""])
    section.table(Table(["decision", "values", "acts when"], rows, caption="The space"))
    goals = [[quantity(one.name).name, f"{one.direction.removesuffix('e')}e"] for one in study.objectives]
    goals += [[quantity(limit.name).name, limit_text(limit)] for limit in study.constraints]
    section.table(Table(["quantity", "goal or limit"], goals, caption="Objectives and limits"))
    loads = [
        [
            Path(load.model).name if load.model else "from the trace",
            ", ".join(Path(path).name for path in load.trace) if load.trace else "",
            cell("", load.prompt_tokens) if load.prompt_tokens else "",
            cell("", load.decode_tokens) if load.decode_tokens else "",
            f"{load.weight:g}",
        ]
        for load in study.workloads
    ]
    header = ["model", "trace", "prompt tokens", "decode tokens", "weight"]
    section.table(Table(header, loads, caption=f"Workloads, combined as {study.aggregate}"))
    quality = _quality_rows(found.trials)
    if quality:
        section.table(Table([*QUALITY_FIELDS, "schedules"], quality, caption="Where quality comes from"))
    return section


def _parameter(path: str, parameter: Parameter) -> list[str]:
    """Values of a parameter, and its condition."""
    when = "; ".join(
        f"{parent} is {', '.join(map(str, allowed))}" for parent, allowed in (parameter.when or {}).items()
    )
    if parameter.choices is not None:
        return [", ".join(cell(path, choice) for choice in parameter.choices), when]
    scale = ", logarithmic" if parameter.logarithmic else ""
    step = f", step {cell(path, parameter.step)}" if parameter.step is not None else ""
    points = f", {parameter.points:,} points" if parameter.points is not None else ""
    return [f"{cell(path, parameter.low)} to {cell(path, parameter.high)}{step}{points}{scale}", when]


QUALITY_FIELDS = ("source", "interpolated", "metric", "model", "task", "split", "reference", "n", "citation")


def _quality_rows(trials: pd.DataFrame) -> list[list[str]]:
    """Sources of quality with the number of schedules of each."""
    columns = {name: f"quality_{name}" for name in QUALITY_FIELDS}
    if columns["source"] not in trials:
        return []
    table = trials[[column for column in columns.values() if column in trials]].copy()
    for name, column in columns.items():
        if column not in table:
            table[column] = ""
        elif name == "interpolated":
            table[column] = table[column].map(lambda value: "yes" if value is True else "no")
        else:
            table[column] = [cell("", value) if isinstance(value, int | float) else value for value in table[column]]
    counts = trials["schedule"].groupby([table[column] for column in columns.values()], dropna=False).nunique()
    return [[*map(str, key), str(counts[key])] for key in counts.index.to_list()]


def _front(numbers: Numbers, figures: Mapping[str, Path]) -> Section:
    found, study = numbers.found, numbers.found.study
    section = Section("The Pareto front")
    front = found.pareto
    if front.empty:
        section.text("No simulated design keeps all limits.")
        return section
    add_figure(section, figures, "front")
    uncertain = [name for name in numbers.objectives if name in INTERVALS]
    known = [name for name in uncertain if INTERVALS[name][0] in front and front[INTERVALS[name][0]].notna().any()]
    if known:
        challenged = int((front["challengers"] > 0).sum())
        section.text(
            f"{challenged:,} of {len(front):,} front designs are there by a difference in quality within its 95% "
            "intervals: another front design is at least as good in every other objective, and the intervals overlap. "
            "They are kept, and the column 'rival' names that design. (Overlapping intervals are a weaker test than a "
            "paired comparison.)"
        )
    elif uncertain:
        section.text("Quality comes without intervals, so nothing says which of its differences are real.")
    columns = ["number", "schedule", *numbers.objectives, *(limit.name for limit in study.constraints)]
    columns += [path for path in study.parameters if not any(repeats(front[path], front[name]) for name in columns[2:])]
    columns = [name for name in dict.fromkeys(columns) if name in front]
    header = ["trial" if name == "number" else quantity(name).name for name in columns]
    if known:
        header.insert(columns.index(known[0]) + 1, "95% interval")
    rows = []
    for row in front.head(LISTED_ROWS).to_dict("records"):
        cells = [cell(str(name), row[name]) for name in columns]
        cells[0] = str(row["number"])
        if known:
            low, high = (row[name] for name in INTERVALS[known[0]])
            text = "none" if math.isnan(low) else f"{low:.4g} to {high:.4g}"
            cells.insert(columns.index(known[0]) + 1, text)
            cells.append(str(row["challenged_by"]) if row["challengers"] else "")
        rows.append(cells)
    for name in numbers.objectives:
        if (errors := judged_by(study.mode, name)) is not None:
            shown = quantity(name).name
            section.text(
                f"{shown[:1].upper()}{shown[1:]} was off by {errors} in the validation, and as far do the light bars "
                "reach; designs of one study share most of that error."
            )
    if known:
        header.append("rival")
    caption = f"The first {min(len(rows), LISTED_FRONT_ROWS)} of {len(front):,} designs by the first objective"
    section.table(Table(header, rows[:LISTED_FRONT_ROWS], caption=f"{caption}; all are in pareto.csv."))
    if len(rows) > LISTED_FRONT_ROWS:
        section.table(Table(header, rows[LISTED_FRONT_ROWS:], caption="The next", collapsed=True))
    return section


def _all_designs(figures: Mapping[str, Path]) -> list[Section]:
    if not {"parallel", "scatter"} & set(figures):
        return []
    section = Section("All designs")
    add_figure(section, figures, "parallel")
    add_figure(section, figures, "scatter")
    return [section]


def _basis(numbers: Numbers) -> Section:
    from hwsim.assumptions import assumed_numbers

    study = numbers.found.study
    section = Section("What this rests on")
    section.text(
        "Speed, energy and area come from the NPU model; quality comes from the sources listed above. A quality that "
        "was quoted has no interval unless its source gives one; one that was interpolated is labelled, with a wider "
        "interval."
    )
    rows = []
    for basis in (basis for basis in validation_errors().bases if basis.mode == study.mode):
        found = [point.error for point in basis.points]
        errors = judged_by(study.mode, basis.metrics[0])
        judges = "yes" if errors is not None and basis.title in {one.title for one in errors.bases} else ""
        ends = " to ".join(f"{end:+.1%}" for end in dict.fromkeys((min(found), max(found))))
        rows.append([quantity(basis.metrics[0]).name, basis.title, share(basis.median), ends, str(basis.n), judges])
    caption = f"Errors of the simulator in its validation, mode {study.mode}: predicted / true - 1"
    section.table(Table(["metric", "against", "median size", "from, to", "n", "judges"], rows, caption=caption))
    section.text(
        "Margins and bars are judged by every comparison with nothing fitted, whichever its basis (where there is "
        "none, by all): the true value lies between the simulated one / (1 + largest error) and / (1 + smallest "
        "error), 0 being always among the errors, and a limit is in doubt where one of these two breaks it."
    )
    section.text("Energy, area and DRAM traffic were compared with no published number.")
    assumed = assumed_numbers(study.npu)
    section.text(
        f"Numbers that the file of {Path(study.npu).name} marks as assumed: {', '.join(assumed) or 'none'}. Those of "
        "the cost model are marked in hwsim/cost.py."
    )
    return section


def flat_provenance(values: Mapping[str, Any], extra: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The record's provenance, then what is added, as text."""
    return {**dict(leaves(values)), **dict(extra)}
