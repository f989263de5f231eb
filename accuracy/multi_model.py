"""Several quantised models that run as one, a model per width: what nested weights are compared with (PMPD, Table 9).

Methods such as GPTQ quantise for one width only, so that progressive precision needs a model for each width. They share
everything but the weights of the decoder blocks' linear layers, and the KV cache too: what one width has written the
next one reads, as in the paper. A JSON file maps widths to models::

    {"4": "gptq-4", "3": "gptq-3", "16": "model"}

Paths are relative to the file. Every model may be a store, which must hold that width, or for 16 an unquantised model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, RootModel, ValidationError
from torch import Tensor, nn

from accuracy.linear import AnyPrecisionLinear, SwitchedLinear
from accuracy.model import LanguageModel, decoder_blocks, load_model
from hwsim.trace import FULL_PRECISION_BITS, InputError, WeightBits, canonical_sha256, from_validation, read_json


class ModelMap(RootModel[dict[WeightBits, Annotated[str, Field(min_length=1)]]]):
    """Models by width, as the JSON file holds them."""


class MultiModelLinear(SwitchedLinear):
    """A linear layer with weights of its own for every width.

    Where no kernel can run, as on a CPU, every width keeps its dequantised weights, unless told otherwise
    (:func:`accuracy.linear.set_weight_cache`).
    """

    def __init__(self, by_width: Mapping[int, nn.Module]) -> None:
        """Put layers together.

        Args:
            by_width: Per width the layer of the model that has it: an any-precision layer, or a plain one for 16.
        """
        super().__init__()
        self.models = nn.ModuleDict({str(bits): by_width[bits] for bits in sorted(by_width)})
        for bits, layer in by_width.items():
            if isinstance(layer, AnyPrecisionLinear):
                layer.weight_bits = bits
        self._weight_bits = max(by_width)

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths of the models, rising."""
        return tuple(int(bits) for bits in self.models)

    @property
    def weight_bits(self) -> int:
        """The width in use; starts at the widest."""
        return self._weight_bits

    @weight_bits.setter
    def weight_bits(self, bits: int) -> None:
        self._check_stored(bits)
        self._weight_bits = bits

    def forward(self, x: Tensor) -> Tensor:
        """Multiply with the weights of the width in use."""
        product: Tensor = self.models[str(self._weight_bits)](x)
        return product


def load_multi_model(
    models: Path | str | Mapping[int, Path | str],
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    *,
    weight_cache: bool = True,
) -> LanguageModel:
    """Load one model a width and put them together.

    Args:
        models: Models by width, or a JSON file with such a map.
        device: Where to put them.
        dtype: What to compute in; float32 on a CPU and float16 elsewhere by default.
        weight_cache: As :func:`accuracy.model.load_model` takes it.

    Returns:
        A model named after the unquantised one that all were made from. Its store hash is that of all parts.

    Raises:
        InputError: If the map is no map, a model cannot be loaded or lacks its width, or two were made from different
            models or differ in anything but the weights of the blocks' linear layers.
    """
    file = None if isinstance(models, Mapping) else Path(models)
    paths = {int(bits): Path(path) for bits, path in models.items()} if isinstance(models, Mapping) else _read(models)
    if not paths:
        raise InputError(f"{file or 'models'}: empty; name at least one model, by its width")
    widest, *others = sorted(paths, reverse=True)
    first = _load(widest, paths[widest], device, dtype, weight_cache)
    by_width = {widest: _linears(first.model)}
    hashes, quantizers = {widest: first.store_sha256}, {first.quantizer}
    for bits in others:
        other = _load(bits, paths[bits], device, dtype, weight_cache)
        _check_alike(first, other, f"{paths[bits]} and {paths[widest]}")
        by_width[bits] = _linears(other.model)
        hashes[bits] = other.store_sha256
        quantizers.add(other.quantizer)
    for name in by_width[widest]:
        layer = MultiModelLinear({bits: layers[name] for bits, layers in by_width.items()})
        first.model.set_submodule(name, layer)
    # What belongs to one of the stores describes the whole no longer.
    first.model.hf_quantizer = None
    return LanguageModel(
        model=first.model.eval(),
        tokenizer=first.tokenizer,
        shape=first.shape,
        name=first.name,
        config_sha256=first.config_sha256,
        model_sha256=first.model_sha256,
        store_sha256=canonical_sha256({str(bits): digest for bits, digest in hashes.items()}),
        folder=file,
        quantizer=f"one model a width: {', '.join(sorted(quantizers - {'none'})) or 'unquantised'}",
    )


def _read(file: Path | str) -> dict[int, Path]:
    """The map of a file, its relative paths taken from there."""
    try:
        value = read_json(file)
        if not isinstance(value, dict) or not all(str(key).isdecimal() for key in value):
            raise InputError(
                f'{file}: is a file, but no map of widths to models as {{"4": "path"}}; give a model folder'
            )
        named = ModelMap.model_validate(value).root
    except ValidationError as error:
        raise from_validation(error, str(file)) from None
    return {bits: Path(file).parent / Path(name).expanduser() for bits, name in named.items()}


def _load(
    bits: int, path: Path, device: str | torch.device, dtype: torch.dtype | None, weight_cache: bool
) -> LanguageModel:
    """Load the model of one width and make sure that it has it."""
    if not path.is_dir():
        raise InputError(f"width {bits}: {path}: no such folder; give a store or a model")
    loaded = load_model(path, device, dtype, weight_cache=weight_cache)
    for name, layer in _linears(loaded.model).items():
        widths = layer.widths if isinstance(layer, AnyPrecisionLinear) else (FULL_PRECISION_BITS,)
        if bits not in widths:
            stored = ", ".join(map(str, widths))
            raise InputError(f"width {bits}: {path}: layer '{name}' has widths {stored}; give a model that has {bits}")
    return loaded


def _linears(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers of the decoder blocks by full name, quantised or not."""
    return {
        name: layer
        for prefix, block in decoder_blocks(model).items()
        for name, layer in block.named_modules(prefix=prefix)
        if isinstance(layer, AnyPrecisionLinear | nn.Linear)
    }


def _check_alike(first: LanguageModel, other: LanguageModel, which: str) -> None:
    """Refuse models that share no origin, or differ in more than the weights of the blocks' linear layers."""
    if first.model_sha256 != other.model_sha256:
        raise InputError(
            f"{which}: were made from different models ({other.model_sha256[:12]}, {first.model_sha256[:12]}); "
            "quantise the same one"
        )
    ours, theirs = _shared_tensors(first.model), _shared_tensors(other.model)
    for name in sorted({*ours, *theirs}):
        if name not in ours or name not in theirs or not torch.equal(ours[name], theirs[name]):
            raise InputError(f"{which}: differ in '{name}'; only the linear layers of the blocks may differ")


def _shared_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Everything but the weights of the blocks' linear layers: embeddings, norms, lm_head, biases."""
    linears = _linears(model)
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name.rpartition(".")[0] not in linears or name.endswith(".bias")
    }
