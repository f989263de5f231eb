"""Make the results that are asked for, keep what is there, and write the report over all that are kept.

A result of the same settings is not made again. One that was interrupted goes on where it was: what was quantised,
decoded, labelled and trained lies under ``pmpd/work``, and results share it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hwsim.tables import check_destination
from hwsim.trace import InputError, collect_provenance, file_sha256, unknown_name, write_json
from studies.paper.catalogue import RESULTS
from studies.paper.files import is_kept, read_result, result_file, write_result, write_table
from studies.paper.report import write_paper_report
from studies.paper.result import Request, Result


def run_paper(request: Request, names: Sequence[str] = ()) -> dict[str, str]:
    """Make results and write their report.

    Args:
        request: What they are made of.
        names: Which; all of them by default.

    Returns:
        By name, why a result could not be made here: it needs a model or data that is not at hand.

    Raises:
        InputError: If a name is unknown, or the results that were asked for by name cannot be made.
    """
    for name in names:
        if name not in RESULTS:
            raise unknown_name("result", name, RESULTS)
    check_destination(request.out, "csv")
    chosen = list(names or RESULTS)
    # One run of the small models for all of them: each would score again what the others have.
    shared = [one.experiment for name in chosen if (one := RESULTS[name]).experiment is not None]
    request = replace(request, experiments=tuple(dict.fromkeys(shared)))
    missing: dict[str, str] = {}
    for number, name in enumerate(chosen, start=1):
        if request.progress:
            print(f"[{number}/{len(chosen)}] {RESULTS[name].title}", file=sys.stderr, flush=True)
        try:
            make_result(request, RESULTS[name])
        except InputError as error:
            if names:
                raise
            missing[name] = str(error)
    _write_collection(request.out, missing)
    return missing


def make_result(request: Request, result: Result) -> None:
    """Make one result, unless it is there, and draw it."""
    settings, figure = result.settings(request), request.out / f"{result.name}.svg"
    if not is_kept(request.out, result.name, settings):
        began, cpu_began = time.perf_counter(), time.process_time()
        found = result.compute(request)
        figure.unlink(missing_ok=True)  # of the numbers that are replaced
        write_result(request.out, result, settings, found, time.perf_counter() - began, time.process_time() - cpu_began)
    if not figure.is_file():
        result.draw(request.out, result.name)


def kept_names(out: Path) -> list[str]:
    """The results that are there, in the paper's order."""
    return [name for name in RESULTS if result_file(out, name).is_file()]


def _write_collection(out: Path, missing: dict[str, str]) -> None:
    """The comparisons of all results in one table, the manifest and the report."""
    found = [read_result(out, name) for name in kept_names(out)]
    rows = [{"result": one.name, **row} for one in found for row in one.comparisons]
    write_table(out / "comparisons.csv", rows)
    files = sorted(path.name for path in out.glob("*.csv"))
    manifest = {
        "schema_version": "1.0",
        "study": "paper",
        "provenance": collect_provenance(out),
        "results": {
            one.name: {"seconds": one.seconds, "cpu_seconds": one.cpu_seconds, "provenance": one.provenance["run"]}
            for one in found
        },
        "not_made": missing,
        "files_sha256": {name: file_sha256(out / name) for name in files},
    }
    write_json(out / "manifest.json", manifest)
    write_paper_report(out, found, missing)
