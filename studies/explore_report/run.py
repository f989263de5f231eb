"""Write the report of an exploration: tables, figures, ``report.html`` and ``report.md``."""

from __future__ import annotations

from pathlib import Path

from hwsim.trace import file_sha256, write_json
from studies.common.report import Report, write_report_file
from studies.common.report_folder import MANIFEST_FILE
from studies.common.report_markdown import write_markdown
from studies.common.report_page import write_page
from studies.explore_report.content import flat_provenance, make_lead, make_sections
from studies.explore_report.numbers import collect_numbers
from studies.explore_report.plot import write_figures


def write_exploration_report(source: Path | str, out: Path | None = None, *, progress: bool = True) -> Path:
    """Analyse an exploration, finished or running, and write everything; returns the HTML page's path.

    Args:
        source: The folder that ``explore run`` wrote, or the study file of such a run.
        out: Folder of the report; ``report`` within the exploration's by default.
        progress: Show a progress bar on standard error: figures of a large record take a while.

    Raises:
        InputError: If there is no record, or no design was simulated yet.
    """
    from dse.exploration import results_folder
    from dse.log import LOG_NAME

    folder = results_folder(source)
    numbers = collect_numbers(folder)
    target = out or folder / "report"
    numbers.write_tables(target)
    figures = write_figures(numbers, target, progress=progress)
    report = Report(
        f"Exploration: {numbers.found.study.name}",
        make_lead(numbers),
        make_sections(numbers, figures),
        flat_provenance(
            numbers.found.provenance,
            [("record", LOG_NAME), ("record sha256", file_sha256(folder / LOG_NAME))],
        ),
    )
    write_markdown(target / "report.md", report)
    # With these two, a collection of studies takes the exploration up (studies.common.report_folder).
    write_report_file(target, report)
    write_json(target / MANIFEST_FILE, {"schema_version": "1.0", "provenance": report.provenance})
    page = target / "report.html"
    write_page(page, [report])
    return page
