"""The nested store: a folder that transformers recognises, written whole or not at all, and checked on reading.

``config.json`` is the source's plus ``quantization_config``; the weights lie in safetensors files, and
``store.json`` holds their checksums and where they came from. Per linear layer::

    {linear}.planes   int32 [max_bits, N, ceil(K / 32)]   most significant plane first, bit j of word w = column 32w+j
    {linear}.lut{b}   fp16  [N, groups, 2**b]             for every stored width b
    {linear}.bias           [N]                           where the source has one
    {linear}.weight   fp16  [N, K]                        where the unquantised weights are kept (width 16)

Everything else (embeddings, norms, lm_head) keeps its name and dtype.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt, ValidationError, model_validator
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from accuracy.linear import AnyPrecisionLinear
from accuracy.model import (
    CONFIG_NAME,
    LanguageModel,
    config_sha256,
    decoder_linears,
    default_dtype,
    load_errors,
    load_tokenizer,
    quiet_transformers,
    read_config,
)
from accuracy.quantization.nested import NestedMatrix
from hwsim.trace import (
    MAX_PLANES,
    InputError,
    canonical_sha256,
    file_sha256,
    from_validation,
    read_json,
    shape_from_config,
)
from hwsim.trace.schedule import Record
from kernels.planes import pack_planes

MANIFEST_NAME = "store.json"


class QuantizationConfig(Record):
    """The ``quantization_config`` of a store's config.json."""

    quant_method: Literal["any_precision"] = "any_precision"
    version: Literal["1.0"] = "1.0"
    min_bits: int = Field(ge=1, le=MAX_PLANES, description="Narrowest stored width.")
    max_bits: int = Field(ge=1, le=MAX_PLANES, description="Widest stored nested width.")
    group_size: PositiveInt | None = Field(description="Columns that share a codebook; null: one per row.")
    quantizer: str = Field(description="How the codebooks were found.")

    @model_validator(mode="after")
    def _check_widths(self) -> QuantizationConfig:
        if self.min_bits > self.max_bits:
            raise ValueError(f"min_bits = {self.min_bits} exceeds max_bits = {self.max_bits}")
        return self


class StoreManifest(Record):
    """``store.json``: what the store holds and where it came from."""

    schema_version: Literal["1.0"] = "1.0"
    source_name: str
    model_sha256: str = Field(description="Hash of the unquantised weight files.")
    settings: dict[str, Any] = Field(description="What the quantiser was told.")
    full_precision: bool = Field(description="Whether the unquantised weights are kept (width 16).")
    files: dict[str, str] = Field(description="SHA-256 of config.json and of every weight file.")
    provenance: dict[str, str]

    def store_sha256(self) -> str:
        """Identity of the stored numbers: the hash of all checksums."""
        return canonical_sha256(self.files)


def nested_tensors(name: str, matrix: NestedMatrix) -> dict[str, Tensor]:
    """The stored tensors of one quantised matrix."""
    planes = pack_planes(torch.from_numpy(matrix.indices), max(matrix.luts))
    luts = {f"{name}.lut{bits}": torch.from_numpy(lut).contiguous() for bits, lut in matrix.luts.items()}
    return {f"{name}.planes": planes, **luts}


def read_manifest(folder: Path) -> tuple[QuantizationConfig, StoreManifest]:
    """Read what a store says of itself, and check every file against its checksum.

    Raises:
        InputError: If a file is missing, cut or changed, or a field breaks its bounds.
    """
    try:
        source = folder / CONFIG_NAME
        quantization = QuantizationConfig.model_validate(read_config(folder)["quantization_config"])
        source = folder / MANIFEST_NAME
        manifest = StoreManifest.model_validate(read_json(source))
    except ValidationError as error:
        raise from_validation(error, str(source)) from None
    for name, expected in manifest.files.items():
        file = folder / name
        if not file.is_file():
            raise InputError(f"{file}: is missing; quantise again")
        if (found := file_sha256(file)) != expected:
            raise InputError(
                f"{file}: has sha256 {found[:12]}, must be {expected[:12]}: it is cut or changed; quantise again"
            )
    return quantization, manifest


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
    name = manifest.source_name
    shape = shape_from_config(config, name)
    with quiet_transformers(), load_errors(name), no_init_weights():
        source_config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        del source_config.quantization_config
        model = AutoModelForCausalLM.from_config(
            source_config, dtype=dtype or default_dtype(device), trust_remote_code=False
        )
    for linear_name, linear in decoder_linears(model).items():
        replacement = AnyPrecisionLinear(
            linear.in_features,
            linear.out_features,
            min_bits=quantization.min_bits,
            max_bits=quantization.max_bits,
            group_size=quantization.group_size,
            bias=linear.bias is not None,
            full_precision=manifest.full_precision,
            dtype=linear.weight.dtype,
        )
        model.set_submodule(linear_name, replacement)
    _fill(model, folder, manifest)
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


def _fill(model: nn.Module, folder: Path, manifest: StoreManifest) -> None:
    """Copy the stored tensors into the model, refusing what is missing, foreign or of another shape."""
    state = model.state_dict()
    model.tie_weights()  # type: ignore[operator]
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    seen = set()
    for file_name in sorted(manifest.files):
        if not file_name.endswith(".safetensors"):
            continue
        with load_errors(str(folder / file_name)), safe_open(folder / file_name, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                target = state.get(key)
                if target is None:
                    raise InputError(f"{folder / file_name}: tensor '{key}' does not belong to this model")
                tensor = file.get_tensor(key)
                if tensor.shape != target.shape:
                    raise InputError(
                        f"{folder / file_name}: tensor '{key}' has shape {list(tensor.shape)}, "
                        f"must be {list(target.shape)}"
                    )
                if tensor.is_floating_point() != target.is_floating_point():
                    raise InputError(f"{folder / file_name}: tensor '{key}' is {tensor.dtype}, must be {target.dtype}")
                target.copy_(tensor)
                seen.add(key)
    missing = sorted(set(state) - seen - tied)
    if missing:
        raise InputError(f"{folder}: {len(missing)} tensors are missing, the first '{missing[0]}'; quantise again")
