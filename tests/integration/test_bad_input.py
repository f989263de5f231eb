"""Bad input at the command line: one line that names field, value and bound, exit code 2, nothing half-written."""

import json
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from accuracy.reference import MODEL_FOLDER
from studies import cli

FILE_LIMIT_BYTES = 100_000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny random Llama with the shipped tokenizer."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    vocabulary = json.loads((MODEL_FOLDER / "config.json").read_text())["vocab_size"]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=96,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((MODEL_FOLDER / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def store(model):
    out = model.parent / "store"
    assert cli.main(["quantize", str(model), str(out), "--max-bits", "4", "--quiet"]) == 0
    return out


@pytest.fixture(scope="module")
def trace(store):
    path = store.parent / "trace.jsonl"
    argv = ["trace", "--model", str(store), "--schedule", "p4:4>3@2", "--prompt", "a b", "--max-new-tokens", "6"]
    assert cli.main([*argv, "--out", str(path), "--quiet"]) == 0
    return path


def fails(capsys, *argv):
    """Run a command that must fail; returns its one line."""
    try:
        code = cli.main([str(word) for word in argv])
    except SystemExit as stop:
        code = stop.code
    err = capsys.readouterr().err
    assert code == 2, err
    line = err.strip()
    assert "\n" not in line
    assert "Traceback" not in line
    return line


SIMULATE = ["simulate", "--npu", "pmpd-4k", "--prompt-tokens", "8", "--decode-tokens", "4"]


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (["--model", "phi-1.6", "--weight-bits", "4"], ["'phi-1.6'", "did you mean 'phi-1.5'"]),
        (["--model", "phi-1.5", "--weight-bits", "9"], ["--weight-bits = 9", "1..8", "16"]),
        (["--model", "phi-1.5"], ["--weight-bits is missing"]),
        (["--model", "phi-1.5", "--weight-bits", "4", "--npu", "pmpd"], ["unknown NPU 'pmpd'", "pmpd-4k"]),
        (["--model", "phi-1.5", "--weight-bits", "4", "--prompt-tokens", "0"], ["--prompt-tokens", "must be >= 1"]),
        (["--model", "phi-1.5", "--weight-bits", "4", "--prompt-tokens", "4000"], ["4004", "at most 2048"]),
        (
            ["--model", "phi-1.5", "--weight-bits", "4", "--set", "memory.bandwidth_bytes_per_s=-1"],
            ["memory.bandwidth_bytes_per_s = -1", "> 0"],
        ),
        (["--model", "phi-1.5", "--weight-bits", "4", "--set", "sfu.lane=4"], ["sfu.lane", "did you mean 'sfu.lanes'"]),
        (["--model", "phi-1.5", "--weight-bits", "4", "--mode", "real"], ["--mode", "realistic"]),
        (["--model", "phi-1.5", "--weight-bits", "4", "--engine", "quick"], ["--engine", "events"]),
        (["--model", "phi-1.5", "--weight-bits", "4", "--trace", "t.jsonl"], ["--prompt-tokens contradicts --trace"]),
    ],
)
def test_simulate_names_what_is_wrong(capsys, more, parts):
    line = fails(capsys, *SIMULATE, *more)
    for part in parts:
        assert part in line


def test_a_trace_cut_in_the_middle_or_of_another_version_is_refused(capsys, store, trace, tmp_path):
    lines = trace.read_text().splitlines(keepends=True)
    argv = ["simulate", "--model", store, "--npu", "pmpd-4k", "--trace", tmp_path / "t.jsonl"]
    (tmp_path / "t.jsonl").write_text("".join(lines[:-1]))
    assert "no trailer after 1 sequences" in fails(capsys, *argv)
    (tmp_path / "t.jsonl").write_text(trace.read_text()[:-5])
    assert "t.jsonl:3: not JSON" in fails(capsys, *argv)
    other = lines[0].replace('"schema_version":"1.0"', '"schema_version":"7.0"', 1)
    (tmp_path / "t.jsonl").write_text("".join([other, *lines[1:]]))
    assert "schema_version = '7.0'" in fails(capsys, *argv)


def test_a_trace_of_another_model_needs_leave_and_is_labelled(capsys, trace):
    argv = ["simulate", "--model", "phi-1.5", "--npu", "pmpd-4k", "--trace", str(trace)]
    assert "--allow-model-mismatch" in fails(capsys, *argv)
    assert cli.main([*argv, "--allow-model-mismatch", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model_mismatch"]


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["--prompt", " "], "empty"),
        (["--prompt", "a " * 90], "holds at most 96"),
        (["--prompt", "a", "--schedule", "p8:8"], "weight_bits = 8: not stored; stored widths: 2, 3, 4, 16"),
        (["--prompt", "a", "--schedule", "p8"], "p4:4>3@40"),
        (["--task", "selvik"], "did you mean 'selvic'"),
        (["--data", "nothing.jsonl"], "nothing.jsonl: no such file"),
        (["--split", "dev"], "unknown split 'dev'"),
    ],
)
def test_trace_names_what_is_wrong_and_writes_nothing(capsys, store, tmp_path, more, part):
    out = tmp_path / "t.jsonl"
    assert part in fails(capsys, "trace", "--model", store, "--schedule", "3", "--out", out, "--quiet", *more)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["quantize", "nowhere", "OUT"], "nowhere"),
        (["quantize", "MODEL", "OUT", "--min-bits", "5", "--max-bits", "4"], "min_bits = 5, max_bits = 4"),
        (["quantize", "MODEL", "STORE"], "exists already"),
        (["quantize", "STORE", "OUT"], "is a nested store already"),
        (["quantize", "MODEL", "OUT", "--sensitivity", "fisher"], "calibration"),
        (["evaluate", "--model", "STORE", "--out", "OUT", "--metrics", "rouge_k"], "rouge_k"),
        (["evaluate", "--model", "STORE"], "--out is missing"),
        (["explore", "run", "OUT"], "no such file"),
        (["explore", "ask", "OUT", "--minimise", "bandwidth"], "OUT"),
    ],
)
def test_the_other_commands_name_what_is_wrong_and_write_nothing(capsys, model, store, tmp_path, argv, part):
    places = {"MODEL": str(model), "STORE": str(store), "OUT": str(tmp_path / "OUT")}
    line = fails(capsys, *(places.get(word, word) for word in argv))
    assert part in line
    assert not (tmp_path / "OUT" / "quality.json").exists()


def limited_disk():
    """Let every file end at a small size, which a program sees as it sees a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT_BYTES, FILE_LIMIT_BYTES))


def heed_ctrl_c():
    """A test run started in the background of a shell ignores SIGINT, and its children would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(*argv, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "studies.cli", *map(str, argv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    process = start("quantize", MODEL_FOLDER, tmp_path / "store", "--quiet", preexec_fn=limited_disk)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2, err
    assert err.count("\n") == 1
    assert "cannot be written" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_quantize_leaves_no_store(tmp_path, sent):
    process = start("quantize", MODEL_FOLDER, tmp_path / "store", "--quiet", preexec_fn=heed_ctrl_c)
    # Interrupt as soon as it has begun to write.
    for _ in range(600):
        if any(tmp_path.iterdir()) or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if sent == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in err
    assert not (tmp_path / "store").exists()
