"""``bittaper npus`` and ``bittaper models``: what is listed is what the simulator reads, and a copy can be run."""

from __future__ import annotations

import json

import pytest
import yaml

from hwsim import NPU_NAMES, SHAPE_NAMES, load_npu, load_shape
from hwsim.assumptions import assumed_numbers
from hwsim.load import npu_description, read_npu_text
from studies.cli import main


def said(capsys, *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


def refused(capsys, *words: str) -> str:
    assert main(list(words)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_the_table_names_every_npu_with_its_sizes(capsys):
    lines = said(capsys, "npus").splitlines()
    for name in NPU_NAMES:
        npu = load_npu(name)
        (line,) = (line for line in lines if line.startswith(f"{name} "))
        assert f"{npu.matrix.macs:,}" in line.split()
        assert f"{npu.memory.bandwidth_bytes_per_s / 1e9:g}" in line.split()
        assert ("template" in line) == (name in {"edge-lpddr4", "mobile-lpddr5", "server-hbm3e"})


def test_json_holds_the_same_for_programs(capsys):
    rows = {row["name"]: row for row in json.loads(said(capsys, "npus", "--json"))}
    assert rows.keys() == set(NPU_NAMES)
    for name, row in rows.items():
        assert row["assumed"] == assumed_numbers(name)
        assert row["buffers_kib"] == sum(row["buffers"].values())
        assert row["ridge_macs_per_byte"] == row["macs"] * row["clock_hz"] / row["bandwidth_bytes_per_s"]
    one = json.loads(said(capsys, "npus", "pmpd-4k", "--json"))
    assert one["file"] == load_npu("pmpd-4k").model_dump(mode="json")


@pytest.mark.parametrize("name", NPU_NAMES)
def test_every_named_npu_says_what_it_is_and_what_it_was_validated_against(name):
    what, validated = npu_description(name)
    assert len(what) > 40
    assert validated.endswith(".")
    assert validated.startswith("none") or not what.startswith("Template")  # nobody measured a template


def test_one_npu_is_shown_with_its_sources(capsys):
    assert said(capsys, "npus", "mobile-lpddr5") == read_npu_text("mobile-lpddr5")[0]


@pytest.mark.parametrize("name", NPU_NAMES)
def test_a_copy_is_the_same_npu_under_its_files_name(name, tmp_path, capsys):
    path = tmp_path / "made" / "mine.yaml"
    assert said(capsys, "npus", name, "--write", str(path)) == f"wrote {path}\n"
    assert load_npu(path) == load_npu(name).model_copy(update={"name": "mine"})
    assert assumed_numbers(path) == assumed_numbers(name)
    assert npu_description(path)[0].startswith(f"Copy of {name}")
    assert npu_description(path)[1] == ""  # what is changed was validated by nobody


@pytest.mark.parametrize("stem", ["null", "yes", "12", "a: b #c", "$x$"])
def test_a_copy_is_called_after_its_file_whatever_that_is(stem, tmp_path, capsys):
    path = tmp_path / f"{stem}.yaml"
    said(capsys, "npus", "pmpd-4k", "--write", str(path))
    assert yaml.safe_load(path.read_text())["name"] == stem


def test_a_file_of_ones_own_is_checked_and_copied_too(tmp_path, capsys):
    path, again = tmp_path / "mine.yaml", tmp_path / "again.yaml"
    said(capsys, "npus", "pmpd-4k", "--write", str(path))
    path.write_text(path.read_text().replace("clock_hz: 1.0e+9", "clock_hz: 2.0e+9"))
    assert json.loads(said(capsys, "npus", str(path), "--json"))["kind"] == "own"
    said(capsys, "npus", str(path), "--write", str(again))
    assert load_npu(again).clock_hz == 2e9
    path.write_text(path.read_text().replace("channels: ", "chanels: "))
    assert "did you mean 'memory.channels'" in refused(capsys, "npus", str(path))


def test_what_cannot_be_written_is_refused_and_nothing_is_lost(tmp_path, capsys):
    taken = tmp_path / "mine.yaml"
    taken.write_text("mine")
    assert "exists already" in refused(capsys, "npus", "pmpd-4k", "--write", str(taken))
    assert taken.read_text() == "mine"
    assert "must end with .yaml" in refused(capsys, "npus", "pmpd-4k", "--write", str(tmp_path / "npu"))
    assert "needs the NAME" in refused(capsys, "npus", "--write", str(tmp_path / "npu.yaml"))
    assert "did you mean 'pmpd-4k'" in refused(capsys, "npus", "pmpd-4")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_models_are_listed_with_the_bytes_that_decoding_reads(capsys):
    lines = said(capsys, "models").splitlines()
    assert all(any(line.startswith(f"{name} ") for line in lines) for name in SHAPE_NAMES)
    rows = {row["name"]: row for row in json.loads(said(capsys, "models", "--json"))}
    llama = rows["llama-3-8b"]
    assert llama["plane_bytes"] == load_shape("llama-3-8b").linear_weights() / 8
    assert llama["kv_bytes_per_token"] == 2 * 32 * 8 * 128 * 2  # keys and values, layers, heads, width, bytes
    assert llama["lm_head_bytes"] == 128256 * 4096 * 2


def test_a_config_json_is_shown_as_the_simulator_reads_it(tmp_path, capsys):
    config = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "vocab_size": 1000,
        "max_position_embeddings": 128,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    shown = said(capsys, "models", str(tmp_path))
    assert shown.splitlines()[0] == tmp_path.name
    assert "key/value heads                        2" in shown
    assert "did you mean 'phi-1.5'" in refused(capsys, "models", "phi-1.6")
