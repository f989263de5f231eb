from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from accuracy.linear import nested_linears, stored_widths
from accuracy.model import decoder_linears, load_model
from accuracy.quantization import NestedSettings, load_store, quantize, quantize_matrix
from accuracy.quantization.manifest import MANIFEST_NAME, StoreManifest
from accuracy.quantization.storage import nested_tensors
from hwsim.trace import InputError, file_sha256, read_json, write_json
from kernels.planes import unpack_planes


@pytest.fixture(scope="module")
def store(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stores") / "store"
    quantize(model_folder("qwen2"), out, NestedSettings(2, 5, group_size=20), progress=False)
    return out


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store, tmp_path / "copy"))


def resign(folder: Path) -> None:
    """Make the checksums match again, as a foreign writer would."""
    manifest = StoreManifest.model_validate(read_json(folder / MANIFEST_NAME))
    files = {name: file_sha256(folder / name) for name in manifest.files}
    write_json(folder / MANIFEST_NAME, manifest.model_copy(update={"files": files}).model_dump(mode="json"))


def test_stored_planes_select_the_codebook_entry_of_every_width(store: Path) -> None:
    tensors = load_file(store / "model.safetensors")
    model = load_store(store).model
    for name, module in model.named_modules():
        if f"{name}.planes" not in tensors:
            continue
        planes = tensors[f"{name}.planes"]
        assert planes.dtype == torch.int32
        N, K = module.out_features, module.in_features
        words = planes.numpy().view(np.uint32)
        for bits in (2, 3, 4, 5):
            lut = tensors[f"{name}.lut{bits}"]
            assert lut.dtype == torch.float16
            assert lut.shape == (N, -(-K // 20), 1 << bits)
            weight = module.dequantize(bits)
            for n, k in [(0, 0), (N - 1, K - 1), (N // 2, 19), (1, 33)]:
                bit_string = [(int(words[plane, n, k // 32]) >> (k % 32)) & 1 for plane in range(bits)]
                index = int("".join(map(str, bit_string)), 2)
                assert weight[n, k] == lut[n, k // 20, index]


def test_round_trip_keeps_every_tensor_bit_for_bit(store: Path, model_folder: Callable[..., Path]) -> None:
    source, loaded = load_model(model_folder("qwen2")), load_store(store)
    nested = dict(zip(decoder_linears(source.model), nested_linears(loaded.model), strict=True))
    for name, linear in decoder_linears(source.model).items():
        matrix = quantize_matrix(linear.weight.detach().numpy(), NestedSettings(2, 5, group_size=20))
        layer = nested[name]
        assert np.array_equal(unpack_planes(layer.planes, 5, layer.in_features).numpy(), matrix.indices)
        for bits, lut in matrix.luts.items():
            assert np.array_equal(layer.lut(bits).numpy(), lut)
        assert torch.equal(layer.weight, linear.weight.half())
        if linear.bias is not None:
            assert torch.equal(layer.bias, linear.bias)
    others = {key: value for key, value in source.model.state_dict().items() if ".layers." not in key}
    assert others
    for key, value in others.items():
        assert torch.equal(loaded.model.state_dict()[key], value)


def test_same_model_and_settings_give_the_same_store(
    store: Path, model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    again = quantize(model_folder("qwen2"), tmp_path / "again", NestedSettings(2, 5, 20), progress=False)
    assert again.store_sha256 == load_store(store).store_sha256


def test_store_keeps_the_identity_of_its_source(store: Path, model_folder: Callable[..., Path]) -> None:
    source, loaded = load_model(model_folder("qwen2")), load_model(store)
    assert (loaded.model_sha256, loaded.config_sha256) == (source.model_sha256, source.config_sha256)
    assert loaded.shape.sha256() == source.shape.sha256()
    assert loaded.name == source.name
    assert source.store_sha256 is None


def test_unquantised_weights_are_left_out_on_request(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    quantize(model_folder(), tmp_path / "s", NestedSettings(2, 4, keep_full_precision=False), progress=False)
    keys = load_file(tmp_path / "s" / "model.safetensors")
    assert not [key for key in keys if key.endswith("q_proj.weight")]
    assert all(layer.widths == (2, 3, 4) for layer in nested_linears(load_store(tmp_path / "s").model))


def test_cut_weight_file_is_refused(copy: Path) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model\.safetensors: has sha256 .* cut or changed"):
        load_store(copy)


def test_cut_weight_file_with_matching_checksum_is_refused(copy: Path) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    resign(copy)
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be loaded"):
        load_store(copy)


def test_one_flipped_bit_is_refused(copy: Path) -> None:
    file = copy / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match="cut or changed"):
        load_store(copy)


def test_missing_weight_file_is_refused(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors: is missing"):
        load_store(copy)


def test_store_without_manifest_is_identified_by_its_own_files(store: Path, copy: Path) -> None:
    (copy / MANIFEST_NAME).unlink()
    loaded, original = load_store(copy), load_store(store)
    assert loaded.store_sha256 == original.store_sha256
    assert (loaded.name, loaded.model_sha256) == ("copy", loaded.store_sha256)
    for key, tensor in original.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], tensor)
    (copy / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors: is missing"):
        load_store(copy)


def test_cut_store_without_manifest_is_refused(copy: Path) -> None:
    (copy / MANIFEST_NAME).unlink()
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be loaded") as caught:
        load_store(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [True, False])
def test_widths_above_a_bound_stay_on_disk(kept: bool, model_folder: Callable[..., Path], tmp_path: Path) -> None:
    quantize(model_folder(), tmp_path / "s", NestedSettings(2, 5, keep_full_precision=kept), progress=False)
    whole, part = load_store(tmp_path / "s"), load_model(tmp_path / "s", max_bits=3)
    assert (part.store_sha256, part.model_sha256) == (whole.store_sha256, whole.model_sha256)
    for one, other in zip(nested_linears(whole.model), nested_linears(part.model), strict=True):
        assert other.widths == (2, 3)
        assert other.planes.shape[0] == 3
        for bits in (2, 3):
            assert torch.equal(one.dequantize(bits), other.dequantize(bits))
    for max_bits in (1, 6, 16):
        with pytest.raises(InputError, match=rf"max_bits = {max_bits}: must be 2\.\.5"):
            load_store(tmp_path / "s", max_bits=max_bits)
    with pytest.raises(InputError, match=r"max_bits = 3: .* is no nested store"):
        load_model(model_folder(), max_bits=3)


def test_small_memory_is_chosen_while_loading(store: Path) -> None:
    assert {layer.cached_widths for layer in nested_linears(load_model(store, weight_cache=False).model)} == {0}
    # The widths of a tiny model all fit.
    assert all(layer.cached_widths > 7 for layer in nested_linears(load_model(store).model))


def test_store_of_one_width_loads_and_runs(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    quantize(model_folder(), tmp_path / "s", NestedSettings(3, 3, keep_full_precision=False), progress=False)
    model = load_store(tmp_path / "s").model
    assert stored_widths(model) == (3,)
    assert model(torch.tensor([[1, 5, 9]])).logits.isfinite().all()


def add_sparse_part(tensors: dict[str, torch.Tensor], layer: str) -> None:
    N = tensors[f"{layer}.planes"].shape[1]
    tensors[f"{layer}.sparse_rows"] = torch.tensor([0, *([2] * N)], dtype=torch.int32)
    tensors[f"{layer}.sparse_cols"] = torch.tensor([3, 7], dtype=torch.int32)
    tensors[f"{layer}.sparse_vals"] = torch.tensor([1.5, -2.0], dtype=torch.float16)


@pytest.mark.parametrize("max_bits", [None, 4])
def test_sparse_part_of_some_layers_is_loaded(max_bits: int | None, store: Path, copy: Path) -> None:
    layer = "model.layers.1.mlp.up_proj"
    edit(copy, lambda tensors: add_sparse_part(tensors, layer))
    plain, sparse = load_store(store), load_store(copy, max_bits=max_bits)
    added = sparse.model.get_submodule(layer).dequantize(3, torch.float32)
    added -= plain.model.get_submodule(layer).dequantize(3, torch.float32)
    expected = torch.zeros_like(added)
    expected[0, 3], expected[0, 7] = 1.5, -2.0
    torch.testing.assert_close(added, expected, rtol=0, atol=1e-6)
    assert plain.store_sha256 != sparse.store_sha256


def edit(copy: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(copy / "model.safetensors")
    change(tensors)
    save_file(tensors, copy / "model.safetensors")
    resign(copy)


def test_missing_tensor_is_named(copy: Path) -> None:
    edit(copy, lambda tensors: tensors.__delitem__("model.layers.1.mlp.up_proj.lut3"))
    with pytest.raises(InputError, match=r"1 tensors are missing, the first 'model\.layers\.1\.mlp\.up_proj\.lut3'"):
        load_store(copy)


def test_foreign_tensor_is_named(copy: Path) -> None:
    edit(copy, lambda tensors: tensors.update({"other.weight": torch.zeros(2)}))
    with pytest.raises(InputError, match="'other.weight' does not belong"):
        load_store(copy)


def test_tensor_of_another_shape_is_named(copy: Path) -> None:
    key = "model.layers.0.self_attn.q_proj.planes"
    edit(copy, lambda tensors: tensors.update({key: tensors[key][:4].contiguous()}))
    with pytest.raises(InputError, match=rf"'{key}' has shape \[4, 36, 2\], must be \[5, 36, 2\]"):
        load_store(copy)


def test_tensor_of_another_kind_is_named(copy: Path) -> None:
    key = "model.layers.0.self_attn.q_proj.planes"
    edit(copy, lambda tensors: tensors.update({key: tensors[key].float()}))
    with pytest.raises(InputError, match=rf"'{key}' is torch\.float32, must be torch\.int32"):
        load_store(copy)


@pytest.mark.parametrize(
    ("part", "dtype"), [("planes", torch.int64), ("lut3", torch.float32), ("weight", torch.bfloat16)]
)
def test_stored_number_that_would_be_rounded_is_named(part: str, dtype: torch.dtype, copy: Path) -> None:
    key = f"model.layers.0.self_attn.q_proj.{part}"
    edit(copy, lambda tensors: tensors.update({key: tensors[key].to(dtype)}))
    with pytest.raises(InputError, match=rf"'{key}' is {dtype}, must be torch\.(int32|float16)"):
        load_store(copy)


def test_layer_whose_unquantised_weight_is_missing_is_named(copy: Path) -> None:
    key = "model.layers.0.self_attn.q_proj.weight"
    edit(copy, lambda tensors: tensors.__delitem__(key))
    with pytest.raises(InputError, match=rf"1 tensors are missing, the first '{key}'"):
        load_store(copy)


@pytest.mark.parametrize("quantization", [{"quant_method": "gptq", "bits": 4}, "any_precision"])
def test_foreign_quantisation_is_no_store(quantization: object, copy: Path) -> None:
    config = read_json(copy / "config.json")
    config["quantization_config"] = quantization
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="no quantization_config of method 'any_precision': it is no nested store"):
        load_store(copy)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("version", "9.0", "version = '9.0'"),
        ("max_bits", 12, "max_bits = 12"),
        ("min_bits", 7, "min_bits = 7 exceeds max_bits = 5"),
        ("group_size", 0, "group_size = 0"),
    ],
)
def test_impossible_configuration_is_named(copy: Path, field: str, value: object, named: str) -> None:
    config = read_json(copy / "config.json")
    config["quantization_config"][field] = value
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=named):
        load_store(copy)


def test_unquantised_folder_is_no_store(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no nested store"):
        load_store(model_folder())
    with pytest.raises(InputError, match="no such folder"):
        load_store(tmp_path / "nothing")


def test_existing_folder_is_never_overwritten(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        quantize(model_folder(), tmp_path, progress=False)
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]


def test_sharded_store_loads_as_the_single_file_does(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    quantize(model_folder(), tmp_path / "one", NestedSettings(2, 4), progress=False)
    quantize(model_folder(), tmp_path / "many", NestedSettings(2, 4), max_shard_bytes=20_000, progress=False)
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 2
    one, many = (load_store(tmp_path / name).model.state_dict() for name in ("one", "many"))
    assert all(torch.equal(one[key], many[key]) for key in one)


@pytest.fixture
def shards(store: Path, tmp_path: Path) -> Path:
    """The store in several files, as save_pretrained writes it, without checksums."""
    loaded = load_store(store)
    loaded.model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    loaded.tokenizer.save_pretrained(tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("model-*"))) > 3
    return tmp_path / "shards"


def refused_by_both_loaders(folder: Path, message: str) -> None:
    for load in (load_store, AutoModelForCausalLM.from_pretrained):
        with pytest.raises((InputError, OSError), match=message):
            load(folder)


def test_missing_shard_is_refused(shards: Path) -> None:
    file = sorted(shards.glob("model-*"))[1]
    file.unlink()
    refused_by_both_loaders(shards, file.name)


def test_cut_shard_is_refused(shards: Path) -> None:
    file = sorted(shards.glob("model-*"))[1]
    file.write_bytes(file.read_bytes()[:-10])
    refused_by_both_loaders(shards, rf"{file.name}: cannot be loaded")


def test_foreign_shard_is_refused(shards: Path, model_folder: Callable[..., Path], tmp_path: Path) -> None:
    quantize(model_folder("qwen2"), tmp_path / "other", NestedSettings(2, 4, group_size=18), progress=False)
    shutil.copy(tmp_path / "other" / "model.safetensors", sorted(shards.glob("model-*"))[1])
    refused_by_both_loaders(
        shards, r"tensor 'model\.layers\..*' (has shape|is I32|is F16|is missing)|tensors are missing"
    )


def test_stray_file_beside_the_shards_is_not_read(shards: Path) -> None:
    before = load_store(shards)
    save_file({"model.embed_tokens.weight": torch.zeros(2)}, shards / "stray.safetensors")
    assert load_store(shards).store_sha256 == before.store_sha256


def test_index_without_files_is_refused(shards: Path) -> None:
    (shards / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    with pytest.raises(InputError, match=r"index\.json: cannot be loaded"):
        load_store(shards)


def test_nested_tensors_have_the_documented_names() -> None:
    matrix = quantize_matrix(np.random.default_rng(0).standard_normal((3, 40)).astype(np.float32), NestedSettings(2, 3))
    tensors = nested_tensors("a.b", matrix)
    shapes = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    assert shapes == {
        "a.b.planes": (torch.int32, (3, 3, 2)),
        "a.b.lut2": (torch.float16, (3, 1, 4)),
        "a.b.lut3": (torch.float16, (3, 1, 8)),
    }
