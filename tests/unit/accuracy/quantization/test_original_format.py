from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

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
from kernels.planes import unpack_bits

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


# Whole blocks of 1024 columns, a last one of less, and widths of real models.
WIDTHS_K = [32, 64, 128, 256, 992, 1024, 1056, 2048, 2560, 4096, 5632, 11008]


@pytest.mark.parametrize("K", WIDTHS_K)
@pytest.mark.parametrize("parent", range(3, 9))
def test_bit_order_is_a_permutation_with_an_inverse_both_ways(K: int, parent: int) -> None:
    generator = torch.Generator().manual_seed(K + parent)
    words = torch.randint(-(2**31), 2**31, (parent, 2, K // 32), generator=generator).to(torch.int32)
    assert torch.equal(to_original_order(to_storage_order(words)), words)
    assert torch.equal(to_storage_order(to_original_order(words)), words)
    # Every bit comes from one place of the same row and plane.
    assert torch.equal(unpack_bits(to_storage_order(words)).sum(2), unpack_bits(words).sum(2))


@pytest.mark.parametrize("K", WIDTHS_K)
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


@pytest.fixture(scope="module")
def round_model(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose input sizes are multiples of 32, one of them no power of two."""
    folder = tmp_path_factory.mktemp("round") / "model"
    shutil.copytree(model_folder("qwen2"), folder)
    config = AutoConfig.from_pretrained(folder)
    config.update({"hidden_size": 64, "intermediate_size": 96})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("seed", "parent"), [(2, 3), (3, 4), (4, 4), (2, 5), (3, 6), (2, 7), (3, 8)])
def test_every_seed_and_parent_survives_the_original_format(
    seed: int, parent: int, round_model: Path, tmp_path: Path
) -> None:
    quantize(round_model, tmp_path / "store", NestedSettings(seed, parent), progress=False)
    store = load_store(tmp_path / "store")
    write_original(store, tmp_path / "original")
    original = load_model(tmp_path / "original")
    assert stored_widths(original.model) == tuple(range(seed, parent + 1))
    for ours, theirs in zip(nested_linears(store.model), nested_linears(original.model), strict=True):
        assert torch.equal(ours.planes, theirs.planes)
        assert all(torch.equal(ours.lut(bits), theirs.lut(bits)) for bits in ours.nested_widths)
        assert ours.bias is None or torch.equal(ours.bias.half(), theirs.bias.half())
    written = torch.load(tmp_path / "original" / "pytorch_model.bin", weights_only=True)
    assert written["model.layers.0.mlp.down_proj.qweight"].shape == (parent, 64, 3)
    assert written["model.layers.0.mlp.down_proj.qweight"].dtype == torch.int32
    assert written[f"model.layers.0.mlp.down_proj.lut{seed}"].shape == (64, 1 << seed)
    assert written["model.layers.0.self_attn.q_proj.bias"].dtype == torch.float16


def test_sparse_part_of_an_own_store_is_written_in_the_forks_form(round_model: Path, tmp_path: Path) -> None:
    quantize(round_model, tmp_path / "store", NestedSettings(2, 3, keep_full_precision=False), progress=False)
    layer = "model.layers.1.mlp.down_proj"
    file = tmp_path / "store" / "model.safetensors"
    sparse = {
        "rows": torch.tensor([0, *([2] * 64)], dtype=torch.int32),
        "cols": torch.tensor([3, 95], dtype=torch.int32),
        "vals": torch.tensor([1.5, -2.0], dtype=torch.float16),
    }
    named = {f"{layer}.sparse_{part}": values for part, values in sparse.items()}
    save_file({**load_file(file), **named}, file)
    (tmp_path / "store" / "store.json").unlink()
    store = load_store(tmp_path / "store")
    write_original(store, tmp_path / "original")
    written = torch.load(tmp_path / "original" / "pytorch_model.bin", weights_only=True)
    assert all(torch.equal(written[f"{layer}.{part}"], values) for part, values in sparse.items())
    assert not [key for key in written if key.endswith(".vals") and not key.startswith(layer)]
    assert read_json(tmp_path / "original" / "config.json")["anyprec"]["sparse_numvals"] == {layer: 2}
    original = load_original(tmp_path / "original").model.get_submodule(layer)
    assert torch.equal(original.dequantize(2), store.model.get_submodule(layer).dequantize(2))


def test_original_checkpoint_can_be_saved_as_a_store(golden: Path, tmp_path: Path) -> None:
    original = load_original(golden)
    original.model.save_pretrained(tmp_path / "saved")
    original.tokenizer.save_pretrained(tmp_path / "saved")
    store = load_model(tmp_path / "saved")
    assert stored_widths(store.model) == GOLDEN[golden.name]
    assert store.model.state_dict().keys() == original.model.state_dict().keys()
    for key, tensor in original.model.state_dict().items():
        assert torch.equal(store.model.state_dict()[key], tensor)
    assert "anyprec" not in read_json(tmp_path / "saved" / "config.json")


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
        (
            lambda tensors: tensors.update({f"{LAYER}.qweight": tensors[f"{LAYER}.qweight"].float()}),
            r"qweight' is torch\.float32 \[3, 512, 6\], must have 3 dimensions of torch\.int32",
        ),
        (
            lambda tensors: tensors.update({f"{LAYER}.qweight": tensors[f"{LAYER}.qweight"][0].clone()}),
            r"qweight' is torch\.int32 \[512, 6\], must have 3 dimensions of torch\.int32",
        ),
        (
            lambda tensors: tensors.update({f"{LAYER}.qweight": tensors[f"{LAYER}.qweight"][..., :5].clone()}),
            r"planes' has shape \[3, 512, 5\], must be \[3, 512, 6\]",
        ),
        (lambda tensors: tensors.update({f"{LAYER}.lut2": torch.tensor(1.0)}), "lut2' is .* must have 2 dimensions"),
        (
            lambda tensors: tensors.update({f"{LAYER}.lut2": tensors[f"{LAYER}.lut2"].float()}),
            r"lut2' is torch\.float32, must be torch\.float16",
        ),
        (
            lambda tensors: tensors.update({f"{LAYER}.cols": tensors[f"{LAYER}.cols"].long()}),
            r"sparse_cols' is torch\.int64, must be torch\.int32",
        ),
        (lambda tensors: tensors.update({f"{LAYER}.vals": torch.tensor(1)}), "cannot be loaded"),
        (lambda tensors: tensors.update({7: torch.zeros(1)}), "must hold a dictionary of tensors by name"),
        (lambda tensors: tensors.update(note="text"), "must hold a dictionary of tensors by name"),
    ],
)
def test_damaged_checkpoint_is_refused_by_tensor(
    change: Callable[[dict[str, torch.Tensor]], object], named: str, checkpoint: Path
) -> None:
    edit(checkpoint, change)
    with pytest.raises(InputError, match=named) as caught:
        load_original(checkpoint)
    assert "\n" not in str(caught.value)


def test_missing_weights_and_unknown_architecture_are_refused(checkpoint: Path) -> None:
    (checkpoint / "pytorch_model.bin").rename(checkpoint / "elsewhere.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin: cannot be loaded: .*No such file"):
        load_original(checkpoint)
    config = read_json(checkpoint / "config.json")
    (checkpoint / "config.json").write_text(json.dumps({**config, "model_type": "lama"}))
    with pytest.raises(InputError, match="unknown model_type 'lama'; did you mean 'llama'"):
        load_model(checkpoint)


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


def raw_pickle(value: object, file: Path) -> None:
    file.write_bytes(pickle.dumps(value, protocol=2))


@pytest.mark.parametrize("write", [torch.save, raw_pickle])
def test_checkpoint_with_code_in_its_pickle_is_refused_and_not_run(
    write: Callable[[object, Path], None], checkpoint: Path
) -> None:
    file = checkpoint / "pytorch_model.bin"
    file.unlink()
    write({"model.norm.weight": Payload(checkpoint / "ran")}, file)
    for load in (load_original, load_model):
        with pytest.raises(InputError, match=r"pytorch_model\.bin: cannot be loaded") as caught:
            load(checkpoint)
        assert "\n" not in str(caught.value)
    assert not (checkpoint / "ran").exists()
    # The code is real: a reader that trusts the file runs it.
    with suppress(pickle.UnpicklingError, RuntimeError):
        torch.load(file, weights_only=False)
    assert (checkpoint / "ran").exists()


@pytest.mark.parametrize(("field", "value"), [("parent_precision", 12), ("group_count", 2), ("seed_precision", None)])
def test_impossible_configuration_is_named(field: str, value: object, checkpoint: Path) -> None:
    config = read_json(checkpoint / "config.json")
    config["anyprec"][field] = value
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"config\.json \(anyprec\): {field} = {value}"):
        load_original(checkpoint)
