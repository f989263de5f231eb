"""Sections on what an exploration says: limits, worth, the search, what matters; reads numbers and computes none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dse.importance import is_biased
from dse.sensitivity import caution
from studies.common.report import FigureFile, Section, Table
from studies.explore_report.numbers import Numbers
from studies.explore_report.plot import FIGURES
from studies.explore_report.quantities import cell, quantity, share

LISTED_ROWS = 400
SHOWN_FACTORS = 12


def add_figure(section: Section, figures: Mapping[str, Path], name: str) -> None:
    """Add a figure where it was drawn."""
    if name in figures:
        section.figure(FigureFile(figures[name], FIGURES[name].caption, FIGURES[name].alt))


def binding_section(numbers: Numbers) -> Section:
    """Designs stopped by each limit, and what loosening it buys."""
    section = Section("What binds")
    if numbers.stopped.empty:
        section.text("The study has no limits.")
        return section
    counted = ("alone", "pruned", "schedules", "tight")
    rows = [
        [str(row["constraint"]), f"{row['stopped']:,}", share(row["share"]), *(f"{row[name]:,}" for name in counted)]
        for row in numbers.stopped.to_dict("records")
    ]
    header = ["limit", "designs it stops", "share", "by it alone", "pruned unsimulated", "schedules left out"]
    n = int(numbers.stopped["n"].iloc[0])
    section.table(Table([*header, "front within 1%"], rows, caption=f"Simulated designs by limit, n = {n:,}"))
    table = numbers.relaxations
    if table.empty:
        return section
    section.text("Shadow prices: what loosening one limit by a share of its bound buys, the others kept.")
    if not table["exact"].all():
        exact = "bittaper explore prices FOLDER explores again beyond each limit. " * numbers.found.front_is_exact
        section.text(
            "They are differences between recorded designs; where designs beyond it were pruned, left out or never "
            f"drawn, the gain is at least what is shown. {exact}".strip()
        )
    objectives = numbers.objectives
    grouped: dict[tuple[str, float], dict[str, dict[Any, Any]]] = {}
    for row in table.to_dict("records"):
        grouped.setdefault((row["constraint"], row["relaxed_by"]), {})[row["objective"]] = row
    rows = []
    for (limit, loosened), by in grouped.items():
        first = by[objectives[0]]
        gains = [_gain(name, by[name]["gain"]) for name in objectives]
        sure = "exact" if first["exact"] else "at least"
        rows.append([limit, share(loosened), f"{first['added']:,}", *gains, share(first["volume_gain"]), sure])
    header = ["limit", "loosened", "designs added", *(f"gain in {quantity(name).name}" for name in objectives)]
    section.table(Table([*header, "hypervolume", ""], rows))
    return section


def _gain(name: str, value: float) -> str:
    return "0" if value == 0 else f"{value * quantity(name).factor:+.4g}"


def worth_section(numbers: Numbers, figures: Mapping[str, Path]) -> list[Section]:
    """What a GB/s buys and what a bit costs."""
    if numbers.rates.empty:
        return []
    section = Section("What a GB/s or a bit is worth")
    section.text(
        "Along the designs where more bandwidth buys more, the others' limits kept: the difference between the dearest "
        "and the cheapest, and between the ends of the first and the last third of steps. Nothing is fitted."
    )
    for bought, title, per in (
        ("decode_tokens_per_s", "What one more GB/s buys, in decode tokens/s, at no less quality", 1e9),
        ("mean_decode_bits", "What one more bit costs, in GB/s, at no less speed", None),
    ):
        mine = numbers.rates[numbers.rates["bought"] == bought]
        rows = [
            [
                row["fixed"] or "all designs",
                *(_rate(float(row[name]), per) for name in ("rate", "rate_first", "rate_last")),
                f"{row['paid_low'] / 1e9:.4g} to {row['paid_high'] / 1e9:.4g}",
                f"{row['steps']:,}",
                f"{row['n']:,}",
                "exact" if row["exact"] else "of those simulated",
            ]
            for row in mine.to_dict("records")
        ]
        if rows:
            header = ["at", "whole range", "first third", "last third", "GB/s", "steps", "n designs", ""]
            section.table(Table(header, rows, caption=title))
    add_figure(section, figures, "worth")
    return [section]


def _rate(value: float, per: float | None) -> str:
    if math.isnan(value):
        return "n/a"
    return f"{value * per:.4g}" if per else f"{1e-9 / value:.4g}"


def search_section(numbers: Numbers, figures: Mapping[str, Path]) -> Section:
    """How soon the front was found, the certificate, what was left out or cannot run."""
    found = numbers.found
    section = Section("How the search went")
    volumes = found.hypervolume["hypervolume"].to_numpy()
    if len(volumes) and volumes[-1] > 0:
        reached = [
            f"{share(level)} after {int((volumes >= level * volumes[-1]).argmax()) + 1:,}"
            for level in (0.9, 0.95, 0.99)
        ]
        final = "exact" if found.front_is_exact else "last"
        reference = ", ".join(
            f"{quantity(name).name} {cell(name, value)}" for name, value in found.reference_point.items()
        )
        section.text(
            f"Of the {final} hypervolume (reference point: {reference}), {', '.join(reached)} of "
            f"{len(volumes):,} simulated designs."
        )
    levels = found.counts.levels
    if levels:
        counted = ", ".join(f"{count:,} of level '{name}'" for name, count in levels.items())
        section.text(f"Cheaper evaluations chose them, which are not counted as simulated: {counted}.")
    add_figure(section, figures, "hypervolume")
    if found.certificate is not None:
        rows = [[name, text] for name, text in leaves(found.certificate)]
        section.table(Table(["what", "value"], rows, caption="The certificate of the enumeration"))
    if found.excluded_schedules:
        by_reason: dict[str, list[str]] = {}
        for label, reason in found.excluded_schedules.items():
            by_reason.setdefault(reason, []).append(label)
        rows = [[reason, f"{len(labels):,}", _shortened(labels)] for reason, labels in by_reason.items()]
        caption = f"Schedules left out beforehand ({len(found.excluded_schedules):,})"
        section.table(Table(["reason", "schedules", "which"], rows, caption=caption, collapsed=len(rows) > 10))
    invalid = found.trials[found.trials["error"].notna()]
    if len(invalid):
        rows = [[str(reason), f"{count:,}"] for reason, count in invalid["error"].value_counts().head(20).items()]
        section.table(Table(["reason", "designs"], rows, caption="Designs that cannot run"))
    return section


def _shortened(labels: Sequence[str]) -> str:
    """Some of many labels."""
    more = f" and {len(labels) - LISTED_ROWS:,} more" if len(labels) > LISTED_ROWS else ""
    return f"{', '.join(labels[:LISTED_ROWS])}{more}"


def leaves(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Leaves of nested numbers, as text."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        path = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            rows += leaves(value, f"{path}: ")
        elif isinstance(value, bool):
            rows.append((path, "yes" if value else "no"))
        else:
            rows.append((path, cell("", value) if isinstance(value, int | float) else str(value)))
    return rows


def importance_section(numbers: Numbers, figures: Mapping[str, Path]) -> list[Section]:
    """Which decisions matter among the recorded designs."""
    table = numbers.importance
    if table is None or table.empty:
        return []
    section = Section("What matters")
    section.text(
        "The share of an objective's variance among the simulated designs that a decision explains alone, beyond what "
        "chance would (epsilon squared of groups). The rest belongs to combinations."
    )
    if is_biased(numbers.found):
        section.text(
            f"The {numbers.found.sampler} sampler chose designs by what it knew, so these shares describe the recorded "
            "designs and are biased for the space; choices that go together share their variance. Unbiased ones: "
            "bittaper explore sensitivity FOLDER (without --design)."
        )
    add_figure(section, figures, "importance")
    rows = [
        [
            row["parameter"],
            quantity(row["metric"]).name,
            f"{row['share']:.3f}",
            f"{row['ci_low']:.3f} to {row['ci_high']:.3f}",
            f"{row['n']:,}",
        ]
        for row in table.to_dict("records")
    ]
    header = ["decision", "objective", "share alone", "95% interval", "n"]
    section.table(Table(header, rows, caption="Importance", collapsed=len(rows) > SHOWN_FACTORS))
    return [section]


def sensitivity_section(numbers: Numbers, figures: Mapping[str, Path]) -> list[Section]:
    """Sobol's indices that were simulated."""
    if not numbers.sensitivity:
        return []
    section = Section("How sensitive the result is")
    for index, (name, table) in enumerate(numbers.sensitivity.items()):
        where = "over the study's ranges" if name.endswith("ranges") else f"around trial {name.rpartition('-')[2]}"
        section.text(
            f"Sobol's indices {where}, by simulating: first order is the share of variance that a number explains "
            f"alone, total the share it has a part in. n = {int(table['n'].iloc[0])} points of each sample."
        )
        if doubt := caution(table):
            section.text(f"Note: {doubt}.")
        if index == 0:
            add_figure(section, figures, "sensitivity")
        spans = [_span(row) for row in table.drop_duplicates("metric").to_dict("records")]
        section.text(f"95% of the points lie within: {'; '.join(spans)}.")
        rows = [
            [
                row["parameter"],
                quantity(row["metric"]).name,
                f"{cell(row['parameter'], row['low'])} to {cell(row['parameter'], row['high'])}",
                "assumed" if row["assumed"] else "",
                f"{row['first_order']:z.2f}",
                f"{row['total_order']:z.2f}",
                f"{row['total_order_ci_low']:z.2f} to {row['total_order_ci_high']:z.2f}",
            ]
            for row in table.to_dict("records")
        ]
        header = ["number", "metric", "range", "in the NPU file", "first order", "total", "total, 95%"]
        section.table(Table(header, rows, caption=f"Sobol's indices {where}", collapsed=True))
    return [section]


def _span(row: Mapping[Any, Any]) -> str:
    """Where a metric lies under a sensitivity analysis, and at the design."""
    name = row["metric"]
    text = f"{quantity(name).name} {cell(name, row['metric_low'])} to {cell(name, row['metric_high'])}"
    return (
        text if math.isnan(row["metric_at_design"]) else f"{text} (the design: {cell(name, row['metric_at_design'])})"
    )
