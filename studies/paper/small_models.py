"""What several results take from one run of ``bittaper study pmpd``: its tables, and its claims as comparisons."""

from __future__ import annotations

import csv
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim.trace import InputError, file_sha256, read_json
from studies.paper.comparison import Comparison, Found
from studies.paper.result import Request

if TYPE_CHECKING:
    import pandas as pd

    from studies.pmpd.run import Settings

DEFAULT_SUBJECTS = ("selvic",)
RUN_FOLDER = "pmpd"
SHARE = "share of cases"
SHARED_RUN = "7 minutes, once for all six of them"
FOUR_MODELS = "four small models"
"""What the kept run of ``bittaper study pmpd`` measured."""


@dataclass(frozen=True)
class Measurements:
    """Rows of one result of the paper, by each model's deciding metric, and where they were measured.

    Attributes:
        scores: Values of every method.
        comparisons: Paired differences, each with what it says of a claim.
        models: By model, what it was measured on and by which commit.
        notes: What could not be measured, and why.
    """

    scores: pd.DataFrame
    comparisons: pd.DataFrame
    models: Mapping[str, Any]
    notes: Sequence[str] = ()

    def claims(self, claim: str) -> list[dict[Hashable, Any]]:
        """The comparisons of one claim, one a model and pair of widths."""
        return self.comparisons[self.comparisons["claim"] == claim].to_dict("records")


def study_settings(request: Request, experiment: str) -> Settings:
    """The run of ``bittaper study pmpd`` that a request means."""
    from studies.pmpd.run import Settings, makers_of

    own = request.own
    settings = Settings(
        request.out / RUN_FOLDER,
        own=own,
        experiments=tuple(dict.fromkeys((experiment, *request.experiments))),
        quick=request.quick,
        progress=request.progress,
    )
    makers = makers_of(settings)
    if unknown := [name for name in request.subjects if name not in makers]:
        raise InputError(f"--subject {unknown[0]}: not at hand; there are {', '.join(makers)}")
    return settings if own is not None else replace(settings, models=request.subjects or DEFAULT_SUBJECTS)


def settings_of(request: Request, experiment: str) -> Mapping[str, Any]:
    """What decides the numbers: the run that is read, or the models that are measured and the code's own settings."""
    if request.pmpd is not None:
        hashes = {name: file_sha256(path) for name, path in run_files(request.pmpd).items()}
        return {"experiment": experiment, "run_sha256": hashes}
    from studies.pmpd.run import describe, makers_of

    settings = study_settings(request, experiment)
    makers = makers_of(settings)
    names = settings.models or tuple(makers)
    return {"experiment": experiment, "models": [describe(makers[name]()) for name in names]}


def measurements(request: Request, experiment: str) -> Measurements:
    """Read the run's tables; run it first where none is given.

    Args:
        request: What is asked for.
        experiment: As the study calls the result, for example ``fig3``.

    Raises:
        InputError: If ``--pmpd`` names no finished run, or one without this result.
    """
    import pandas as pd

    folder = request.pmpd
    if folder is None:
        from studies.pmpd.run import run_pmpd

        settings = study_settings(request, experiment)
        run_pmpd(settings)
        folder = settings.out
    files = run_files(folder)
    scores, comparisons = (pd.read_csv(files[name]) for name in ("scores.csv", "comparisons.csv"))
    # The first metric of a model decides.
    deciding = scores.groupby("model", sort=False)["metric"].first()
    scores, comparisons = (
        table[(table["metric"] == table["model"].map(deciding)) & (table["experiment"] == experiment)]
        for table in (scores, comparisons)
    )
    if scores.empty:
        raise InputError(f"--pmpd {folder}: holds no {experiment}; let bittaper study pmpd run to its end")
    notes = tuple(_notes(files["notes.csv"], experiment)) if "notes.csv" in files else ()
    return Measurements(scores, comparisons, read_json(files["manifest.json"])["models"], notes)


def run_files(folder: Path) -> dict[str, Path]:
    """Every file that is read of a run, by name; without ``notes.csv`` where the run could measure everything.

    Raises:
        InputError: If the folder lacks one of the others.
    """
    found = {name: folder / name for name in ("scores.csv", "comparisons.csv", "manifest.json", "notes.csv")}
    for name, path in found.items():
        if name != "notes.csv" and not path.is_file():
            raise InputError(f"--pmpd {folder}: holds no {name}; give the results of bittaper study pmpd")
    return {name: path for name, path in found.items() if path.is_file()}


def _notes(path: Path, experiment: str) -> Iterator[str]:
    """What the run says it could not measure of one result."""
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["experiment"] == experiment:
                yield f"{row['model']}, {row['pair']} bits: {row['note']}"


def found_of(measured: Measurements) -> Found:
    """The tables and the provenance; comparisons are still to be added."""
    devices = {one["provenance"].get("device") for one in measured.models.values()} - {None}
    return Found(
        tables={"scores": _rows(measured.scores), "claims": _rows(measured.comparisons)},
        facts={
            "models": {name: one["settings"]["report"] for name, one in measured.models.items()},
            "seed": int(measured.scores["seed"].iloc[0]),
            "notes": list(measured.notes),
            "pmpd_cpu_seconds": sum(one["cpu_seconds"] for one in measured.models.values()),
            "interval": "95% percentile bootstrap over prompts, differences paired over the same prompts",
            **({"device": ", ".join(sorted(devices))} if devices else {}),
        },
        provenance={name: one["provenance"] for name, one in measured.models.items()},
    )


def claim_comparisons(
    measured: Measurements, claim: str, *, paper_basis: str, paper: float | None = None, paper_share: float | None = 1.0
) -> Iterator[Comparison]:
    """Every case of a claim, and above them the share of cases in which it holds.

    Args:
        measured: The rows.
        claim: As ``bittaper study pmpd`` words it.
        paper_basis: What the paper has it on.
        paper: The paper's own number for the difference, where it prints one.
        paper_share: Share of the paper's cases in which it holds; None where that cannot be told.
    """
    rows = measured.claims(claim)
    if not rows:
        return
    judged = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in dict.fromkeys(_VERDICTS)}
    yield Comparison(
        case="all",
        quantity=f"holds: {claim}",
        unit=SHARE,
        paper=paper_share,
        paper_basis=paper_basis,
        ours=judged["holds"] / len(rows),
        our_basis=", ".join(f"{verdict} in {count}" for verdict, count in judged.items() if count)
        + f" of {len(rows)} pairs of model and widths",
        kind="measured",
        same_subject=False,
        n=len(rows),
        headline=True,
    )
    for row in rows:
        scale, unit = (100, "%") if row["relative"] else (1, f"{row['metric']} points")
        yield Comparison(
            case=f"{row['model']}, {row['pair']} bits",
            quantity=claim,
            unit=unit,
            paper=paper,
            paper_basis=paper_basis,
            ours=scale * row["value"],
            our_basis=f"{row['method']} less {row['against']}: {row['verdict']}",
            kind="measured",
            same_subject=False,
            ci_low=scale * row["ci_low"],
            ci_high=scale * row["ci_high"],
            n=int(row["n"]),
            headline=len(measured.models) == 1,  # a share of two cases says little; of many models it says enough
        )


_VERDICTS = ("holds", "the same", "not resolved", "contradicted")


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    from studies.common.output import without_nan

    return [without_nan(row) for row in table.to_dict("records")]
