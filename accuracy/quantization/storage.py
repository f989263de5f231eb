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
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig

from accuracy.model import (
    CONFIG_NAME,
    LanguageModel,
    config_sha256,
    default_dtype,
    load_errors,
    load_tokenizer,
    quiet_transformers,
    read_config,
)
from accuracy.quantization.assembly import empty_model, fill_model, nest_linears
from accuracy.quantization.manifest import read_manifest
from accuracy.quantization.nested import NestedMatrix
from hwsim.trace import InputError, shape_from_config
from kernels import pack_planes


def nested_tensors(name: str, matrix: NestedMatrix) -> dict[str, Tensor]:
    """The stored tensors of one quantised matrix."""
    planes = pack_planes(torch.from_numpy(matrix.indices), max(matrix.luts))
    luts = {f"{name}.lut{bits}": torch.from_numpy(lut).contiguous() for bits, lut in matrix.luts.items()}
    return {f"{name}.planes": planes, **luts}


def sparse_counts(files: list[Path]) -> dict[str, int]:
    """Number of sparse outliers of every layer that has a sparse part, read from the files' headers."""
    counts = {}
    for path in files:
        with load_errors(str(path)), safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                if key.endswith(".sparse_vals"):
                    counts[key.removesuffix(".sparse_vals")] = file.get_slice(key).get_shape()[0]
    return counts


def load_store(
    folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> LanguageModel:
    """Load a nested store, at its widest nested width.

    Args:
        folder: The store.
        device: Where to put it.
        dtype: What to compute in; float32 on a CPU and float16 elsewhere by default.

    Raises:
        InputError: If the folder is no store, or a file of it is missing, cut, changed or foreign.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a nested store")
    config = read_config(folder)
    if "quantization_config" not in config:
        raise InputError(
            f"{folder}: its {CONFIG_NAME} has no quantization_config: it is no nested store; quantise first"
        )
    quantization, manifest = read_manifest(folder)
    files = [folder / name for name in sorted(manifest.files) if name.endswith(".safetensors")]
    name = manifest.source_name
    shape = shape_from_config(config, name)
    with quiet_transformers(), load_errors(name):
        source_config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        del source_config.quantization_config
        model = empty_model(source_config, dtype or default_dtype(device))
    nest_linears(model, quantization, full_precision=manifest.full_precision, sparse_values=sparse_counts(files))
    fill_model(model, _stored_tensors(files), folder)
    return LanguageModel(
        model=model.to(device).eval(),
        tokenizer=load_tokenizer(str(folder), name),
        shape=shape,
        name=name,
        config_sha256=config_sha256(config),
        model_sha256=manifest.model_sha256,
        store_sha256=manifest.store_sha256(),
        folder=folder,
    )


def _stored_tensors(files: list[Path]) -> Iterator[tuple[str, str, Tensor]]:
    """Every tensor of a store with its file and name, one in memory at a time."""
    for path in files:
        with load_errors(str(path)), safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                yield str(path), key, file.get_tensor(key)
