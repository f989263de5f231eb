"""The nested store: a folder that transformers recognises, written whole or not at all, and checked on reading.

``config.json`` is the source's plus ``quantization_config``; the weights lie in safetensors files, and
``store.json`` holds their checksums and where they came from. Per linear layer::

    {linear}.planes   int32 [max_bits, N, ceil(K / 32)]   most significant plane first, bit j of word w = column 32w+j
    {linear}.lut{b}   fp16  [N, groups, 2**b]             for every stored width b
    {linear}.bias           [N]                           where the source has one
    {linear}.weight   fp16  [N, K]                        where the unquantised weights are kept (width 16)
    {linear}.sparse_rows, .sparse_cols, .sparse_vals      outliers added to the dense part, in CSR form

Everything else (embeddings, norms, lm_head) keeps its name and dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig

from accuracy.linear import set_weight_cache
from accuracy.model import (
    CONFIG_NAME,
    LanguageModel,
    config_sha256,
    default_dtype,
    is_store,
    load_errors,
    load_tokenizer,
    quiet_transformers,
    read_config,
)
from accuracy.quantization.assembly import Header, OptionalParts, empty_nested_model, fill_model, nested_layers
from accuracy.quantization.manifest import MANIFEST_NAME, QuantizationConfig, read_manifest
from accuracy.quantization.nested import NestedMatrix
from accuracy.quantization.transformers_plugin import mark_quantized
from accuracy.registration import QUANT_METHOD
from hwsim.trace import InputError, canonical_sha256, file_sha256, from_validation, read_json, shape_from_config
from kernels import pack_planes

INDEX_NAME = "model.safetensors.index.json"


def nested_tensors(name: str, matrix: NestedMatrix) -> dict[str, Tensor]:
    """The stored tensors of one quantised matrix."""
    planes = pack_planes(torch.from_numpy(matrix.indices), max(matrix.luts))
    luts = {f"{name}.lut{bits}": torch.from_numpy(lut).contiguous() for bits, lut in matrix.luts.items()}
    sparse = {}
    if matrix.sparse is not None:
        parts = {"rows": matrix.sparse.rows, "cols": matrix.sparse.cols, "vals": matrix.sparse.vals}
        sparse = {f"{name}.sparse_{part}": torch.from_numpy(values) for part, values in parts.items()}
    return {f"{name}.planes": planes, **luts, **sparse}


def read_headers(files: list[Path]) -> dict[str, Header]:
    """Shape and kind of number of every stored tensor, by name; no tensor is read."""
    headers: dict[str, Header] = {}
    for path in files:
        with load_errors(str(path)), safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                stored = file.get_slice(key)
                headers[key] = Header(tuple(stored.get_shape()), stored.get_dtype())
    return headers


def load_store(
    folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    *,
    weight_cache: bool = True,
    max_bits: int | None = None,
) -> LanguageModel:
    """Load a nested store, at its widest nested width.

    A folder that transformers' ``save_pretrained`` wrote has no ``store.json``. It loads too, if its tokenizer was
    saved beside it, but there are no checksums to compare, and it does not say what it was made from: the model is
    named after its folder, and the hash of the store's own files stands for that of its unquantised model.

    Args:
        folder: The store.
        device: Where to put it.
        dtype: What to compute in; float32 on a CPU and float16 elsewhere by default.
        weight_cache: Where no kernel can run, as on a CPU: keep dequantised weights (fast) or unpack the planes at
            every call (small); see :func:`accuracy.linear.set_weight_cache`.
        max_bits: Leave everything above this width on disk: the lower planes, the wider codebooks and the unquantised
            weights. All widths by default.

    Raises:
        InputError: If the folder is no store, a file of it is missing, cut, changed or foreign, or ``max_bits`` is
            not stored.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a nested store")
    config = read_config(folder)
    if not is_store(config):
        raise InputError(
            f"{folder}: its {CONFIG_NAME} has no quantization_config of method '{QUANT_METHOD}': it is no nested "
            "store; quantise first"
        )
    quantization, origin = _read_origin(folder)
    shape = shape_from_config(config, origin.name)
    headers = read_headers(origin.files)
    parts = OptionalParts.of(headers)
    loaded = quantization
    if max_bits is not None:
        if not quantization.min_bits <= max_bits <= quantization.max_bits:
            raise InputError(f"max_bits = {max_bits}: must be {quantization.min_bits}..{quantization.max_bits}")
        loaded = quantization.model_copy(update={"max_bits": max_bits})
        parts = OptionalParts(False, parts.sparse_values)
    with quiet_transformers(), load_errors(origin.name):
        source_config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model = empty_nested_model(source_config, loaded, parts, dtype or default_dtype(device))
    fill_model(model, _stored_tensors(origin.files, nested_layers(headers), max_bits), folder)
    mark_quantized(model, loaded)
    set_weight_cache(model, weight_cache)
    return LanguageModel(
        model=model.to(device).eval(),
        tokenizer=load_tokenizer(str(folder), origin.name),
        shape=shape,
        name=origin.name,
        config_sha256=config_sha256(config),
        model_sha256=origin.model_sha256,
        store_sha256=origin.store_sha256,
        folder=folder,
        quantizer=quantization.quantizer,
    )


@dataclass(frozen=True)
class _Origin:
    """What a store is called, consists of and was made from."""

    name: str
    files: list[Path]
    model_sha256: str
    store_sha256: str


def _read_origin(folder: Path) -> tuple[QuantizationConfig, _Origin]:
    """Settings and identity of a store, from its manifest where it has one."""
    if (folder / MANIFEST_NAME).exists():
        quantization, manifest = read_manifest(folder)
        files = [folder / name for name in sorted(manifest.files) if name.endswith(".safetensors")]
        return quantization, _Origin(manifest.source_name, files, manifest.model_sha256, manifest.store_sha256())
    config_file, index_file = folder / CONFIG_NAME, folder / INDEX_NAME
    try:
        quantization = QuantizationConfig.model_validate(read_config(folder)["quantization_config"])
    except ValidationError as error:
        raise from_validation(error, str(config_file)) from None
    names = ["model.safetensors"]
    if index_file.is_file():
        with load_errors(str(index_file)):
            names = sorted(set(read_json(index_file)["weight_map"].values()))
    files = [folder / name for name in names]
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: is missing; save the model again")
    # The hash that a manifest of these files would give.
    identity = canonical_sha256({file.name: file_sha256(file) for file in [config_file, *files]})
    return quantization, _Origin(folder.resolve().name, files, identity, identity)


def _stored_tensors(files: list[Path], layers: set[str], max_bits: int | None) -> Iterator[tuple[str, str, Tensor]]:
    """Every tensor of a store with its file and name, one in memory at a time.

    With ``max_bits`` the layers' planes, codebooks and unquantised weights above it are left out.
    """
    for path in files:
        with load_errors(str(path)), safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                layer, _, part = key.rpartition(".")
                if max_bits is None or layer not in layers:
                    yield str(path), key, file.get_tensor(key)
                elif part == "planes":
                    yield str(path), key, file.get_slice(key)[:max_bits]
                elif part != "weight" and not (part.startswith("lut") and part > f"lut{max_bits}"):
                    yield str(path), key, file.get_tensor(key)
