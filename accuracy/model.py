"""Load a causal language model, from a folder or by hub name, and find its linear layers."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from accuracy.registration import QUANT_METHOD
from hwsim.trace import InputError, ModelShape, canonical_sha256, file_sha256, read_json, shape_from_config

CONFIG_NAME = "config.json"
TOKENIZER_FILES = ("tokenizer*", "vocab.*", "spiece.model", "*.tiktoken")
# What transformers, safetensors and torch raise for folders that hold no usable model.
LOAD_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    ImportError,
    SafetensorError,
    pickle.UnpicklingError,
)


class ModelBusyError(InputError):
    """A model is asked to decode while it decodes."""


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with what its results must be labelled with.

    Attributes:
        model: The transformers model, in evaluation mode.
        tokenizer: Its tokenizer.
        shape: Its dimensions, as the simulator takes them.
        name: Folder name or hub name.
        config_sha256: Hash of its config.json, the quantisation left out: a nested store keeps its source's.
        model_sha256: Hash of the unquantised weight files; a nested store keeps its source's.
        store_sha256: Hash of the nested store; None for an unquantised model.
        folder: Where its files lie, or the file that maps widths to models; None for a model that was never saved.
        quantizer: How the store was made; ``none`` for unquantised weights.
        lock: Held while it decodes; see :meth:`alone`.
    """

    model: Any
    tokenizer: Any
    shape: ModelShape
    name: str
    config_sha256: str
    model_sha256: str
    store_sha256: str | None = None
    folder: Path | None = None
    quantizer: str = "none"
    lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Have the model to oneself: it has one width at a time, which a second run would change under the first.

        Raises:
            ModelBusyError: If it decodes already, in another thread or further up in this one.
        """
        if not self.lock.acquire(blocking=False):
            raise ModelBusyError(
                f"{self.name}: is decoding already, and has one width at a time; wait until that has ended (a "
                "TokenStream does), or load the model a second time"
            )
        try:
            yield
        finally:
            self.lock.release()


def load_model(
    name_or_path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    *,
    weight_cache: bool = True,
    max_bits: int | None = None,
) -> LanguageModel:
    """Load any causal language model that transformers knows, a nested store, an original checkpoint, or a map.

    Code that comes with a model is never run, and pickled weights are read as tensors only.

    Args:
        name_or_path: A folder, a hub name such as ``HuggingFaceTB/SmolLM-135M``, or a .json file that maps widths to
            models (:mod:`accuracy.multi_model`).
        device: Where to put it.
        dtype: What to compute in; float32 on a CPU and float16 elsewhere by default.
        weight_cache: Of a nested model, as :func:`accuracy.linear.set_weight_cache` takes it.
        max_bits: Of a nested store, as :func:`accuracy.quantization.load_store` takes it.

    Raises:
        InputError: If there is no such folder or hub model, it holds no causal language model, its architecture
            is unknown, weights are missing or cut, or ``max_bits`` is given for another model than a nested store.
    """
    if Path(name_or_path).suffix == ".json" and not Path(name_or_path).is_dir():
        if max_bits is not None:
            raise InputError(
                f"max_bits = {max_bits}: {name_or_path} is a map of models; leave widths out of it instead"
            )
        from accuracy.multi_model import load_multi_model

        return load_multi_model(Path(name_or_path).expanduser(), device, dtype, weight_cache=weight_cache)
    folder = find_folder(name_or_path)
    config = read_config(folder)
    if is_store(config):
        from accuracy.quantization.storage import load_store

        return load_store(folder, device, dtype, weight_cache=weight_cache, max_bits=max_bits)
    if max_bits is not None:
        raise InputError(f"max_bits = {max_bits}: {display_name(name_or_path)} is no nested store; leave it out")
    if "anyprec" in config:
        from accuracy.quantization.original_format import load_original

        return load_original(folder, device, dtype, weight_cache=weight_cache)
    name = display_name(name_or_path)
    shape = shape_from_config(config, name)
    with quiet_transformers(), load_errors(name):
        model, info = AutoModelForCausalLM.from_pretrained(
            str(name_or_path),
            dtype=dtype or default_dtype(device),
            trust_remote_code=False,
            output_loading_info=True,
        )
    absent = sorted({*info["missing_keys"], *(str(key[0]) for key in info["mismatched_keys"])})
    if absent:
        raise InputError(
            f"{name}: {len(absent)} weights are missing or of another shape, the first {absent[0]}; "
            "the weight files do not belong to this config.json"
        )
    return LanguageModel(
        model=model.to(device).eval(),
        tokenizer=load_tokenizer(str(name_or_path), name),
        shape=shape,
        name=name,
        config_sha256=config_sha256(config),
        model_sha256=weights_sha256(folder),
        folder=folder,
    )


def decoder_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of the decoder blocks, by full name, in execution order of the module tree.

    Embeddings and lm_head are left out: they keep their own width (design decision 4).

    Raises:
        InputError: If the blocks hold weight matrices in anything else than a plain ``nn.Linear`` (Conv1D, fused
            experts, another quantiser's layer), or no block is found.
    """
    linears: dict[str, nn.Linear] = {}
    for name, module in _block_modules(model):
        if type(module) is nn.Linear:
            linears[name] = module
        elif any(parameter.dim() >= 2 for parameter in module.parameters(recurse=False)):
            raise InputError(
                f"layer '{name}' is a {type(module).__name__}: only nn.Linear can be quantised; use another model"
            )
    if not linears:
        raise InputError(f"{type(model).__name__}: no nn.Linear in its decoder blocks; it may be quantised already")
    return linears


def decoder_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The decoder blocks by full name, first to last.

    Raises:
        InputError: If the model has no list of as many blocks as its configuration says.
    """
    layers = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == layers:
            return {f"{name}.{index}": block for index, block in enumerate(module)}
    raise InputError(f"{type(model).__name__}: no list of {layers} decoder blocks found; only decoders are supported")


def _block_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module inside the decoder blocks, with its full name."""
    for name, block in decoder_blocks(model).items():
        yield from block.named_modules(prefix=name)


def read_config(folder: Path) -> dict[str, Any]:
    """Read a model folder's config.json.

    Raises:
        InputError: If it is missing or not a JSON object.
    """
    if not (folder / CONFIG_NAME).is_file():
        raise InputError(f"{folder}: holds no {CONFIG_NAME}: it is no model folder")
    config = read_json(folder / CONFIG_NAME)
    if not isinstance(config, dict):
        raise InputError(f"{folder / CONFIG_NAME}: must be a JSON object")
    return config


def is_store(config: dict[str, Any]) -> bool:
    """Whether a config.json describes a nested store."""
    quantization = config.get("quantization_config")
    return isinstance(quantization, dict) and quantization.get("quant_method") == QUANT_METHOD


def config_sha256(config: dict[str, Any]) -> str:
    """Hash of a config.json, the quantisation left out."""
    return canonical_sha256({key: value for key, value in config.items() if key != "quantization_config"})


def load_tokenizer(source: str, name: str) -> Any:
    """Load the tokenizer of a folder or hub model.

    Raises:
        InputError: If there is none (for some families transformers would make one that knows no word).
    """
    folder = Path(source)
    if folder.is_dir() and not any(file for pattern in TOKENIZER_FILES for file in folder.glob(pattern)):
        raise InputError(f"{name}: holds no tokenizer; save one there: tokenizer.save_pretrained(folder)")
    with load_errors(f"{name}: tokenizer"):
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def default_dtype(device: str | torch.device) -> torch.dtype:
    """What to compute in unless told: float32 on a CPU, float16 elsewhere."""
    return torch.float32 if torch.device(device).type == "cpu" else torch.float16


@contextmanager
def load_errors(name: str) -> Iterator[None]:
    """Turn what the libraries raise for an unusable folder into one line."""
    try:
        yield
    except InputError:
        raise
    except LOAD_ERRORS as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{name}: cannot be loaded: {first}") from None


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own progress bars and warnings off the terminal."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def display_name(name_or_path: str | Path) -> str:
    """What results call a model: its folder's name, or its hub name."""
    path = Path(name_or_path)
    return path.resolve().name if path.is_dir() else str(name_or_path)


def find_folder(name_or_path: str | Path) -> Path:
    """The local folder of a model; a hub name is resolved through the hub's cache.

    Raises:
        InputError: If there is neither such a folder nor such a hub model.
    """
    name = str(name_or_path)
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path
    if path.is_file():
        raise InputError(f"{path}: is a file; give the model's folder")
    if not name or name[0] in "./~" or name.count("/") > 1:
        raise InputError(f"{name or '(empty name)'}: no such folder; give a model folder or a hub name")
    try:
        config_file = cached_file(name, CONFIG_NAME)
        if is_store(read_config(Path(config_file).parent)):
            return Path(snapshot_download(name))
    except LOAD_ERRORS:
        raise InputError(
            f"{name}: no such folder, and no such model in the hub's cache or on the hub (is the network there?)"
        ) from None
    return Path(config_file).parent


def weights_sha256(folder: Path) -> str:
    """Hash of all weight files of an unquantised model."""
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    return canonical_sha256({file.name: file_sha256(file) for file in files})
