import json

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
