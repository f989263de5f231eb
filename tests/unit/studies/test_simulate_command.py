import json

import pandas as pd
import pytest

from hwsim.trace import Schedule
from studies import cli

BASE = ["simulate", "--model", "phi-1.5", "--npu", "pmpd-4k", "--prompt-tokens", "8", "--weight-bits", "4"]


def test_a_prefill_alone_has_no_decoding_speed(capsys):
    assert cli.main([*BASE, "--decode-tokens", "0"]) == 0
    out = capsys.readouterr().out
    assert "prefill" in out
    assert "tokens/s" not in out
    assert cli.main([*BASE, "--decode-tokens", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["decode_tokens_per_s"] is None


def test_text_and_json_say_the_same(capsys):
    assert cli.main([*BASE, "--decode-tokens", "4"]) == 0
    text = capsys.readouterr().out
    assert cli.main([*BASE, "--decode-tokens", "4", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert f"{result['decode_tokens_per_s']:,.2f} tokens/s" in text
    assert f"{result['cycles']:,}" in text
    wanted = "mode engine prefill_s ttft_s decode_tokens_per_s e2e_s cycles dram_bytes energy_j area_mm2"
    assert set(wanted.split()) <= result.keys()


def test_a_schedule_is_a_label_or_a_file(capsys, tmp_path):
    file = tmp_path / "schedule.json"
    file.write_text(Schedule.from_label("p8:4>3@2").model_dump_json())
    printed = []
    for schedule in ("p8:4>3@2", str(file)):
        assert cli.main([*BASE[:-2], "--decode-tokens", "4", "--schedule", schedule]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert "3.500 over 4 steps" in printed[0]


def test_both_engines_print_equal_cycles(capsys):
    cycles = []
    for engine in ("events", "fast"):
        assert cli.main([*BASE, "--decode-tokens", "4", "--engine", engine, "--json"]) == 0
        cycles.append(json.loads(capsys.readouterr().out)["cycles"])
    assert cycles[0] == cycles[1]


def test_a_field_set_on_the_command_line_counts(capsys):
    speeds = []
    for bandwidth in ("32e9", "16e9"):
        argv = [*BASE, "--decode-tokens", "4", "--set", f"memory.bandwidth_bytes_per_s={bandwidth}", "--json"]
        assert cli.main(argv) == 0
        speeds.append(json.loads(capsys.readouterr().out)["decode_tokens_per_s"])
    assert 1.8 < speeds[0] / speeds[1] <= 2.0


def test_the_timeline_is_a_chrome_trace_and_json_stays_clean(capsys, tmp_path):
    path = tmp_path / "timeline.json"
    assert cli.main([*BASE, "--decode-tokens", "2", "--timeline", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["decode_steps"] == 2
    events = json.loads(path.read_text())["traceEvents"]
    assert {event["ph"] for event in events} >= {"X"}
    assert all(event["dur"] >= 0 for event in events if event["ph"] == "X")


def test_exact_simulation_gives_the_cycles_of_the_memo(capsys):
    cycles = []
    for more in ([], ["--exact"]):
        assert cli.main([*BASE, "--decode-tokens", "2", *more, "--json"]) == 0
        cycles.append(json.loads(capsys.readouterr().out)["cycles"])
    assert cycles[0] == cycles[1]


def test_a_folder_holds_numbers_tables_figures_timeline_and_their_hashes(capsys, tmp_path):
    out = tmp_path / "run"
    more = ["--figures", "--timeline", "--timeline-steps", "1-2", "--prefill-weight-bits", "8"]
    assert cli.main([*BASE, "--decode-tokens", "4", "--out", str(out), *more]) == 0
    text = capsys.readouterr().out
    tables = {f"{name}.csv" for name in ("steps", "operations", "switches", "stalls")}
    figures = {f"{name}.svg" for name in ("step_latency", "roofline", "stall_breakdown", "timeline_strip")}
    wanted = {"result.json", "timeline.json", *tables, *figures}
    assert {path.name for path in out.iterdir()} == wanted | {"manifest.json"}
    assert all(f"wrote {out / name}" in text for name in wanted)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["files_sha256"].keys() == wanted
    assert manifest["npu"]["name"] == "pmpd-4k"
    steps = pd.read_csv(out / "steps.csv")
    assert steps["cycles"].sum() == json.loads((out / "result.json").read_text())["cycles"]
    assert len(pd.read_csv(out / "switches.csv")) == 1  # from the prefill's 8 bits to 4


def test_figures_can_be_png_and_are_left_out_where_they_have_no_numbers(tmp_path):
    more = ["--decode-tokens", "4", "--figures", "--figure-format", "png"]
    assert cli.main([*BASE, *more, "--engine", "fast", "--out", str(tmp_path / "fast")]) == 0
    assert not (tmp_path / "fast" / "stall_breakdown.png").exists()
    assert (tmp_path / "fast" / "roofline.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main([*BASE, *more, "--mode", "pmpd-analytic", "--out", str(tmp_path / "analytic")]) == 0
    assert [path.name for path in (tmp_path / "analytic").glob("*.png")] == ["step_latency.png"]


def test_text_says_where_the_run_stands_under_the_roofline(capsys):
    assert cli.main([*BASE, "--decode-tokens", "4"]) == 0
    text = capsys.readouterr().out
    assert cli.main([*BASE, "--decode-tokens", "4", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    decode = result["roofline"]["phases"]["decode"]
    assert (
        f"{decode['macs_per_byte']:.3g} MACs/B, memory-bound side, {decode['share_of_bound']:.1%} of the bound" in text
    )
    assert "ridge point          128 MACs/B" in text
    assert sum(row["dram_bytes"] for row in result["operations"]) == result["dram_bytes"]


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (["--figures"], ["--figures needs --out"]),
        (["--table-format", "parquet"], ["--table-format needs --out"]),
        (["--timeline"], ["--timeline without a FILE needs --out"]),
        (["--out", "{tmp}/file"], ["file: is a file; name a folder"]),
        (["--out", "{tmp}/o", "--figure-format", "png"], ["--figure-format png needs --figures"]),
        (["--out", "{tmp}/o", "--timeline-steps", "1-2"], ["--timeline-steps 1-2 needs --timeline"]),
        (["--out", "{tmp}/o", "--timeline", "--timeline-steps", "3-9"], ["timeline steps 3-9", "0..3"]),
        (["--out", "{tmp}/o", "--timeline", "--timeline-steps", "x"], ["--timeline-steps x: must be FIRST-LAST"]),
        (["--timeline", "{tmp}/t", "--mode", "pmpd-analytic"], ["--timeline with --mode pmpd-analytic"]),
        (["--out", "{tmp}/o", "--table-format", "xlsx"], ["--table-format", "xlsx", "csv", "parquet"]),
    ],
)
def test_contradicting_file_options_are_refused_in_one_line_with_nothing_written(capsys, tmp_path, more, parts):
    (tmp_path / "file").write_text("")
    argv = [*BASE, "--decode-tokens", "4", *(word.format(tmp=tmp_path) for word in more)]
    try:
        code = cli.main(argv)
    except SystemExit as stop:
        code = stop.code
    err = capsys.readouterr().err
    assert code == 2
    assert err.count("\n") == 1
    assert all(part in err for part in parts), err
    assert {path.name for path in tmp_path.iterdir()} == {"file"}
