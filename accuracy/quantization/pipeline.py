"""Quantise a whole model into a nested store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from accuracy.model import CONFIG_NAME, LanguageModel, decoder_linears, load_model, read_config
from accuracy.quantization.manifest import MANIFEST_NAME, QuantizationConfig, StoreManifest
from accuracy.quantization.nested import NestedMatrix, NestedSettings, check_weights, quantize_matrix
from accuracy.quantization.sensitivity import fisher_sensitivity
from accuracy.quantization.storage import nested_tensors
from accuracy.quantization.store_writer import ShardWriter, copy_companions, new_folder
from hwsim.trace import InputError, collect_provenance, file_sha256, write_json


@dataclass(frozen=True)
class StoreSummary:
    """What :func:`quantize` made.

    Attributes:
        folder: The store.
        store_sha256: Its identity.
        linears: Number of quantised layers.
        weights: Number of quantised weights.
        stored_bytes: Size of all tensors.
        bits_per_weight: Per width, bits read per weight: the planes with their padding, and the codebook's share.
            Short rows make it exceed 16 at the wide widths, where a narrower width or fp16 serves better.
        relative_error: Per width, squared error over squared weights, summed over all layers, unweighted.
        seconds: Wall time, loading the model left out.
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
    source: LanguageModel | str | Path,
    out: str | Path,
    settings: NestedSettings | None = None,
    *,
    calibration: Sequence[str] | None = None,
    progress: bool = True,
) -> StoreSummary:
    """Quantise the decoder blocks' linear layers of a model and write the nested store.

    Args:
        source: A loaded unquantised model, or where to load it from.
        out: The store's folder; appears only when it is complete.
        settings: Widths, group size and what else to keep.
        calibration: Texts for ``sensitivity="fisher"``; from the calibration split, never from the test split.
        progress: Show a progress bar.

    Raises:
        InputError: If the model cannot be quantised (unknown layers, weights that are not finite), calibration
            text is missing, or ``out`` exists.
    """
    settings = settings or NestedSettings()
    if settings.sensitivity == "fisher" and not calibration:
        raise InputError("sensitivity = 'fisher': needs calibration texts; give some or use sensitivity 'none'")
    source = source if isinstance(source, LanguageModel) else load_model(source)
    if source.folder is None:
        raise InputError(f"{source.name}: has no folder to copy tokenizer and configuration from; save it first")
    if source.store_sha256 is not None:
        raise InputError(f"{source.name}: is a nested store already; quantise the unquantised model")
    start = time.perf_counter()
    linears = decoder_linears(source.model)
    for name, linear in linears.items():
        check_weights(name, _as_numpy(linear.weight))
    with new_folder(Path(out)) as folder:
        sensitivity: dict[str, Tensor] = {}
        if settings.sensitivity == "fisher" and calibration:
            sensitivity = fisher_sensitivity(source, calibration, progress=progress)
        writer = ShardWriter(folder)
        errors, read_bits = np.zeros(len(settings.widths)), np.zeros(len(settings.widths))
        squares = 0.0
        weights = sum(linear.weight.numel() for linear in linears.values())
        with tqdm(total=weights, desc="quantise", unit="w", unit_scale=True, disable=not progress) as bar:
            for name, linear in linears.items():
                weight = _as_numpy(linear.weight)
                matrix = quantize_matrix(weight, settings, _optional_numpy(sensitivity.get(name)))
                tensors = nested_tensors(name, matrix)
                if linear.bias is not None:
                    tensors[f"{name}.bias"] = linear.bias
                if settings.keep_full_precision:
                    tensors[f"{name}.weight"] = linear.weight.half()
                writer.add(tensors)
                errors += _squared_errors(weight, matrix)
                read_bits += [
                    8 * (tensors[f"{name}.planes"][:bits].nbytes + lut.nbytes) for bits, lut in matrix.luts.items()
                ]
                squares += float(np.square(weight, dtype=np.float64).sum())
                bar.update(linear.weight.numel())
        _add_others(writer, source, linears.keys())
        manifest = _finish(writer, folder, source, settings)
    return StoreSummary(
        folder=Path(out),
        store_sha256=manifest.store_sha256(),
        linears=len(linears),
        weights=weights,
        stored_bytes=writer.total_bytes,
        bits_per_weight={bits: float(read / weights) for bits, read in zip(settings.widths, read_bits, strict=True)},
        relative_error={
            bits: float(error / squares) if squares else 0.0
            for bits, error in zip(settings.widths, errors, strict=True)
        },
        seconds=time.perf_counter() - start,
    )


def _as_numpy(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().float().cpu().numpy()


def _optional_numpy(tensor: Tensor | None) -> NDArray[np.float32] | None:
    return None if tensor is None else _as_numpy(tensor)


def _squared_errors(weight: NDArray[np.float32], matrix: NestedMatrix) -> NDArray[np.float64]:
    """Unweighted squared error of one matrix at every width."""
    differences = (weight - matrix.dequantize(bits).astype(np.float32) for bits in matrix.luts)
    return np.array([np.square(difference, dtype=np.float64).sum() for difference in differences])


def _add_others(writer: ShardWriter, source: LanguageModel, linears: Iterable[str]) -> None:
    """Store what is not quantised once, as it is; tied tensors are left to the model to tie again."""
    quantized = {f"{name}.{part}" for name in linears for part in ("weight", "bias")}
    tied = set(getattr(source.model, "all_tied_weights_keys", {}))
    state = source.model.state_dict()
    writer.add({key: tensor for key, tensor in state.items() if key not in quantized and key not in tied})


def _finish(writer: ShardWriter, folder: Path, source: LanguageModel, settings: NestedSettings) -> StoreManifest:
    """Write configuration, companions and checksums beside the weights."""
    assert source.folder is not None
    files = writer.finish()
    quantization = QuantizationConfig(
        min_bits=settings.min_bits,
        max_bits=settings.max_bits,
        group_size=settings.group_size,
        quantizer="nested-kmeans" if settings.sensitivity == "none" else f"nested-kmeans-{settings.sensitivity}",
    )
    config_file = folder / CONFIG_NAME
    write_json(config_file, {**read_config(source.folder), "quantization_config": quantization.model_dump()})
    copy_companions(source.folder, folder)
    manifest = StoreManifest(
        source_name=source.name,
        model_sha256=source.model_sha256,
        settings=asdict(settings),
        full_precision=settings.keep_full_precision,
        files={file.name: file_sha256(file) for file in [config_file, *files]},
        provenance=collect_provenance(),
    )
    write_json(folder / MANIFEST_NAME, manifest.model_dump(mode="json"))
    return manifest
