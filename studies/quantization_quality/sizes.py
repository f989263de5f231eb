"""Bytes of a store: its files, and its tensors once loaded, beside the same model in fp16."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import torch

from accuracy.linear import nested_linears
from accuracy.model import LanguageModel, load_model, quiet_transformers

FP16_BYTES = 2


class Bytes(TypedDict):
    """Bytes on disk and in memory.

    ``file_bytes`` are all files of the folder, ``weight_file_bytes`` its safetensors files. The others are tensors in
    memory: of the quantised layers planes, codebooks (of all stored widths), sparse parts and kept fp16 weights, and
    everything that is not quantised, as it was loaded (embeddings, norms, biases, lm_head).
    """

    file_bytes: int
    weight_file_bytes: int
    planes_bytes: int
    codebook_bytes: int
    sparse_bytes: int
    fp16_bytes: int
    other_bytes: int


def store_bytes(folder: Path) -> Bytes:
    """Measure a store, loaded as a GPU would compute with it, in fp16."""
    lm = load_model(folder, dtype=torch.float16)
    parts = dict.fromkeys(("planes", "lut", "sparse", "weight"), 0)
    for layer in nested_linears(lm.model):
        for name, buffer in layer.named_buffers(recurse=False):
            kind = next((kind for kind in parts if name.startswith(kind)), None)
            if kind is not None:
                parts[kind] += buffer.nbytes
    files, weight_files = _file_sizes(folder)
    return Bytes(
        file_bytes=files,
        weight_file_bytes=weight_files,
        planes_bytes=parts["planes"],
        codebook_bytes=parts["lut"],
        sparse_bytes=parts["sparse"],
        fp16_bytes=parts["weight"],
        other_bytes=_all_tensors(lm) - sum(parts.values()),
    )


def fp16_bytes(source: Path, shapes: Sequence[tuple[int, int]]) -> Bytes:
    """Measure the unquantised model, its weights saved and loaded in fp16."""
    lm = load_model(source, dtype=torch.float16)
    linears = sum(N * K for N, K in shapes) * FP16_BYTES
    with tempfile.TemporaryDirectory() as name, quiet_transformers():
        folder = Path(name)
        lm.model.save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)
        files, weight_files = _file_sizes(folder)
    return Bytes(
        file_bytes=files,
        weight_file_bytes=weight_files,
        planes_bytes=0,
        codebook_bytes=0,
        sparse_bytes=0,
        fp16_bytes=linears,
        other_bytes=_all_tensors(lm) - linears,
    )


def _file_sizes(folder: Path) -> tuple[int, int]:
    """Bytes of all files of a folder, and of its safetensors files."""
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return sum(sizes.values()), sum(size for path, size in sizes.items() if path.suffix == ".safetensors")


def _all_tensors(lm: LanguageModel) -> int:
    """Bytes of every parameter and buffer, tied ones once."""
    tensors = {id(tensor): tensor for tensor in lm.model.state_dict(keep_vars=True).values()}
    return sum(tensor.nbytes for tensor in tensors.values())
