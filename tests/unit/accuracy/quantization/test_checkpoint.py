from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from accuracy.model import decoder_linears, load_model
from accuracy.quantization.checkpoint import Checkpoint
from hwsim.trace import InputError


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "opt", "gemma"])
def test_reads_every_tensor_of_the_model_and_allocates_none(model_folder: Callable[..., Path], family: str) -> None:
    folder = model_folder(family)
    checkpoint, loaded = Checkpoint.open(folder), load_model(folder)
    state = loaded.model.state_dict()
    tied = set(loaded.model.all_tied_weights_keys)
    assert set(checkpoint.names) == set(state) - tied
    for name in checkpoint.names:
        assert torch.equal(checkpoint.tensor(name), state[name])
    assert all(parameter.is_meta for parameter in checkpoint.skeleton.parameters())
    assert not any(buffer.is_meta for buffer in checkpoint.skeleton.buffers())
    assert list(checkpoint.linears) == list(decoder_linears(loaded.model))
    assert checkpoint.model_sha256 == loaded.model_sha256
    assert checkpoint.config_sha256 == loaded.config_sha256
    assert [name for block in checkpoint.blocks for name in checkpoint.block_linears(block)] == list(checkpoint.linears)


def test_eleventh_block_is_not_taken_for_the_first(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    config = AutoModelForCausalLM.from_pretrained(model_folder()).config
    config.num_hidden_layers = 11
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    checkpoint = Checkpoint.open(tmp_path)
    sizes = {len(checkpoint.block_linears(block)) for block in checkpoint.blocks}
    assert sizes == {7}


def test_reads_sharded_files_and_pickles_alike(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    source = Checkpoint.open(model_folder())
    model = AutoModelForCausalLM.from_pretrained(model_folder())
    model.save_pretrained(tmp_path / "sharded", max_shard_size="10KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    shutil.copy(model_folder() / "config.json", pickled)
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    for folder in (tmp_path / "sharded", pickled):
        found = Checkpoint.open(folder)
        assert found.names == source.names
        assert all(torch.equal(found.tensor(name), source.tensor(name)) for name in source.names)


def _copy(folder: Path, out: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    shutil.copytree(folder, out)
    tensors = load_file(out / "model.safetensors")
    change(tensors)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def test_reads_names_without_the_base_prefix(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    def strip(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    found = Checkpoint.open(_copy(model_folder(), tmp_path / "m", strip))
    assert found.names == Checkpoint.open(model_folder()).names


def test_missing_and_misshapen_weights_are_named(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["model.layers.1.mlp.up_proj.weight"]

    def cut(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.norm.weight"] = tensors["model.norm.weight"][:5].clone()

    with pytest.raises(InputError, match=r"tensor 'model.layers.1.mlp.up_proj.weight' is in none of its weight files"):
        Checkpoint.open(_copy(model_folder(), tmp_path / "dropped", drop))
    with pytest.raises(InputError, match=r"'model.norm.weight' has shape \[5\], must be \[36\]"):
        Checkpoint.open(_copy(model_folder(), tmp_path / "cut", cut))


def test_truncated_file_is_refused(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    shutil.copytree(model_folder(), tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model.safetensors: cannot be loaded"):
        Checkpoint.open(tmp_path / "m")


class _Intruder:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.file,))


def test_code_in_a_pickle_is_never_run(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    shutil.copy(model_folder() / "config.json", folder)
    torch.save({"model.norm.weight": _Intruder(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model.bin: cannot be loaded"):
        Checkpoint.open(folder)
    assert not (tmp_path / "ran").exists()


def test_quantised_models_and_folders_without_weights_are_refused(
    model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(model_folder(), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(InputError, match=r"is quantised already \(gptq\); quantise the unquantised model"):
        Checkpoint.open(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="has no weight files"):
        Checkpoint.open(folder)
