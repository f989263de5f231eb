from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from accuracy.linear import nested_linears, set_weight_bits, stored_widths
from accuracy.model import load_model
from accuracy.quantization import NestedSettings, load_store, quantize
from accuracy.quantization.original_format import (
    load_original,
    to_original_order,
    to_storage_order,
    write_original,
)
from hwsim.trace import InputError, read_json
from kernels import pack_planes

GOLDEN = {"anyprec-seed2-parent4": (2, 3, 4), "anyprec-fork-seed2-parent3-sparse": (2, 3)}


@pytest.fixture(params=GOLDEN)
def golden(request: pytest.FixtureRequest, shared_data: Path) -> Path:
    return shared_data / "golden" / request.param


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 80), st.integers(1, 8), st.integers(0, 2**31))
def test_bit_order_there_and_back_keeps_every_bit(words: int, bits: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    planes = pack_planes(torch.randint(0, 1 << bits, (3, 32 * words), generator=generator).to(torch.uint8), bits)
    assert torch.equal(to_storage_order(to_original_order(planes)), planes)


@pytest.mark.parametrize("K", [32, 64, 992, 1024, 1056, 2560])
def test_each_column_lies_at_the_documented_bit(K: int) -> None:
    qweight = torch.zeros(1, 1, K // 32, dtype=torch.int32)
    for word in {0, 1 % (K // 32), K // 64, K // 32 - 1}:
        for bit in (0, 7, 8, 19, 31):
            qweight.zero_()
            qweight[0, 0, word] = 1 << bit if bit < 31 else -(2**31)
            i, t = divmod(word, 32)
            lanes = 32 if (i + 1) * 1024 <= K else (K % 1024) // 32
            column = 8 * (i * 128 + lanes * (3 - bit // 8) + t) + 7 - bit % 8
            indices = torch.zeros(1, K, dtype=torch.uint8)
            indices[0, column] = 1
            assert torch.equal(to_storage_order(qweight), pack_planes(indices, 1))


def test_golden_weights_match_exactly_and_logits_closely(golden: Path) -> None:
    expected = load_file(golden / "expected.safetensors")
    loaded = load_original(golden)
    assert stored_widths(loaded.model) == GOLDEN[golden.name]
    first = next(nested_linears(loaded.model))
    for bits in GOLDEN[golden.name]:
        rows = first.dequantize(bits, torch.float32)[:8]
        assert torch.equal(rows, expected[f"q_proj0_{bits}bit"])
        set_weight_bits(loaded.model, bits)
        with torch.no_grad():
            logits = loaded.model(expected["input_ids"]).logits[:, -1]
        torch.testing.assert_close(logits, expected[f"logits_{bits}bit"], rtol=0, atol=1e-4)


def test_golden_checkpoint_read_and_written_again_keeps_every_tensors_bytes(golden: Path, tmp_path: Path) -> None:
    write_original(load_original(golden), tmp_path / "again")
    before = torch.load(golden / "pytorch_model.bin", weights_only=True)
    after = torch.load(tmp_path / "again" / "pytorch_model.bin", weights_only=True)
    assert set(after) == set(before)
    for key, tensor in before.items():
        assert after[key].dtype == tensor.dtype
        assert torch.equal(after[key].view(torch.uint8), tensor.view(torch.uint8))
    assert read_json(tmp_path / "again" / "config.json") == read_json(golden / "config.json")


def test_loader_recognises_an_original_checkpoint(golden: Path) -> None:
    assert load_model(golden).store_sha256 == load_original(golden).store_sha256


def test_own_store_survives_the_original_format(shared_data: Path, tmp_path: Path) -> None:
    quantize(shared_data / "models" / "m30k-fren-2M", tmp_path / "store", NestedSettings(3, 4), progress=False)
    store = load_store(tmp_path / "store")
    write_original(store, tmp_path / "original")
    original = load_original(tmp_path / "original")
    assert original.config_sha256 == store.config_sha256
    for ours, theirs in zip(nested_linears(store.model), nested_linears(original.model), strict=True):
        for bits in (3, 4):
            assert torch.equal(ours.dequantize(bits), theirs.dequantize(bits))


def test_input_size_that_is_no_multiple_of_32_is_refused(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    quantize(model_folder(), tmp_path / "store", NestedSettings(2, 3), progress=False)
    with pytest.raises(InputError, match=r"q_proj: in_features = 36: the original format needs a multiple of 32"):
        write_original(load_store(tmp_path / "store"), tmp_path / "original")
    assert not (tmp_path / "original").exists()


def test_codebooks_per_group_are_refused(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    quantize(model_folder(), tmp_path / "store", NestedSettings(2, 3, group_size=8), progress=False)
    with pytest.raises(InputError, match="group_size = 8: the original format has one codebook per row"):
        write_original(load_store(tmp_path / "store"), tmp_path / "original")


def test_unquantised_model_is_refused(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no nested store"):
        write_original(load_model(model_folder()), tmp_path / "original")


@pytest.fixture
def checkpoint(shared_data: Path, tmp_path: Path) -> Path:
    source = shared_data / "golden" / "anyprec-fork-seed2-parent3-sparse"
    return Path(shutil.copytree(source, tmp_path / "copy", copy_function=shutil.copyfile))


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    change(tensors)
    torch.save(tensors, folder / "pytorch_model.bin")


LAYER = "model.layers.1.mlp.up_proj"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda tensors: tensors.pop(f"{LAYER}.lut2"), rf"1 tensors are missing, the first '{LAYER}\.lut2'"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "'extra' does not belong"),
        (lambda tensors: tensors.update({f"{LAYER}.lut3": torch.zeros(512, 4)}), r"lut3' has shape \[512, 1, 4\]"),
        (
            lambda tensors: tensors[f"{LAYER}.cols"].fill_(192),
            r"sparse_cols' spans 192\.\.192, must be within",
        ),
        (lambda tensors: tensors[f"{LAYER}.rows"].zero_(), "sparse_rows' must rise from 0 to 442"),
    ],
)
def test_damaged_checkpoint_is_refused_by_tensor(
    change: Callable[[dict[str, torch.Tensor]], object], named: str, checkpoint: Path
) -> None:
    edit(checkpoint, change)
    with pytest.raises(InputError, match=named):
        load_original(checkpoint)


def test_cut_checkpoint_is_refused(checkpoint: Path) -> None:
    file = checkpoint / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"pytorch_model\.bin: cannot be loaded"):
        load_original(checkpoint)


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.target), "w")


def test_checkpoint_with_code_in_its_pickle_is_refused_and_not_run(checkpoint: Path) -> None:
    torch.save({"model.norm.weight": Payload(checkpoint / "ran")}, checkpoint / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_original(checkpoint)
    assert not (checkpoint / "ran").exists()


@pytest.mark.parametrize(("field", "value"), [("parent_precision", 12), ("group_count", 2), ("seed_precision", None)])
def test_impossible_configuration_is_named(field: str, value: object, checkpoint: Path) -> None:
    config = read_json(checkpoint / "config.json")
    config["anyprec"][field] = value
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"config\.json \(anyprec\): {field} = {value}"):
        load_original(checkpoint)
