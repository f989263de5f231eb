"""Quantise a whole model into a store, block by block from its files, so that it never has to fit in memory."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from accuracy.linear import AnyPrecisionLinear
from accuracy.model import CONFIG_NAME
from accuracy.quantization.calibration import MAX_TOKENS, make_calibrator
from accuracy.quantization.checkpoint import Checkpoint
from accuracy.quantization.manifest import MANIFEST_NAME, QuantizationConfig, StoreManifest
from accuracy.quantization.method import Method, settings_of
from accuracy.quantization.nested import NestedMatrix, NestedSettings, check_weights
from accuracy.quantization.parts import MAX_SHARD_BYTES, Parts
from accuracy.quantization.storage import nested_tensors
from accuracy.quantization.store_writer import STORE_NAME, copy_companions, partial_folder
from accuracy.quantization.widths import warn_of_wasteful_widths
from hwsim.trace import InputError, canonical_sha256, collect_provenance, file_sha256, write_json

_OTHERS = "others"


@dataclass(frozen=True)
class StoreSummary:
    """What :func:`quantize` made.

    Attributes:
        folder: The store.
        store_sha256: Its identity.
        linears: Number of quantised layers.
        weights: Number of quantised weights.
        stored_bytes: Size of all tensors.
        bits_per_weight: Per width, bits read per weight: the planes with their padding, the codebook's share, and the
            sparse part. Short rows make it exceed 16 at the wide widths, where a narrower width or fp16 serves better.
        relative_error: Per width, squared error over squared weights, summed over all layers, unweighted.
        seconds: Wall time of this call; less than the whole where it went on with an interrupted run.
    """

    folder: Path
    store_sha256: str
    linears: int
    weights: int
    stored_bytes: int
    bits_per_weight: dict[int, float]
    relative_error: dict[int, float]
    seconds: float


def quantize(
    source: str | Path,
    out: str | Path,
    method: Method | None = None,
    *,
    calibration: Sequence[str] | None = None,
    max_tokens: int = MAX_TOKENS,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: bool = True,
) -> StoreSummary:
    """Quantise the decoder blocks' linear layers of a model and write the store.

    One block is in memory at a time: its weights, what calibration needs of them, and its part of the store. Finished
    blocks lie in ``OUT.partial``, from where a call with the same arguments goes on after a kill, to the same store.

    Args:
        source: Folder or hub name of an unquantised model.
        out: The store's folder; appears only when it is complete.
        method: How to quantise and what to keep; nested k-means from 2 to 8 bits by default.
        calibration: Texts for a method that needs a statistic; from the calibration split, never from the test split.
        max_tokens: Longest part of a text that is read.
        max_shard_bytes: Largest file of the store, unless one block alone is larger.
        progress: Show progress bars.

    Warns:
        WastefulWidthWarning: If a width reads no fewer bits than a wider one, or than the unquantised weights.

    Raises:
        InputError: If the model cannot be quantised (unknown layers, weights that are not finite), calibration
            text is missing, ``out`` exists, or ``OUT.partial`` holds a run with other settings. Finished blocks are
            kept.
    """
    method = method or NestedSettings()
    if method.statistic != "none" and not calibration:
        raise InputError(f"{method.quantizer}: needs calibration texts ({method.statistic}); give some")
    texts = list(calibration or []) if method.statistic != "none" else []
    start = time.perf_counter()
    checkpoint = Checkpoint.open(source)
    settings = settings_of(method)
    if texts:
        settings["calibration"] = {"texts": len(texts), "sha256": canonical_sha256(texts), "max_tokens": max_tokens}
    with partial_folder(Path(out)) as folder:
        if not any(folder.iterdir()):
            _check_all(checkpoint, progress)
        parts = Parts(folder, {"model_sha256": checkpoint.model_sha256, **settings})
        _quantize_blocks(checkpoint, method, texts, parts, folder / "calibration", max_tokens, progress)
        if not parts.has(_OTHERS):
            _add_others(checkpoint, parts)
        manifest = _assemble(checkpoint, method, settings, parts, folder / STORE_NAME, max_shard_bytes)
    warn_of_wasteful_widths(str(out), manifest.bits_per_weight)
    return StoreSummary(
        folder=Path(out),
        store_sha256=manifest.store_sha256(),
        linears=manifest.linears,
        weights=manifest.weights,
        stored_bytes=manifest.stored_bytes,
        bits_per_weight=manifest.bits_per_weight,
        relative_error=manifest.relative_error,
        seconds=time.perf_counter() - start,
    )


def _check_all(checkpoint: Checkpoint, progress: bool) -> None:
    """Look at every weight before hours are spent on the first ones."""
    for name in tqdm(checkpoint.linears, desc="check", unit="layer", disable=not progress):
        check_weights(name, _as_numpy(checkpoint.tensor(f"{name}.weight")))


def _quantize_blocks(
    checkpoint: Checkpoint,
    method: Method,
    texts: Sequence[str],
    parts: Parts,
    state_folder: Path,
    max_tokens: int,
    progress: bool,
) -> None:
    """Add every block's part that is not there yet."""
    calibrator = make_calibrator(
        method.statistic, checkpoint, texts, state_folder, max_tokens=max_tokens, progress=progress
    )
    sizes = {name: _weights(checkpoint.block_linears(name)) for name in checkpoint.blocks}
    todo = list(calibrator.order)
    done = sum(sizes.values()) - sum(sizes[checkpoint.blocks[block]] for block in todo)
    with tqdm(
        total=sum(sizes.values()), initial=done, desc="quantise", unit="w", unit_scale=True, disable=not progress
    ) as bar:
        for block in todo:
            name = checkpoint.blocks[block]
            # A process may have been killed between adding a part and moving the calibration past it.
            if not parts.has(name):
                _add_block(checkpoint, name, method, calibrator.measure(block), parts)
            propagates = method.statistic == "hessian"
            calibrator.advance(block, _stored_weights(checkpoint, name, method, parts) if propagates else {})
            bar.update(sizes[name])


def _weights(linears: dict[str, nn.Linear]) -> int:
    return sum(linear.weight.numel() for linear in linears.values())


def _add_block(
    checkpoint: Checkpoint, block: str, method: Method, statistics: Mapping[str, Tensor], parts: Parts
) -> None:
    """Quantise one block's layers and add its part."""
    tensors: dict[str, Tensor] = {}
    squares, errors, read_bits = 0.0, np.zeros(len(method.widths)), np.zeros(len(method.widths))
    linears = checkpoint.block_linears(block)
    for name, linear in linears.items():
        stored = checkpoint.tensor(f"{name}.weight")
        weight = _as_numpy(stored)
        statistic = statistics.get(name)
        matrix = method.quantize_matrix(weight, None if statistic is None else _as_numpy(statistic))
        tensors |= nested_tensors(name, matrix)
        if method.keep_full_precision:
            tensors[f"{name}.weight"] = stored.half()
        if linear.bias is not None:
            tensors[f"{name}.bias"] = checkpoint.tensor(f"{name}.bias")
        squares += float(np.square(weight, dtype=np.float64).sum())
        errors += _squared_errors(weight, matrix)
        read_bits += [matrix.bits_per_weight(bits) * weight.size for bits in method.widths]
    record = {
        "linears": len(linears),
        "weights": _weights(linears),
        "squares": squares,
        "errors": errors.tolist(),
        "read_bits": read_bits.tolist(),
    }
    parts.add(block, tensors, record)


def _squared_errors(weight: NDArray[np.float32], matrix: NestedMatrix) -> NDArray[np.float64]:
    """Unweighted squared error of one matrix at every width."""
    errors = []
    for bits in matrix.luts:
        difference = matrix.dequantize(bits)
        difference -= weight
        np.square(difference, out=difference)
        errors.append(difference.sum(dtype=np.float64))
    return np.array(errors)


def _as_numpy(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.float().numpy()


def _stored_weights(checkpoint: Checkpoint, block: str, method: Method, parts: Parts) -> dict[str, Tensor]:
    """The weights of a block's part at its widest nested width, float32, by layer."""
    tensors = parts.tensors(block)
    weights = {}
    for name, linear in checkpoint.block_linears(block).items():
        sparse = tensors.get(f"{name}.sparse_vals")
        layer = AnyPrecisionLinear(
            linear.in_features,
            linear.out_features,
            min_bits=method.widths[0],
            max_bits=method.widths[-1],
            group_size=method.group_size,
            bias=linear.bias is not None,
            full_precision=method.keep_full_precision,
            sparse_values=None if sparse is None else len(sparse),
        )
        layer.load_state_dict({part: tensors[f"{name}.{part}"] for part in layer.state_dict()})
        weights[name] = layer.dequantize(method.widths[-1], torch.float32)
    return weights


def _add_others(checkpoint: Checkpoint, parts: Parts) -> None:
    """Add what is not quantised, as it is: embeddings, norms, lm_head."""
    quantized = {f"{name}.{part}" for name in checkpoint.linears for part in ("weight", "bias")}
    parts.add(_OTHERS, {name: checkpoint.tensor(name) for name in checkpoint.names if name not in quantized}, {})


def _assemble(
    checkpoint: Checkpoint,
    method: Method,
    settings: dict[str, Any],
    parts: Parts,
    folder: Path,
    max_shard_bytes: int,
) -> StoreManifest:
    """Make the store's folder out of the parts: weights, configuration, companions and checksums."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    files = parts.merge([*checkpoint.blocks, _OTHERS], folder, max_shard_bytes)
    quantization = QuantizationConfig(
        min_bits=method.widths[0],
        max_bits=method.widths[-1],
        group_size=method.group_size,
        quantizer=method.quantizer,
    )
    config_file = folder / CONFIG_NAME
    write_json(config_file, {**checkpoint.config, "quantization_config": quantization.model_dump()})
    copy_companions(checkpoint.folder, folder)
    records = [parts.record(block) for block in checkpoint.blocks]
    weights = sum(record["weights"] for record in records)
    squares = sum(record["squares"] for record in records)
    read_bits = np.sum([record["read_bits"] for record in records], axis=0) / weights
    errors = np.sum([record["errors"] for record in records], axis=0) / (squares or 1)
    manifest = StoreManifest(
        source_name=checkpoint.name,
        model_sha256=checkpoint.model_sha256,
        settings=settings,
        full_precision=method.keep_full_precision,
        files={file.name: file_sha256(file) for file in [config_file, *files]},
        linears=sum(record["linears"] for record in records),
        weights=weights,
        stored_bytes=sum(parts.record(name)["tensor_bytes"] for name in [*checkpoint.blocks, _OTHERS]),
        bits_per_weight=dict(zip(method.widths, read_bits.tolist(), strict=True)),
        relative_error=dict(zip(method.widths, errors.tolist(), strict=True)),
        provenance=collect_provenance(),
    )
    write_json(folder / MANIFEST_NAME, manifest.model_dump(mode="json"))
    return manifest
