from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from accuracy.linear import nested_linears, set_weight_bits, stored_widths
from accuracy.quantization import AnyPrecisionConfig, NestedSettings, load_store, quantize
from hwsim.trace import InputError, read_json

PROMPT = torch.tensor([[1, 5, 9]])


@pytest.fixture(scope="module", params=["llama", "gemma", "opt"])
def store(
    request: pytest.FixtureRequest, model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("stores") / request.param
    quantize(model_folder(request.param), out, NestedSettings(2, 4, group_size=20), progress=False)
    return out


def test_transformers_loads_what_load_store_loads_and_generates_the_same(store: Path) -> None:
    theirs, ours = AutoModelForCausalLM.from_pretrained(store), load_store(store).model
    assert stored_widths(theirs) == stored_widths(ours) == (2, 3, 4, 16)
    expected = ours.state_dict()
    assert theirs.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in theirs.state_dict().items())
    for bits in (2, 3, 4, 16):
        tokens = []
        for model in (theirs, ours):
            set_weight_bits(model, bits)
            tokens.append(model.generate(PROMPT, max_new_tokens=6, do_sample=False, eos_token_id=None))
        assert torch.equal(*tokens)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_codebooks_keep_their_numbers_whatever_the_model_computes_in(dtype: torch.dtype, store: Path) -> None:
    stored = load_file(store / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(store, dtype=dtype)
    assert model.dtype == dtype
    layers = {name: module for name, module in model.named_modules() if module in set(nested_linears(model))}
    for name, layer in layers.items():
        for part in ("planes", "lut2", "lut3", "lut4", "weight"):
            tensor = layer.get_buffer(part)
            assert tensor.dtype == stored[f"{name}.{part}"].dtype
            assert torch.equal(tensor, stored[f"{name}.{part}"])
    assert model(PROMPT).logits.dtype == dtype


def test_save_pretrained_round_trips_bit_for_bit(store: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(store).save_pretrained(tmp_path / "saved")
    before, after = (load_file(folder / "model.safetensors") for folder in (store, tmp_path / "saved"))
    assert after.keys() == before.keys()
    for key, tensor in before.items():
        assert after[key].dtype == tensor.dtype
        assert torch.equal(after[key], tensor)
    saved, stored = (read_json(folder / "config.json")["quantization_config"] for folder in (tmp_path / "saved", store))
    assert saved == stored
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(tensor, before[key]) for key, tensor in again.state_dict().items() if key in before)


def test_sparse_part_is_loaded(store: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(store, tmp_path / "sparse"))
    tensors = load_file(folder / "model.safetensors")
    layer = next(key for key in tensors if key.endswith(".planes")).removesuffix(".planes")
    N = tensors[f"{layer}.planes"].shape[1]
    tensors[f"{layer}.sparse_rows"] = torch.tensor([0, *([2] * N)], dtype=torch.int32)
    tensors[f"{layer}.sparse_cols"] = torch.tensor([3, 7], dtype=torch.int32)
    tensors[f"{layer}.sparse_vals"] = torch.tensor([1.5, -2.0], dtype=torch.float16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    plain, sparse = AutoModelForCausalLM.from_pretrained(store), AutoModelForCausalLM.from_pretrained(folder)
    added = sparse.get_submodule(layer).dequantize(3).float() - plain.get_submodule(layer).dequantize(3).float()
    expected = torch.zeros_like(added)
    expected[0, 3], expected[0, 7] = 1.5, -2.0
    torch.testing.assert_close(added, expected, rtol=0, atol=2e-3)


def test_configuration_out_of_bounds_is_named(store: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(store, tmp_path / "bad"))
    config = read_json(folder / "config.json")
    config["quantization_config"]["max_bits"] = 12
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="quantization_config: max_bits = 12"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_quantising_while_loading_is_refused(model_folder: Callable[..., Path]) -> None:
    settings = AnyPrecisionConfig(min_bits=2, max_bits=4, group_size=None, quantizer="nested-kmeans")
    with pytest.raises(ValueError, match="does require the model to be pre-quantized"):
        AutoModelForCausalLM.from_pretrained(model_folder(), quantization_config=settings)


def test_configuration_can_be_printed(store: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(store)
    assert '"any_precision"' in repr(model.config)
    assert "widths=(2, 3, 4, 16), weight_bits=4" in repr(model)
