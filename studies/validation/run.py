"""Every check, one table: ``validation.csv`` and ``validation.json``, a CSV of details for each check, figures."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hwsim.trace import collect_provenance, file_sha256, write_json
from studies.validation import devices, dram, figure5, flightllm, prefill, roofline, systolic
from studies.validation.table import Outcome, as_records, write_table

CHECKS: dict[str, Callable[[], Outcome]] = {
    "roofline": roofline.check,
    "figure5": figure5.check,
    "systolic": systolic.check,
    "flightllm": flightllm.check,
    "devices": devices.check,
    "prefill": prefill.check,
    "dram": dram.check,
}


def run_checks(*, progress: bool = False) -> tuple[dict[str, Outcome], dict[str, float]]:
    """Run every check; returns what each found and how many seconds it took."""
    outcomes: dict[str, Outcome] = {}
    seconds: dict[str, float] = {}
    for name, check in CHECKS.items():
        if progress:
            print(f"[{len(outcomes) + 1}/{len(CHECKS)}] {name}", file=sys.stderr, flush=True)
        begin = time.perf_counter()
        outcomes[name] = check()
        seconds[name] = round(time.perf_counter() - begin, 2)
    return outcomes, seconds


def run_validation(out: Path, *, progress: bool = True) -> dict[str, Outcome]:
    """Run every check and write tables, manifest and figures into ``out``."""
    from studies.validation.plot import write_figures

    outcomes, seconds = run_checks(progress=progress)
    rows = as_records([row for outcome in outcomes.values() for row in outcome.rows])
    fitted = as_records([one for outcome in outcomes.values() for one in outcome.fitted])
    write_table(out / "validation.csv", rows)
    write_table(out / "fitted.csv", fitted)
    write_json(out / "validation.json", {"schema_version": "1.0", "rows": rows, "fitted": fitted})
    for name, outcome in outcomes.items():
        write_table(out / f"{name}.csv", outcome.details)
    tables = ("validation.csv", "fitted.csv", *(f"{name}.csv" for name in outcomes))
    write_json(
        out / "manifest.json",
        {
            "schema_version": "1.0",
            "provenance": collect_provenance(out, device="cpu", cores=len(os.sched_getaffinity(0))),
            "files_sha256": {name: file_sha256(out / name) for name in tables},
            "seconds": seconds,
        },
    )
    write_figures(out)
    return outcomes
