"""A model folder read tensor by tensor, so that a model larger than memory can be quantised.

The model itself is built without weights, on the meta device: it says which tensors there are, which of them are
linear layers of the decoder blocks, and what is tied to what. The files are read by name, one tensor at a time.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from huggingface_hub import snapshot_download
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from accuracy.model import (
    config_sha256,
    decoder_blocks,
    decoder_linears,
    display_name,
    find_folder,
    is_store,
    load_errors,
    quiet_transformers,
    read_config,
    weights_sha256,
)
from accuracy.quantization.assembly import empty_model
from hwsim.trace import InputError, ModelShape, shape_from_config

_HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken")


@dataclass(frozen=True)
class Checkpoint:
    """An unquantised model on disk.

    Attributes:
        folder: Where its files lie.
        name: Folder name or hub name.
        config: Its config.json.
        shape: Its dimensions, as the simulator takes them.
        config_sha256: Hash of its config.json.
        model_sha256: Hash of its weight files.
        skeleton: The transformers model, its parameters on the meta device and its buffers real.
        linears: The decoder blocks' linear layers by name, as :func:`accuracy.model.decoder_linears` gives them.
        blocks: Names of the decoder blocks, first to last.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    shape: ModelShape
    config_sha256: str
    model_sha256: str
    skeleton: Any
    linears: dict[str, nn.Linear]
    blocks: tuple[str, ...]
    _places: dict[str, tuple[Path, str]]

    @classmethod
    def open(cls, name_or_path: str | Path) -> Checkpoint:
        """Read everything but the weights.

        Args:
            name_or_path: A folder or a hub name.

        Raises:
            InputError: If there is no such model, it is quantised already, its architecture is unknown or cannot be
                quantised, or a weight is missing or has another shape than config.json says.
        """
        folder, name = find_folder(name_or_path), display_name(name_or_path)
        if not Path(name_or_path).expanduser().is_dir():
            with load_errors(name):
                folder = Path(snapshot_download(name, allow_patterns=list(_HUB_FILES)))
        config = read_config(folder)
        _check_unquantized(name, config)
        shape = shape_from_config(config, name)
        with quiet_transformers(), load_errors(name), init_empty_weights(include_buffers=False):
            source_config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            skeleton = empty_model(source_config, torch.float32)
        skeleton.eval().requires_grad_(False)
        skeleton.tie_weights()
        return cls(
            folder=folder,
            name=name,
            config=config,
            shape=shape,
            config_sha256=config_sha256(config),
            model_sha256=weights_sha256(folder),
            skeleton=skeleton,
            linears=decoder_linears(skeleton),
            blocks=tuple(decoder_blocks(skeleton)),
            _places=_find_tensors(folder, name, skeleton),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor of the model that the files hold; tied ones once."""
        return tuple(self._places)

    def tensor(self, name: str) -> Tensor:
        """Read one tensor as it is stored.

        Raises:
            InputError: If the file was cut or changed since it was opened.
        """
        file, key = self._places[name]
        with load_errors(str(file)):
            if file.suffix == ".safetensors":
                with safe_open(file, framework="pt") as tensors:
                    found: Tensor = tensors.get_tensor(key)
            else:
                found = _map_pickle(file)[key]
        return found

    def block_linears(self, block: str) -> dict[str, nn.Linear]:
        """The linear layers of one block, by full name."""
        return {name: linear for name, linear in self.linears.items() if name.startswith(f"{block}.")}


def _check_unquantized(name: str, config: dict[str, Any]) -> None:
    if is_store(config) or "anyprec" in config:
        raise InputError(f"{name}: is a nested store already; quantise the unquantised model")
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        raise InputError(f"{name}: is quantised already ({method}); quantise the unquantised model")


def _find_tensors(folder: Path, name: str, model: Any) -> dict[str, tuple[Path, str]]:
    """File and key of every tensor the model needs, by its name in the model.

    Files may use older names, and leave the model's base prefix out or add it: transformers knows the rules.
    """
    state = model.state_dict()
    renamings = [rule for rule in get_model_conversion_mapping(model) if isinstance(rule, WeightRenaming)]
    stored = {}
    for file in _weight_files(folder, name):
        for key, shape in _shapes(file):
            in_model, _ = rename_source_key(key, renamings, [], model.base_model_prefix, state)
            stored[in_model] = (file, key, shape)
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    places: dict[str, tuple[Path, str]] = {}
    for wanted, tensor in state.items():
        if wanted in tied:
            continue
        if wanted not in stored:
            raise InputError(f"{name}: tensor '{wanted}' is in none of its weight files; they do not fit config.json")
        file, key, shape = stored[wanted]
        if shape != list(tensor.shape):
            raise InputError(
                f"{file}: tensor '{key}' has shape {shape}, must be {list(tensor.shape)}; it does not fit config.json"
            )
        places[wanted] = (file, key)
    return places


def _weight_files(folder: Path, name: str) -> list[Path]:
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise InputError(f"{name}: has no weight files (*.safetensors or pytorch_model*.bin) in {folder}")
    return files


def _shapes(file: Path) -> Iterator[tuple[str, list[int]]]:
    """Every tensor of a file and its shape, from the header."""
    with load_errors(str(file)):
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - a safetensors file is no mapping
                    yield key, tensors.get_slice(key).get_shape()
        else:
            for key, tensor in _map_pickle(file).items():
                yield key, list(tensor.shape)


def _map_pickle(file: Path) -> dict[str, Tensor]:
    """The tensors of a pickle, mapped rather than read; anything else in it is refused."""
    tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise pickle.UnpicklingError("must hold a dictionary of tensors")
    return tensors
