import json
import subprocess
import sys

import pytest

from studies import cli

BASE = ["simulate", "--model", "phi-1.5", "--npu", "pmpd-4k", "--prompt-tokens", "16", "--decode-tokens", "5"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders at 4 and at 3 bits, the latter in Parquet, and a file of --json by the fast engine at 3 bits."""
    folder = tmp_path_factory.mktemp("saved")
    assert cli.main([*BASE, "--weight-bits", "4", "--out", str(folder / "a")]) == 0
    assert cli.main([*BASE, "--weight-bits", "3", "--out", str(folder / "b"), "--table-format", "parquet"]) == 0
    command = [sys.executable, "-m", "studies.cli", *BASE, "--weight-bits", "3", "--engine", "fast", "--json"]
    (folder / "c.json").write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return folder


def compare(capsys, *paths):
    capsys.readouterr()
    assert cli.main(["compare", *map(str, paths), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_folder_and_a_file_of_the_same_run_are_equal(saved, capsys):
    found = compare(capsys, saved / "b", saved / "c.json")
    assert found["rows"]
    assert all(row["a"] == row["b"] for row in found["rows"])


def test_operations_account_for_the_whole_difference_in_decode_time(saved, capsys):
    found = compare(capsys, saved / "a", saved / "b")
    rates = next(row for row in found["rows"] if row["quantity"] == "decode_tokens_per_s")
    time = found["decode_s_per_token"]
    assert time["basis"] == "matrix"
    for side in ("a", "b"):
        assert sum(row[side] for row in time["rows"]) == pytest.approx(1 / rates[side])
    saves = {row["operation"]: row["b_minus_a"] for row in time["rows"]}
    assert saves["up_proj"] < saves["q_proj"] < 0
    assert saves["lm_head"] == pytest.approx(0, abs=1e-6)
    assert abs(saves["(between operations)"]) < 1e-6


def test_without_stalls_the_bus_stands_in(saved, capsys):
    time = compare(capsys, saved / "a", saved / "c.json")["decode_s_per_token"]
    assert time["basis"] == "bus"
    assert all(row["a"] >= 0 and row["b"] >= 0 for row in time["rows"])


def test_every_row_has_a_unit_and_parts_sum_to_their_total(saved, capsys):
    rows = compare(capsys, saved / "a", saved / "b")["rows"]
    assert all(row["unit"] for row in rows)
    for group, total in (("off-chip bytes", "dram_bytes"), ("energy", "energy_j"), ("area", "area_mm2")):
        mine = {row["quantity"]: row["a"] for row in rows if row["group"] == group}
        assert mine.pop(total) == pytest.approx(sum(mine.values()))


def test_text_has_both_sides_their_ratio_and_the_share_of_operations(saved, capsys):
    capsys.readouterr()
    assert cli.main(["compare", str(saved / "a"), str(saved / "b")]) == 0
    out = capsys.readouterr().out
    assert f"A  {saved / 'a'}: phi-1.5 on pmpd-4k, events engine" in out
    assert [line.split()[-1] for line in out.splitlines() if line.startswith("weights ")] == ["0.750"]
    assert [line.split()[-1] for line in out.splitlines() if line.startswith("all ")] == ["100.0%"]


def test_a_folder_that_holds_no_result_is_refused_in_one_line(saved, tmp_path, capsys):
    capsys.readouterr()
    assert cli.main(["compare", str(tmp_path), str(saved / "a")]) == 2
    err = capsys.readouterr().err
    assert "result.json: no such file" in err
    assert err.count("\n") == 1
