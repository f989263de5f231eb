"""What a nested store says of itself: ``quantization_config`` in config.json, and ``store.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, ValidationError, model_validator

from accuracy.model import CONFIG_NAME, read_config
from hwsim.trace import MAX_PLANES, InputError, canonical_sha256, file_sha256, from_validation, read_json
from hwsim.trace.schedule import Record

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

    schema_version: Literal["1.1"] = "1.1"
    source_name: str
    model_sha256: str = Field(description="Hash of the unquantised weight files.")
    settings: dict[str, Any] = Field(description="What the quantiser was told.")
    full_precision: bool = Field(description="Whether the unquantised weights are kept (width 16).")
    files: dict[str, str] = Field(description="SHA-256 of config.json and of every weight file.")
    linears: int = Field(description="Number of quantised layers.")
    weights: int = Field(description="Number of quantised weights.")
    stored_bytes: int = Field(description="Size of all tensors.")
    bits_per_weight: dict[int, float] = Field(description="Per width, bits read per quantised weight.")
    relative_error: dict[int, float] = Field(description="Per width, squared error over squared weights.")
    provenance: dict[str, str]

    def store_sha256(self) -> str:
        """Identity of the stored numbers: the hash of all checksums."""
        return canonical_sha256(self.files)


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
