from __future__ import annotations

import sys
from pathlib import Path

import torch

from accuracy.model import load_model
from studies.large_model.measure import run_measured
from studies.large_model.model import RandomLlama, write_random_llama

TINY = RandomLlama(64, 96, 3, 4, 2, 300)


def test_default_is_a_model_of_a_billion_parameters_with_blocks_of_llama_2_7b() -> None:
    shapes = dict(RandomLlama().tensors())
    sizes = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    assert 1e9 < sum(sizes.values()) < 3e9
    block = sum(size for name, size in sizes.items() if name.startswith("model.layers.0.") and "norm" not in name)
    assert block == 4 * 4096**2 + 3 * 4096 * 11008


def test_written_model_loads_and_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_random_llama(tmp_path / name, TINY)
    one, two = (load_model(tmp_path / name) for name in ("one", "two"))
    assert one.model_sha256 == two.model_sha256
    assert one.shape.layers == 3
    assert len(one.tokenizer("Any text: é!").input_ids) == len("Any text: é!".encode())


def test_measured_process_reports_its_own_memory(tmp_path: Path) -> None:
    code = (
        "import time; kept = bytearray(300_000_000); kept[::4096] = b'x' * len(kept[::4096]); time.sleep(1); print(7)"
    )
    found = run_measured([sys.executable, "-c", code], tmp_path)
    assert found.returncode == 0
    assert found.output == "7\n"
    assert found.peak_rss_bytes > 300e6
    assert max(sample.anonymous_bytes for sample in found.samples) > 300e6
    assert found.seconds > 1


def test_process_is_killed_when_asked_for(tmp_path: Path) -> None:
    found = run_measured([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, kill_when=lambda: True)
    assert found.returncode == -9
    assert found.seconds < 30
