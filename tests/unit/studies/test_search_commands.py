"""``bittaper allocate`` and ``bittaper solve`` at the command line."""

from __future__ import annotations

import json

import pytest

from accuracy.quantization import NestedSettings, quantize
from accuracy.reference import MODEL_FOLDER
from accuracy.search.selection import read_selection
from hwsim.trace import read_schedule
from studies import cli


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores") / "selvic"
    quantize(MODEL_FOLDER, folder, NestedSettings(max_bits=4), progress=False)
    return folder


def arguments(command: str, store, out, *more: str) -> list[str]:
    small = ["--limit", "3", "--batch-size", "3", "--max-new-tokens", "13", "--quiet"]
    return [command, "--model", str(store), "--out", str(out), *small, *more]


def test_solve_writes_the_result_and_a_schedule_that_evaluate_takes(store, tmp_path, capsys):
    out = tmp_path / "static.json"
    more = ("--widths", "4,3,2", "--metric", "fidelity_rouge_l", "--tolerance", "0.9")
    assert cli.main(arguments("solve", store, out, *more)) == 0
    printed = capsys.readouterr().out
    found = read_selection(out)
    assert (found.kind, found.n, found.points, found.widths) == ("solution", 3, 4, (4, 3, 2))
    assert len(found.candidates) == 10
    assert "costs more  left out after 0" in printed
    assert "n = 3, seed 0; reference p16:16: 100.00" in printed
    schedule = tmp_path / "static.schedule.json"
    assert printed.splitlines()[-1] == f"chosen: {found.chosen.label()}; {schedule}"
    assert read_schedule(schedule) == found.chosen
    evaluate = arguments("evaluate", store, tmp_path / "run", "--schedule", str(schedule), "--metric", "rouge_l")
    assert cli.main([*evaluate, "--json"]) == 0
    records = json.loads(capsys.readouterr().out)["records"]
    assert [record["scheduler_label"] for record in records] == [found.chosen.label()]


def test_allocate_measures_every_pair_of_the_stored_widths(store, tmp_path, capsys):
    out = tmp_path / "widths.json"
    assert cli.main(arguments("allocate", store, out, "--tolerance", "0.5", "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(out.read_text())
    assert {row["label"] for row in printed["candidates"]} == {"p4:4", "p4:3", "p4:2", "p3:3", "p3:2", "p2:2"}
    assert all(row["value"] is not None and row["n"] == 3 for row in printed["candidates"])
    assert (printed["split"], printed["points"]) == ("calib", None)


def test_a_search_that_finds_nothing_says_what_came_nearest(store, tmp_path, capsys):
    out = tmp_path / "none.json"
    assert cli.main(arguments("solve", store, out, "--widths", "3,2", "--reference-score", "1000")) == 0
    printed = capsys.readouterr().out
    found = read_selection(out)
    assert found.chosen is None
    assert f"none keeps the quality; the nearest is {found.nearest.label()}" in printed
    assert not (tmp_path / "none.schedule.json").exists()


@pytest.mark.parametrize(
    ("command", "more", "message"),
    [
        ("solve", (), "the following arguments are required: --widths"),
        ("solve", ("--widths", "4;3"), "'4;3' must be widths with commas between"),
        ("solve", ("--widths", "5,3"), "weight_bits = 5: not stored"),
        ("solve", ("--widths", "4,3", "--split", "test"), "invalid choice: 'test'"),
        ("solve", ("--widths", "4,3", "--criterion", "lossless", "--reference-score", "3"), "needs a schedule"),
        ("solve", ("--widths", "4,3", "--encoder", "x"), "is for --metric bertscore or fidelity_bertscore"),
        ("solve", ("--widths", "4,3", "--reference", "8"), "reference p8:8: not all of its widths are stored"),
        ("allocate", ("--tolerance", "2"), "tolerance = 2.0: must be 0..1"),
        ("allocate", ("--metric", "blue"), "unknown metric 'blue'; did you mean 'bleu'"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(store, tmp_path, capsys, command, more, message):
    out = tmp_path / "out.json"
    try:
        code = cli.main(arguments(command, store, out, *more))
    except SystemExit as stopped:
        code = stopped.code
    printed = capsys.readouterr().err
    assert code == 2
    assert message in printed
    assert printed.count("\n") == 1
    assert not out.exists()
