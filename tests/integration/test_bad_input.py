"""Bad input at the command line: one line that names field, value and bound, exit code 2, nothing half-written."""

import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import hwsim
from accuracy.reference import MODEL_FOLDER
from hwsim.trace import Schedule, synthetic_trace, write_trace
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


EVALUATE = ["evaluate", "--model", "STORE", "--out", "OUT"]
PATTERNS = [
    *("--scheduler", "pattern:pattern=first-half,high_bits=4,low_bits=3"),
    *("--scheduler", "pattern:pattern=first-half,high_bits=3,low_bits=2"),
]
PERPLEXITY = ["evaluate", "--model", "STORE", "--metric", "perplexity"]
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


# Each line says which field has which value, what would need more, the bound, its unit and what would help.
@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (
            ["buffers.weight_kib=1"],
            ["buffers.weight_kib = 1", "q_proj at 4 bits needs 1026 bytes", "holds 512", "at least 3 KiB"],
        ),
        (["buffers.codebook_kib=0.01"], ["buffers.codebook_kib = 0.01", "needs 32 bytes", "at least 1 KiB"]),
        (["buffers.kv_kib=2"], ["buffers.kv_kib = 2", "needs 8192 bytes", "holds 1024", "at least 16 KiB"]),
        (["buffers.activation_kib=2"], ["buffers.activation_kib = 2", "needs 8192 bytes", "at least 8 KiB"]),
        (["buffers.global_kib=0.05"], ["buffers.global_kib = 0.05", "needs 64 bytes", "at least 1 KiB"]),
        (["buffers.weight_kib=1", "control.tiling=search"], ["buffers.weight_kib = 1", "at least 3 KiB"]),
        (["sfu.lanes=0"], ["sfu.lanes = 0", "greater than or equal to 1"]),
        (["sfu.lanes=many"], ["sfu.lanes = 'many'", "valid integer"]),
        (["memory.bandwidth_bytes_per_s=32"], ["memory.bandwidth_bytes_per_s = 32", "bytes per second", "32e9"]),
        (["memory.bandwidth_bytes_per_s=32 GB/s"], ["= '32 GB/s'", "without a unit", "32e9"]),
        (["clock_hz=1000"], ["clock_hz = 1000", "1e6..1e11", "1 GHz is 1e9"]),
        (["memory.capacity_bytes=16"], ["memory.capacity_bytes = 16", "phi-1.5", "needs 1040809984", "raise it"]),
        (["memory.bandwith=32e9"], ["'memory.bandwith'", "did you mean 'memory.bandwidth_bytes_per_s'?"]),
        (["bufers.weight_kib=9"], ["'bufers.weight_kib'", "did you mean 'buffers.weight_kib'?"]),
        (
            ["memory.timing.row_bytes=64", "memory.burst_bytes=128"],
            ["pmpd-4k: memory.timing.row_bytes = 64", "memory.burst_bytes = 128"],
        ),
        (["memory.timing.t_rfc_ns=4000"], ["t_rfc_ns = 4000", "below t_refi_ns = 3904"]),
        (["matrix.cores=3"], ["matrix: mm has 2 rows", "multiple of cores = 3"]),
        (["matrix.macs=1000"], ["matrix.macs = 1000", "power of two within 64..16777216"]),
        (["matrix.weight_widths=[2, 3, 16]"], ["weight_bits = 4", "supports 2, 3, 16", "matrix.weight_widths"]),
        (["control.tiling=search", "control.prefetch=planned"], ["tiling = 'search' with prefetch = 'planned'"]),
    ],
)
def test_an_npu_that_cannot_run_the_model_is_refused_with_demand_bound_unit_and_remedy(capsys, overrides, parts):
    changes = [word for override in overrides for word in ("--set", override)]
    line = fails(capsys, *SIMULATE, "--model", "phi-1.5", "--weight-bits", "4", *changes)
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (("lanes: 16 ", "lanez: 16 "), ["npu.yaml: unknown NPU parameter 'sfu.lanez'", "did you mean 'sfu.lanes'?"]),
        (("  lanes: 16 ", "  "), ["npu.yaml: sfu.lanes"]),
        (("matrix:", "matrix: ["), ["npu.yaml:", "not YAML"]),
        (('schema_version: "1.0"', 'schema_version: "2.0"'), ["npu.yaml: schema_version = '2.0'", "must be '1.0'"]),
    ],
)
def test_an_npu_file_is_refused_by_name_and_field(capsys, tmp_path, change, parts):
    text = (Path(hwsim.__file__).parent / "npus" / "pmpd-4k.yaml").read_text()
    assert change[0] in text
    path = tmp_path / "npu.yaml"
    path.write_text(text.replace(*change))
    line = fails(capsys, *SIMULATE, "--model", "phi-1.5", "--weight-bits", "4", "--npu", path)
    for part in parts:
        assert part in line


def test_bad_input_ends_a_real_process_with_one_line_before_anything_runs(tmp_path):
    out = tmp_path / "timeline.json"
    words = [*SIMULATE, "--model", "phi-1.5", "--weight-bits", "4", "--timeline", out, "--set", "sfu.lanes=0"]
    process = start(*words)
    stdout, err = process.communicate(timeout=120)
    assert (process.returncode, stdout) == (2, "")
    assert err.startswith("bittaper: error: pmpd-4k: sfu.lanes = 0: must be")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def _sequence(lines, **changes):
    return [lines[0], json.dumps({**json.loads(lines[1]), **changes}), lines[2]]


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda lines: lines[:2], ["t.jsonl: no trailer after 1 sequences", "cut"]),
        (lambda lines: [], ["t.jsonl:1: record must be 'header'"]),
        (
            lambda lines: [lines[0], lines[1], '{"record": "trailer", "sequences": 5}'],
            ["counts 5 sequences, the file has 1"],
        ),
        (
            lambda lines: [lines[0].replace("kv_bits", "kv_bitz"), *lines[1:]],
            ["t.jsonl:1: header.kv_bitz", "no such field"],
        ),
        (lambda lines: _sequence(lines, decode_weight_bits=[[9, 5]]), ["t.jsonl:2:", "= 9", "1..8", "16"]),
        (
            lambda lines: _sequence(lines, decode_weight_bits=[[4, 3]]),
            ["t.jsonl:2: sequence: decode_weight_bits covers 3 steps", "must be generated_tokens - 1 = 5"],
        ),
        (lambda lines: _sequence(lines, prompt_tokens=9000), ["prompt_tokens + decode steps = 9005", "at most 2048"]),
    ],
)
def test_a_damaged_trace_is_refused_with_its_line_and_field(capsys, tmp_path, damage, parts):
    shape = hwsim.load_shape("phi-1.5")
    made = synthetic_trace(shape, Schedule.uniform(4), prompt_tokens=8, decode_tokens=5)
    path = tmp_path / "t.jsonl"
    write_trace(path, made.header, made.sequences)
    path.write_text("".join(f"{line}\n" for line in damage(path.read_text().splitlines())))
    line = fails(capsys, "simulate", "--model", "phi-1.5", "--npu", "pmpd-4k", "--trace", path)
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
        (["--schedule", "4", "--scheduler", "static:schedule=3"], "a trace is of one scheduler"),
        (["--scheduler", "pattern:pattern=all-low,high_bits=4,low_bits=3"], "laid over lengths"),
        (["--scheduler", "confidense"], "did you mean 'confidence'"),
        (["--scheduler", "confidence:widths=4,thresholds=[0.5]"], "an option has a value of the wrong kind"),
        (["--scheduler", "confidence:widths=[4,3]"], "missing a required argument: 'thresholds'"),
        (["--scheduler", "confidence:widths=[4,3],widths=[4]"], "widths is given twice"),
        (["--scheduler", "no.such:Scheduler"], "module 'no.such' cannot be imported"),
        (["--temperature", "0"], "temperature = 0.0: must be > 0"),
        (["--device", "tpu"], "--device tpu: must be auto, cpu, cuda or cuda:N"),
        (["--device", "cuda:99"], "--device cuda:99: "),
        (["--workers", "0"], "0: must be >= 1"),
        (["--task", "selvik"], "did you mean 'selvic'"),
        (["--data", "nothing.jsonl"], "nothing.jsonl: no such file"),
        (["--split", "dev"], "unknown split 'dev'"),
    ],
)
def test_trace_names_what_is_wrong_and_writes_nothing(capsys, store, tmp_path, more, part):
    out = tmp_path / "t.jsonl"
    schedule = [] if {"--schedule", "--scheduler"} & {*more} else ["--schedule", "3"]
    assert part in fails(capsys, "trace", "--model", store, *schedule, "--out", out, "--quiet", *more)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["quantize", "nowhere", "OUT"], "nowhere"),
        (["quantize", "MODEL", "OUT", "--min-bits", "5", "--max-bits", "4"], "min_bits = 5, max_bits = 4"),
        (["quantize", "MODEL", "STORE"], "exists already"),
        (["quantize", "STORE", "OUT"], "is a nested store already"),
        (["quantize", "MODEL", "OUT", "--sensitivity", "fisher"], "calibration"),
        (["quantize", "MODEL", "OUT", "--sensitivity", "fisher", "--calibration", "EMPTY"], "holds no text"),
        (["quantize", "MODEL", "OUT", "--sensitivity", "taste"], "sensitivity = 'taste': must be 'none'"),
        (["quantize", "MODEL", "OUT", "--method", "gptq", "--bits", "3"], "calibration"),
        (["quantize", "MODEL", "OUT", "--method", "rtn"], "--bits is missing"),
        (["quantize", "MODEL", "OUT", "--method", "rtn", "--bits", "9"], "bits = 9: must be 1..8"),
        (["quantize", "MODEL", "OUT", "--method", "rtn", "--bits", "3", "--min-bits", "2"], "--min-bits: belongs to"),
        (["quantize", "MODEL", "OUT", "--bits", "3"], "--bits: belongs to --method gptq, rtn, not nested"),
        (["quantize", "MODEL", "OUT", "--outlier-share", "2"], "outlier_share = 2.0: must be 0..1"),
        (["quantize", "MODEL", "OUT", "--average-bits", "1"], "average bits = 1.0: must be"),
        (["quantize", "MODEL", "OUT", "--average-bits", "3", "--outlier-share", "0.1"], "give one of them"),
        (["evaluate", "--model", "STORE", "--out", "OUT", "--metric", "rouge_k"], "rouge_k"),
        (["evaluate", "--model", "STORE"], "--out is missing"),
        ([*EVALUATE, "--baseline", "3"], "--baseline 3: is not among the schedulers p16:16, p4:4, p3:3, p2:2"),
        ([*EVALUATE, "--metric", "bleu", "--encoder", "x"], "--encoder x: is for --metric bertscore"),
        ([*EVALUATE, "--scheduler", "pattern:pattern=all-low,high_bits=11,low_bits=3"], "must be weight widths"),
        ([*EVALUATE, *PATTERNS], "baselines p4:4, p3:3 differ in length; say which by --forced-lengths"),
        (["evaluate", "--model", "STORE", "--out", "OUT", "--window", "8"], "--window 8: is for --metric perplexity"),
        (["evaluate", "--model", "STORE", "--metric", "bleu", "--metric", "perplexity"], "ask for it alone"),
        ([*PERPLEXITY], "--text is missing"),
        ([*PERPLEXITY, "--text", "nothing.txt"], "nothing.txt: no such file"),
        ([*PERPLEXITY, "--text", "EMPTY"], "holds no word"),
        ([*PERPLEXITY, "--text", "TEXT", "--window", "1"], "window = 1: must be 2..96"),
        ([*PERPLEXITY, "--text", "TEXT", "--window", "9", "--stride", "9"], "stride = 9: must be 1..8"),
        ([*PERPLEXITY, "--text", "TEXT", "--schedule", "9"], "9"),
        ([*PERPLEXITY, "--text", "TEXT", "--schedule", "p4:4>3@8"], "has no decode steps; give uniform widths"),
        (["explore", "run", "OUT"], "no such file"),
        (["explore", "ask", "OUT", "--minimise", "bandwidth"], "OUT"),
    ],
)
def test_the_other_commands_name_what_is_wrong_and_write_nothing(capsys, model, store, tmp_path, argv, part):
    texts = {"EMPTY": " \n", "TEXT": "a few words of text"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    places = {"MODEL": str(model), "STORE": str(store), **{name: str(tmp_path / name) for name in ("OUT", *texts)}}
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
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path):
    process = start("quantize", MODEL_FOLDER, tmp_path / "store", "--quiet", preexec_fn=limited_disk)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2, err
    assert err.count("\n") == 1
    assert "cannot be written" in err
    assert [file.name for file in tmp_path.iterdir()] == ["store.partial"]
    assert not list(tmp_path.glob("store.partial/part-*.json"))


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
