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

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt, ValidationError, model_validator
from safetensors import safe_open
from safetensors.torch import save_file
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
    write_json,
)
from hwsim.trace.schedule import Record
from kernels.planes import pack_planes

MANIFEST_NAME = "store.json"
MAX_SHARD_BYTES = 4 * 10**9
# A model folder's files that are neither weights nor config.json; what a tokenizer or generate() may need.
COMPANIONS = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "*.tiktoken",
)


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


class ShardWriter:
    """Collects tensors and writes them out in files of a bounded size."""

    def __init__(self, folder: Path, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
        self._folder, self._max_shard_bytes = folder, max_shard_bytes
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = 0
        self._shards: list[list[str]] = []
        self.total_bytes = 0

    def add(self, tensors: dict[str, Tensor]) -> None:
        """Take tensors; those before are written out once the limit is passed."""
        size = sum(tensor.nbytes for tensor in tensors.values())
        if self._pending and self._pending_bytes + size > self._max_shard_bytes:
            self._flush()
        self._pending.update({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        self._pending_bytes += size
        self.total_bytes += size

    def _flush(self) -> None:
        save_file(self._pending, self._folder / f"part-{len(self._shards)}.tmp", metadata={"format": "pt"})
        self._shards.append(sorted(self._pending))
        self._pending, self._pending_bytes = {}, 0

    def finish(self) -> list[Path]:
        """Write the rest, give the files the names transformers expects and return them."""
        self._flush()
        count = len(self._shards)
        names = [f"model-{index + 1:05}-of-{count:05}.safetensors" for index in range(count)]
        if count == 1:
            names = ["model.safetensors"]
        for index, name in enumerate(names):
            (self._folder / f"part-{index}.tmp").rename(self._folder / name)
        files = [self._folder / name for name in names]
        if count > 1:
            weight_map = {key: name for name, keys in zip(names, self._shards, strict=True) for key in keys}
            index_file = self._folder / "model.safetensors.index.json"
            write_json(index_file, {"metadata": {"total_size": self.total_bytes}, "weight_map": weight_map})
            files.append(index_file)
        return files


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes ``out`` only if the block ends without an error.

    A killed process leaves its temporary folder behind, hidden and without its lock; the next call removes it.

    Raises:
        InputError: If ``out`` exists already and is not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already; remove it or give another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix, suffix = f".{out.name}.", ".part"
    for stale in out.parent.glob(f"{prefix}*{suffix}"):
        with (stale / ".lock").open("w") as lock:
            if _try_lock(lock):
                shutil.rmtree(stale, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=out.parent))
    lock_file = temporary / ".lock"
    with lock_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield temporary
            lock_file.unlink()
            _open_permissions(temporary)
            temporary.rename(out)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _open_permissions(folder: Path) -> None:
    """Give a private temporary folder and its files what mkdir and open would have given."""
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~umask)


def _try_lock(file: Any) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def copy_companions(source: Path, folder: Path) -> None:
    """Copy tokenizer and generation settings beside the weights."""
    for pattern in COMPANIONS:
        for file in source.glob(pattern):
            shutil.copyfile(file, folder / file.name)


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


def store_config(source: Path, quantization: QuantizationConfig) -> str:
    """The text of a store's config.json: the source's with ``quantization_config`` added."""
    config = {**read_config(source), "quantization_config": quantization.model_dump()}
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"
