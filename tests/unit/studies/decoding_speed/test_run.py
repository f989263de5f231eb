from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd
import pytest

from studies import cli
from studies.decoding_speed import command
from studies.decoding_speed.plot import write_figure
from studies.decoding_speed.report import print_tables
from studies.decoding_speed.run import Settings, run_decoding_speed, summarise
from studies.decoding_speed.sharing import FULL_LENGTH, full_length_sharing
from studies.decoding_speed.throughput import MODES, PLAIN

RESULTS = Path(cli.__file__).parent / "decoding_speed" / "results"


def test_two_widths_save_half_of_the_steps_less_one_in_n():
    for row in full_length_sharing(421, points=range(2, 9)):
        assert row["steps"] == row["schedules"] * 420
        if row["widths"] == 2:
            assert row["schedules"] == row["points"]
            assert row["steps_saved"] == pytest.approx(1 / 2 - 1 / row["points"])


def test_three_widths_and_three_points_counted_by_hand():
    # 4 | 4>3 | 4>2 | 3 | 3>2 | 2 over 10 + 10 steps: 10 at 4, then 10 each at 4, 3, 2; the same from 3; 20 at 2.
    (row,) = [row for row in full_length_sharing(21, points=[3]) if row["widths"] == 3]
    assert (row["schedules"], row["steps"], row["steps_run"]) == (6, 120, 40 + 30 + 20)


def test_percentiles_are_over_the_repeats_of_one_combination():
    table = pd.DataFrame({"model": ["a"] * 6 + ["b"], "batch": 1, "rate": [5.0, 1.0, 2.0, 3.0, 4.0, 6.0, 9.0]})
    first, second = summarise(table, ["model", "batch"], ["rate"]).to_dict("records")
    assert [first[f"rate_{name}"] for name in ("p20", "median", "p80")] == [2.0, 3.5, 5.0]
    assert (first["n"], second["n"], second["rate_p20"]) == (6, 1, 9.0)


@pytest.mark.slow
def test_a_quick_run_measures_everything_and_its_responses_are_equal(tmp_path, capsys):
    tables = run_decoding_speed(Settings(tmp_path, repeats=2, quick=True, progress=False))
    for name, table in tables.items():
        assert len(pd.read_csv(tmp_path / f"{name}.csv")) == len(table) > 0
    speed = tables["speed"]
    assert len(speed) == 2 * len(MODES)
    assert (speed.loc[speed["mode"] == PLAIN, "ratio_to_plain"] == 1).all()
    single = speed[speed["batch_size"] == 1]
    assert (single["differ_from_plain"] == 0).all()
    assert (single["tokens"] > 0).all()
    assert set(tables["sharing"]["model"]) == {FULL_LENGTH, "selvic"}
    assert (tables["grid"]["speed_up"] > 0).all()
    manifest = json.loads((tmp_path / "manifest.json").read_text())["provenance"]
    assert manifest["threads"] == "1"
    assert (tmp_path / "decoding_speed.png").stat().st_size > 10_000
    print_tables(tables)
    assert "selvic: own decoder" in capsys.readouterr().out


def test_the_command_passes_its_options_on(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr("studies.decoding_speed.run.run_decoding_speed", lambda settings: seen.append(settings) or {})
    monkeypatch.setattr("studies.decoding_speed.report.print_tables", lambda tables: None)
    parser = argparse.ArgumentParser()
    command.configure(parser)
    command.run(parser.parse_args(["--out", str(tmp_path), "--repeats", "3", "--quick", "--quiet"]))
    assert seen == [Settings(tmp_path, repeats=3, quick=True, progress=False)]


def test_figure_is_drawn_from_the_kept_tables(tmp_path):
    for name in ("summary", "sharing", "grid_summary"):
        (tmp_path / f"{name}.csv").write_bytes((RESULTS / f"{name}.csv").read_bytes())
    assert [path.name for path in write_figure(tmp_path)] == ["decoding_speed.png", "decoding_speed.svg"]


def test_kept_run_measured_every_mode_of_four_models_without_a_single_difference():
    summary, speed = (pd.read_csv(RESULTS / f"{name}.csv") for name in ("summary", "speed"))
    assert summary.groupby("model").size().to_dict() == dict.fromkeys(
        ("selvic", "stories260K", "m30k-fren-2M", "fren-paragraphs-4M"), len(MODES)
    )
    assert (summary["n"] >= 5).all()
    assert (speed.loc[speed["batch_size"] == 1, "differ_from_plain"] == 0).all()
