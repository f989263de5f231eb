"""Answer the questions, and write their tables, sentences and figures; ``plot.py`` draws what this writes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hwsim.tables import check_destination
from hwsim.trace import InputError, atomic_writer, collect_provenance, read_json, unknown_name, write_json
from studies.architect.questions import QUESTIONS, answer_file
from studies.architect.settings import Settings, check_settings

DIGITS = "%.7g"  # of the tables: enough to reproduce them, and equal on every machine


def chosen_questions(settings: Settings, only: Sequence[str]) -> tuple[str, ...]:
    """Names of the questions to answer: those asked for, or all that the model can be asked.

    Raises:
        InputError: If a name is unknown, or one asked for needs a model of the published table.
    """
    from studies.architect.published import published_models

    for name in only:
        if name not in QUESTIONS:
            raise unknown_name("question", name, QUESTIONS)
    known = settings.model in published_models()
    for name in only:
        if QUESTIONS[name].published and not known:
            raise InputError(
                f"question '{name}' with model '{settings.model}': the paper's Table 1 has "
                f"{', '.join(published_models())}; name one of them, or leave the question out"
            )
    return tuple(dict.fromkeys(only)) or tuple(
        name for name, question in QUESTIONS.items() if known or not question.published
    )


def answer_question(settings: Settings, name: str) -> str:
    """Answer one question, write what came out and draw it, if there are numbers to draw; returns the sentence."""
    from studies.architect.plot import write_figure

    question = QUESTIONS[name]
    finding = question.ask(settings)
    for table_name, table in finding.tables.items():
        with atomic_writer(settings.out / f"{table_name}.csv") as file:
            table.to_csv(file, index=False, float_format=DIGITS)
    stem = name.replace("-", "_")
    drawn = stem in finding.tables
    if drawn:
        write_figure(settings.out, name)
    asked: dict[str, Any] = {key: value for key, value in asdict(settings).items() if key not in {"out", "progress"}}
    answer = {
        "schema_version": "1.0",
        "name": name,
        "question": question.question(),
        "answer": finding.answer,
        "source": "simulated; qualities quoted" if question.published else "simulated",
        "assumed": finding.assumed,
        "not_shown": finding.not_shown,
        "settings": asked,
        "provenance": collect_provenance(settings.out),
        "details": finding.details,
        "tables": [f"{table_name}.csv" for table_name in finding.tables],
        "figure": f"{stem}.svg" if drawn else None,
    }
    write_json(answer_file(settings.out, name), answer)
    return finding.answer


def run_architect(settings: Settings, only: Sequence[str] = ()) -> dict[str, str]:
    """Answer questions one by one, each written and drawn before the next; returns the sentences by name.

    Warns:
        UserWarning: For each question that this NPU or model cannot be asked, unless it was asked for by name.

    Raises:
        InputError: If something asked for cannot run.
    """
    from tqdm import tqdm

    from studies.architect.report import write_report

    check_destination(settings.out, "csv")
    check_settings(settings)
    names = chosen_questions(settings, only)
    answers = {}
    npu, _ = settings.load()
    for name in tqdm(names, desc="questions", unit="question", disable=not settings.progress):
        try:
            answers[name] = answer_question(settings, name)
        except InputError as error:
            if only:
                raise
            warnings.warn(f"question '{name}' is left out: {error}", stacklevel=2)
    write_report(settings.out)
    manifest = {
        "provenance": collect_provenance(settings.out),
        "npu": npu.model_dump(mode="json"),
        "answers": answer_origins(settings.out),
    }
    write_json(settings.out / "manifest.json", manifest)
    return answers


def answer_origins(folder: Path) -> dict[str, Any]:
    """Where each answer of a folder comes from: with ``--only``, from another commit and day than the last run."""
    found = {name: read_json(path) for name in QUESTIONS if (path := answer_file(folder, name)).is_file()}
    return {
        name: {"provenance": {key: answer["provenance"][key] for key in ("commit", "created_utc")}}
        for name, answer in found.items()
    }
