"""Write what ``bittaper explore ask`` needs of the kept results: ``python -m studies.validation.shipped_error``.

``dse`` may not import ``studies``, so it ships a small file of its own; a test compares it with the kept results.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

from dse.validation import DATA_PATH, ErrorBasis, Point, ValidationErrors
from hwsim.trace import file_sha256, read_json, write_text

RESULTS = Path(__file__).parent / "results"
DIGITS = 9
"""Of an error that is computed here; as in the results."""

RATES = ("decode_tokens_per_s", "tpot_s")


def _basis(
    rows: list[dict[str, str]],
    mode: str,
    metrics: tuple[str, ...],
    title: str,
    fitted: bool,
    wanted: Callable[[str], bool],
) -> ErrorBasis:
    points = [Point(case=row["case"], error=float(row["error"])) for row in rows if wanted(row["case"])]
    return ErrorBasis.model_validate(
        {"mode": mode, "metrics": metrics, "title": title, "fitted": fitted, "points": tuple(points)}
    )


def _responses(rows: list[dict[str, str]], constants: str, title: str, fitted: bool) -> ErrorBasis:
    """Whole responses, prefill and steps, of what was compared part by part."""
    by_case = {row["case"]: row for row in rows}
    points = []
    for row in rows:
        found = re.fullmatch(rf"{constants}: rate, (\d+) \+ (\d+) tokens", row["case"])
        if found is not None:
            prefill = by_case[f"{constants}: prefill of {found[1]} tokens"]
            predicted, reference = (
                float(prefill[column]) + 1e3 * int(found[2]) / float(row[column])
                for column in ("predicted", "reference")
            )
            case = f"{constants}: response of {found[1]} + {found[2]} tokens"
            points.append(Point(case=case, error=round(predicted / reference - 1, DIGITS)))
    return ErrorBasis(mode="realistic", metrics=("e2e_s",), title=title, fitted=fitted, points=tuple(points))


def _from_peak(rows: list[dict[str, str]]) -> ErrorBasis:
    """Speeds of real devices as the peak bandwidth alone predicts them; the rows are the other way round."""
    points = []
    for row in rows:
        found = re.fullmatch(r"(.+): measured against the roofline", row["case"])
        if found is not None:
            error = float(row["reference"]) / float(row["predicted"]) - 1
            points.append(Point(case=f"{found[1]} from its peak bandwidth", error=round(error, DIGITS)))
    return ErrorBasis(
        mode="realistic",
        metrics=RATES,
        title="published speeds of devices from their peak bandwidth alone, nothing fitted",
        fitted=False,
        points=tuple(points),
    )


def shipped_errors(results: Path = RESULTS) -> ValidationErrors:
    """Select the rows that speak for a metric of the exploration; those with nothing fitted judge.

    That is how far an NPU file was off as it is: no file of a study is fitted to the speeds of its machine
    (:class:`dse.validation.ErrorRange`).

    Energy and area have nothing to be compared with. Published powers are of whole boards, with their processors,
    supplies and programmable logic, of which the model is a part. The one published area of an array (32 x 32, 12 nm)
    does not say what it multiplies, which alone makes a factor of nine.
    """
    with (results / "validation.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    manifest = read_json(results / "manifest.json")

    def starts(text: str) -> Callable[[str], bool]:
        return lambda case: case.startswith(text)

    def flightllm(constants: str, what: str) -> Callable[[str], bool]:
        return lambda case: case.startswith(constants) and f": {what}" in case

    realistic, ttft = "realistic", ("ttft_s",)
    bases = (
        _basis(
            rows,
            realistic,
            RATES,
            "FlightLLM's profiler, NPU file as it is, nothing fitted",
            False,
            flightllm("NPU file as it is", "rate"),
        ),
        _from_peak(rows),
        _basis(
            rows,
            realistic,
            RATES,
            "published speeds of devices fitted to their other speeds",
            True,
            lambda case: case.endswith("from the others"),
        ),
        _basis(
            rows,
            realistic,
            RATES,
            "published speeds of a device with one other speed to fit",
            True,
            lambda case: case.endswith("from the other"),
        ),
        _basis(
            rows,
            realistic,
            ttft,
            "FlightLLM's profiler, NPU file as it is, nothing fitted",
            False,
            flightllm("NPU file as it is", "prefill"),
        ),
        _basis(
            rows,
            realistic,
            ttft,
            "FlightLLM's profiler, two constants fitted to other numbers of it",
            True,
            flightllm("two constants", "prefill"),
        ),
        _responses(
            rows,
            "NPU file as it is",
            "prefill and steps of FlightLLM's profiler, NPU file as it is, nothing fitted",
            False,
        ),
        _responses(
            rows,
            "two constants, held out",
            "prefill and steps of FlightLLM's profiler, prompts that no constant saw",
            True,
        ),
        _basis(
            rows,
            "pmpd-analytic",
            RATES,
            "speed-ups over 16 bits in PMPD's Fig. 5, three things fitted to them",
            True,
            starts("pmpd-analytic: "),
        ),
    )
    return ValidationErrors(
        study="validation",
        results_sha256={"validation.csv": file_sha256(results / "validation.csv")},
        commit=manifest["provenance"]["commit"],
        created_utc=manifest["provenance"]["created_utc"],
        bases=bases,
    )


def main() -> None:
    """Write the file into ``dse``."""
    write_text(DATA_PATH, shipped_errors().model_dump_json(indent=2) + "\n")


if __name__ == "__main__":
    main()
