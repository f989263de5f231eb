from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from accuracy.model import decoder_linears, load_model
from accuracy.quantization.calibration import Calibrator, make_calibrator
from accuracy.quantization.checkpoint import Checkpoint
from hwsim.trace import InputError

TEXTS = ["word1 word2 word3", "word9 word4 word4 word7 word5", "word8 word0"]
REPOSITORY = Path(__file__).parents[4]


def start(statistic: str, model: Path, state: Path, **options: int) -> Calibrator:
    return make_calibrator(statistic, Checkpoint.open(model), TEXTS, state, progress=False, **options)


def rounded(checkpoint: Checkpoint, block: int) -> dict[str, Tensor]:
    """A coarse quantisation of one block, so that what follows it differs."""
    names = checkpoint.block_linears(checkpoint.blocks[block])
    return {name: (checkpoint.tensor(f"{name}.weight") * 4).round() / 4 for name in names}


def walk(model: Path, calibrator: Calibrator) -> dict[str, Tensor]:
    checkpoint, found = Checkpoint.open(model), {}
    for block in list(calibrator.order):
        found.update(calibrator.measure(block))
        calibrator.advance(block, rounded(checkpoint, block))
    return found


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_no_statistic_walks_over_all_blocks_and_measures_nothing(
    model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    calibrator = make_calibrator("none", Checkpoint.open(model_folder()), [], tmp_path, progress=False)
    assert list(calibrator.order) == [0, 1]
    assert walk(model_folder(), calibrator) == {}
    assert list(calibrator.order) == []


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_hessian_is_twice_the_mean_outer_product_of_inputs_behind_quantised_blocks(
    model_folder: Callable[..., Path], tmp_path: Path, family: str
) -> None:
    folder = model_folder(family)
    calibrator = start("hessian", folder, tmp_path)
    checkpoint, loaded = Checkpoint.open(folder), load_model(folder)
    linears = decoder_linears(loaded.model)
    assert list(calibrator.order) == [0, 1]
    for block in (0, 1):
        names = list(checkpoint.block_linears(checkpoint.blocks[block]))
        rows: dict[str, list[Tensor]] = {name: [] for name in names}
        hooks = [
            linears[name].register_forward_pre_hook(
                lambda _, args, seen=rows[name]: seen.append(args[0].reshape(-1, args[0].shape[-1]).double())
            )
            for name in names
        ]
        with torch.no_grad():
            for text in TEXTS:
                loaded.model(loaded.tokenizer(text, return_tensors="pt").input_ids)
        for hook in hooks:
            hook.remove()
        measured = calibrator.measure(block)
        assert list(measured) == names
        for name in names:
            x = torch.cat(rows[name])
            torch.testing.assert_close(measured[name].double(), 2 / len(x) * x.T @ x, rtol=1e-4, atol=1e-4)
        quantized = rounded(checkpoint, block)
        calibrator.advance(block, quantized)
        with torch.no_grad():
            for name, weight in quantized.items():
                linears[name].weight.copy_(weight)


def test_layers_with_the_same_input_share_their_hessian(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    found = start("hessian", model_folder(), tmp_path).measure(0)
    shared = {name.rpartition(".")[2]: tensor.data_ptr() for name, tensor in found.items()}
    assert shared["q_proj"] == shared["k_proj"] == shared["v_proj"]
    assert shared["gate_proj"] == shared["up_proj"]
    assert len(set(shared.values())) == 4


def test_fisher_does_not_depend_on_what_blocks_are_quantised_to(
    model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    calibrator = start("fisher", model_folder(), tmp_path / "unquantised")
    assert list(calibrator.order) == [1, 0]
    found = calibrator.measure(1)
    calibrator.advance(1, {})
    found |= calibrator.measure(0)
    assert_same(found, walk(model_folder(), start("fisher", model_folder(), tmp_path / "rounded")))


@pytest.mark.parametrize("statistic", ["none", "fisher", "hessian"])
def test_recreated_after_every_step_it_finds_the_same(
    model_folder: Callable[..., Path], tmp_path: Path, statistic: str
) -> None:
    folder = model_folder("opt")
    checkpoint = Checkpoint.open(folder)
    expected = walk(folder, start(statistic, folder, tmp_path / "whole"))
    found: dict[str, Tensor] = {}
    while order := start(statistic, folder, tmp_path / "parts").order:
        found |= start(statistic, folder, tmp_path / "parts").measure(order[0])
        assert_same(found, found | start(statistic, folder, tmp_path / "parts").measure(order[0]))
        start(statistic, folder, tmp_path / "parts").advance(order[0], rounded(checkpoint, order[0]))
    assert_same(found, expected)


@pytest.mark.parametrize(("statistic", "arrays"), [("none", 0), ("fisher", 4), ("hessian", 2)])
def test_state_takes_no_more_room_than_promised(
    model_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statistic: str, arrays: int
) -> None:
    most = 0

    def count(handle: int) -> None:
        nonlocal most
        most = max(most, sum(path.suffix in (".npy", ".part") for path in tmp_path.iterdir()))

    # The position's own temporary file is seen too; it is a JSON of a line.
    monkeypatch.setattr(os, "fsync", count)
    walk(model_folder(), start(statistic, model_folder(), tmp_path))
    assert arrays <= most <= arrays + 1


KILLED_AT_WRITES = """
import os, signal, sys
from pathlib import Path
import torch
from tests.unit.accuracy.quantization import test_calibration as shared
from accuracy.quantization.checkpoint import Checkpoint

folder, out = map(Path, sys.argv[1:])
checkpoint = Checkpoint.open(folder)
fsync = os.fsync

def go_on(statistic, kill_at):
    writes = 0
    def count(handle):
        nonlocal writes
        writes += 1
        if writes == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(handle)
    os.fsync = count
    calibrator = shared.make_calibrator(statistic, checkpoint, shared.TEXTS, out / statistic, progress=False)
    for block in list(calibrator.order):
        torch.save(calibrator.measure(block), out / f"{statistic}-{block}.pt")
        calibrator.advance(block, shared.rounded(checkpoint, block))

for statistic in ("fisher", "hessian"):
    status, kills = None, 0
    # Two flushes a write: the kill hits a file that is not yet on the disk, then one that is, later and later.
    for kill_at in (1, 2, 3, 4, *[5, 4] * 9):
        child = os.fork()
        if child == 0:
            go_on(statistic, kill_at)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status == 0:
            break
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
        kills += 1
    assert status == 0 and kills >= 4, (status, kills)
"""


@pytest.mark.slow
def test_killed_again_and_again_it_finds_the_same(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_AT_WRITES, model_folder(), tmp_path]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    for statistic in ("fisher", "hessian"):
        found: dict[str, Tensor] = {}
        for block in (0, 1):
            found |= torch.load(tmp_path / f"{statistic}-{block}.pt", weights_only=True)
        expected = walk(model_folder(), start(statistic, model_folder(), tmp_path / f"{statistic}-whole"))
        assert_same(found, {name: expected[name] for name in found})
        assert found.keys() == expected.keys()


def test_what_a_kill_left_half_written_is_cleared(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    start("hessian", model_folder(), tmp_path)
    (tmp_path / ".hidden-1.npy.abc.part").write_bytes(b"half")
    start("hessian", model_folder(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"position.json", "hidden-0.npy"}


def test_unknown_statistic_is_refused_with_the_known_ones(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown statistic 'fischer'; did you mean 'fisher'\?"):
        start("fischer", model_folder(), tmp_path)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "statistic 'fisher': needs calibration texts"),
        (["word1 word2", "word3"], "calibration text 1 has 1 tokens"),
    ],
)
def test_texts_that_teach_nothing_are_refused(
    model_folder: Callable[..., Path], tmp_path: Path, texts: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make_calibrator("fisher", Checkpoint.open(model_folder()), texts, tmp_path / "state", progress=False)
    assert not (tmp_path / "state").exists()


def test_state_of_another_calibration_is_refused(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    start("hessian", model_folder(), tmp_path)
    for change in (
        lambda: start("fisher", model_folder(), tmp_path),
        lambda: start("hessian", model_folder("opt"), tmp_path),
        lambda: start("hessian", model_folder(), tmp_path, max_tokens=4),
    ):
        with pytest.raises(InputError, match="holds a calibration of another model, statistic or texts; remove it"):
            change()
    (tmp_path / "position.json").write_text(json.dumps(["not", "mine"]))
    with pytest.raises(InputError, match="holds a calibration of another model"):
        start("hessian", model_folder(), tmp_path)


@pytest.mark.parametrize("statistic", ["none", "fisher", "hessian"])
def test_blocks_out_of_order_are_refused(model_folder: Callable[..., Path], tmp_path: Path, statistic: str) -> None:
    calibrator = start(statistic, model_folder(), tmp_path)
    later = calibrator.order[1]
    for step in (calibrator.measure, lambda block: calibrator.advance(block, {})):
        with pytest.raises(ValueError, match=f"block {later}: not the next one"):
            step(later)


def test_fisher_cannot_advance_past_a_block_it_did_not_measure(
    model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="block 1: must be measured"):
        start("fisher", model_folder(), tmp_path).advance(1, {})


@pytest.mark.parametrize(
    ("statistic", "tensor", "scale", "message"),
    [
        (
            "fisher",
            "model.layers.0.mlp.down_proj.weight",
            1e38,
            r"model\.layers\.0: its output for calibration text \d over",
        ),
        ("fisher", "lm_head.weight", 1e38, "calibration text 0: its loss is (inf|nan); must be finite"),
        ("fisher", "lm_head.weight", 1e30, r"model\.layers\.1\.\S+: squared gradients are not finite"),
        ("hessian", "model.layers.0.mlp.up_proj.weight", 1e25, r"model\.layers\.0\.mlp\.down_proj: the squares"),
    ],
)
def test_overflow_is_refused_by_name_and_leaves_the_state_whole(
    model_folder: Callable[..., Path], tmp_path: Path, statistic: str, tensor: str, scale: float, message: str
) -> None:
    source = model_folder()
    folder = tmp_path / "model"
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(source / "model.safetensors")
    tensors[tensor] *= scale
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    calibrator = start(statistic, folder, tmp_path / "state")
    with pytest.raises(InputError, match=message):
        calibrator.measure(calibrator.order[0])
    assert not list((tmp_path / "state").glob(".*.part"))
    assert json.loads((tmp_path / "state" / "position.json").read_text())["blocks_done"] == 0
