"""``report.json`` of a folder of answers: a section per question, from which a collection makes its page."""

from __future__ import annotations

from pathlib import Path

from hwsim.trace import read_json
from studies.architect.questions import QUESTIONS, answer_file
from studies.common.report import FigureFile, Report, Section, write_report_file
from studies.common.report_folder import read_csv

LEAD = (
    "Each question is answered in a sentence with its numbers, computed for the model and the NPU named beside it. "
    "Timing, energy and area are simulated; qualities, where one is used, are quoted from the paper. Constants without "
    "a source say assumed, in the tables and in the NPU file."
)
MOST_ROWS = 200


def write_report(folder: Path) -> Path:
    """Describe every question that was answered into this folder, in the order of the command's list."""
    sections = []
    for name in QUESTIONS:
        path = answer_file(folder, name)
        if not path.is_file():
            continue
        answer = read_json(path)
        settings = answer["settings"]
        section = Section(answer["question"])
        section.text(answer["answer"])
        if answer["figure"]:
            section.figure(FigureFile(folder / answer["figure"], f"{name}: {answer['source']}.", answer["question"]))
        section.text(
            f"Asked for {settings['model']} on {settings['npu']}, {settings['prompt_tokens']} prompt and "
            f"{settings['decode_tokens']} decode tokens, one sequence unless batches are named."
        )
        for label, text in (("Assumed", answer["assumed"]), ("Not shown", answer["not_shown"])):
            if text:
                section.text(f"{label}. {text}")
        for table in answer["tables"]:
            read = read_csv(folder / table)
            if len(read.rows) <= MOST_ROWS:
                section.table(read)
            else:
                section.text(f"{table} holds {len(read.rows):,} rows, which the figure shows.")
        sections.append(section)
    return write_report_file(folder, Report("An architect's questions", LEAD, sections, {}))
