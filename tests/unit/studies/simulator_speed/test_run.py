from __future__ import annotations

import csv
import json

import pytest

from studies import cli
from studies.simulator_speed.measure import MEASUREMENTS
from studies.simulator_speed.run import GOALS, judge, summarise


def _rows(**values):
    return [
        {"measurement": "events", "repeat": repeat, "number": name, "value": value}
        for name, repeats in values.items()
        for repeat, value in enumerate(repeats)
    ]


def test_a_summary_gives_the_median_and_the_spread_of_every_number():
    (only,) = summarise(_rows(cpu_s=[5.0, 1.0, 2.0, 3.0, 4.0]))
    assert only == {"measurement": "events", "number": "cpu_s", "n": 5, "median": 3.0, "p20": 1.8, "p80": 4.2}
    (single,) = summarise(_rows(cpu_s=[2.0]))
    assert (single["p20"], single["median"], single["p80"]) == (2.0, 2.0, 2.0)


def test_a_goal_is_met_on_its_own_side_of_the_bound():
    summary = [{"measurement": goal.measurement, "number": goal.number, "n": 1, "median": goal.bound} for goal in GOALS]
    # The tighter bound on the same number comes last, and so decides what the number is here.
    verdicts = {goal["what"]: goal["met"] for goal in judge(summary)}
    assert all(verdicts.values())
    for row in summary:
        row["median"] = row["median"] * 10 if row["number"] in {"cpu_s", "peak_rss_bytes"} else row["median"] / 10
    assert not any(goal["met"] for goal in judge(summary))


@pytest.mark.slow
def test_the_study_measures_everything_in_fresh_processes_and_keeps_the_repeats(capsys, tmp_path):
    assert cli.main(["study", "simulator-speed", "--repeats", "2", "--out", str(tmp_path), "--quiet"]) == 0
    assert capsys.readouterr().out.count("(<=") == 3
    with (tmp_path / "repeats.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["measurement"] for row in rows} == set(MEASUREMENTS)
    simulated = {row["value"] for row in rows if (row["measurement"], row["number"]) == ("events", "events_simulated")}
    assert len(simulated) == 1
    provenance = json.loads((tmp_path / "manifest.json").read_text())["provenance"]
    assert provenance["cpu"] and provenance["repeats"] == "2"
    assert (tmp_path / "goals.png").is_file()
