"""The paper's value, ours, the difference and why, result by result: ``report.json`` and ``summary.md``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.common.report import FigureFile, Report, Section, Table, write_report_file
from studies.common.report_folder import read_csv
from studies.common.report_markdown import write_markdown
from studies.paper.catalogue import RESULTS
from studies.paper.files import Kept

TITLE = "The results of the PMPD paper, one by one"
MOST_ROWS = 100
"""Of a table that the page repeats; the figures show what longer ones hold."""
HEADER = ["quantity", "case", "paper", "ours", "unit", "n", "paper on", "ours on", "how", "difference"]


def write_paper_report(out: Path, found: Sequence[Kept], missing: Mapping[str, str]) -> None:
    """Write the report over the results that are there.

    Args:
        out: The collection's folder.
        found: The results.
        missing: By name, why others could not be made.
    """
    kinds = sorted({row["kind"] for one in found for row in one.comparisons})
    lead = (
        f"{len(found)} of {len(RESULTS)} results of Chen et al., Progressive Mixed-Precision Decoding, "
        f"arXiv:2410.13461. Ours are {', '.join(kinds)}. A difference is taken only where both values are of the same "
        "model and data; elsewhere they stand side by side, because quality is measured on other models here."
    )
    sections = [_section(out, one) for one in found]
    if missing:
        absent = Section("Not made here")
        absent.table(Table(["result", "why"], [[RESULTS[name].title, why] for name, why in missing.items()]))
        sections.append(absent)
    report = Report(TITLE, lead, sections, {})
    write_report_file(out, report)
    short = Report(TITLE, lead, [_short(section) for section in sections], {})
    write_markdown(out / "summary.md", short)


def _section(out: Path, kept: Kept) -> Section:
    result = RESULTS[kept.name]
    section = Section(result.title)
    section.text(f"The paper: {result.paper}")
    section.text(f"Here: {result.ours}")
    section.markdown(
        f"`bittaper study paper --only {kept.name}`: {result.takes} by default, on {result.runs_on}. {_origin(kept)}"
    )
    where = f", as found in the kept run on {result.why_on}" if result.why_on else ""
    section.text(f"Why they differ{where}: {result.why}")
    for note in kept.facts.get("notes", ()):
        section.text(f"Not measured: {note}")
    if rows := [row for row in kept.comparisons if row["headline"]]:
        # Without a difference in any row, its column would only make the table wider.
        columns = len(HEADER) if any(row["difference"] is not None for row in rows) else HEADER.index("difference")
        section.table(Table(HEADER[:columns], [_cells(row)[:columns] for row in rows], "The paper beside ours"))
    for path in sorted(out.glob(f"{kept.name}.svg")):
        section.figure(FigureFile(path, result.caption, result.title))
    for table in sample_tables(kept.tables.get("samples", ())):
        section.table(table)
    lengths = {f"{kept.name}.csv": len(kept.comparisons)}
    lengths |= {f"{kept.name}-{name}.csv": len(rows) for name, rows in kept.tables.items()}
    for name, length in lengths.items():
        if length <= MOST_ROWS:
            section.table(read_csv(out / name))
        else:
            section.text(f"{length:,} more rows are in {name}.")
    return section


def _origin(kept: Kept) -> str:
    """What these very numbers took, and of which models, seed and device they are."""
    names = _measured_on(kept.facts)
    shared = kept.facts.get("pmpd_cpu_seconds")
    took = f"{kept.cpu_seconds:g}" if kept.cpu_seconds else "under 0.1"
    parts = [f"This run: {took} CPU seconds" if shared is None else "This run"]
    parts += [f"on {names}"] if names else []
    parts += [] if shared is None else [f"measured in {shared:,.0f} CPU seconds for all results of these models"]
    parts += [f"{key} {kept.facts[key]}" for key in ("seed", "device") if key in kept.facts]
    return ", ".join(parts) + "."


def _measured_on(facts: Mapping[str, Any]) -> str:
    """The models, each with how many prompts or questions it was asked; empty where none was."""
    if "model" in facts:
        return f"{facts['model']} ({facts['questions']} questions)"
    asked = {
        name: one if isinstance(one, str) else f"{one['prompts']} prompts"
        for name, one in facts.get("models", {}).items()
    }
    return ", ".join(f"{name} ({what})" for name, what in asked.items())


def _short(section: Section) -> Section:
    """Without the long tables, which the CSV files hold."""
    blocks = [one for one in section.blocks if not (isinstance(one, Table) and one.collapsed)]
    return Section(section.title, blocks)


def sample_tables(rows: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """One table a chosen prompt: every method's text, marked where it leaves the full-precision one.

    Only the first of a result and model starts unfolded.
    """
    unfolded = set()
    for model, chosen, prompt in dict.fromkeys((row["model"], row["chosen"], row["prompt"]) for row in rows):
        mine = [row for row in rows if (row["model"], row["chosen"], row["prompt"]) == (model, chosen, prompt)]
        caption = f"{mine[0]['result']}, {model}: {chosen}. Prompt: {' '.join(str(prompt).split())}"
        cells = [[row["method"], f"{row['score']:.1f}", row["marked"]] for row in mine]
        case = (mine[0]["result"], model)
        yield Table(["under", mine[0]["metric"], "text"], cells, caption, collapsed=case in unfolded)
        unfolded.add(case)


def headlines(kept: Kept) -> list[list[str]]:
    """A result in a few lines for a terminal: quantity, case, the paper's value, ours, unit, n and how."""
    rows = [_cells(row) for row in kept.comparisons if row["headline"]]
    return [[*cells[:6], cells[HEADER.index("how")]] for cells in rows]


def _cells(row: Mapping[str, Any]) -> list[str]:
    interval = f" [{_number(row['ci_low'])}, {_number(row['ci_high'])}]" if row["ci_low"] is not None else ""
    return [
        row["quantity"],
        row["case"],
        _number(row["paper"]),
        _number(row["ours"]) + interval,
        row["unit"],
        _number(row["n"]),
        row["paper_basis"],
        row["our_basis"],
        row["kind"],
        _number(row["difference"]),
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
