"""The tensors of an unfinished store: one file per decoder block, each with a record that makes it count."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from accuracy.model import load_errors
from accuracy.quantization.store_writer import save_tensors
from hwsim.trace import InputError, file_sha256, read_json, write_json

MAX_SHARD_BYTES = 10**9
SETTINGS_NAME = "run.json"


class Parts:
    """Parts of a store in a folder, some of them perhaps from a process that was killed."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """Start, or go on where an earlier process with the same settings stopped.

        Raises:
            InputError: If the folder holds the parts of a run with other settings.
        """
        self._folder = folder
        file = folder / SETTINGS_NAME
        if not file.exists():
            # Parts without settings cannot be: settings are written first.
            write_json(file, settings)
        elif (other := read_json(file)) != settings:
            names = sorted(name for name in {*settings, *other} if settings.get(name) != other.get(name))
            raise InputError(
                f"{folder}: holds an unfinished run with {names[0]} = {other.get(names[0])}, "
                f"here {settings.get(names[0])}; finish that one, or remove the folder"
            )

    def has(self, name: str) -> bool:
        """Whether a part is complete."""
        return self._record_file(name).exists()

    def add(self, name: str, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Write a part; it counts once this returns.

        Raises:
            InputError: If the disk is full.
        """
        file = self._file(name)
        save_tensors(tensors, file)
        size = sum(tensor.nbytes for tensor in tensors.values())
        write_json(self._record_file(name), {"sha256": file_sha256(file), "tensor_bytes": size, **record})

    def record(self, name: str) -> dict[str, Any]:
        """What was recorded with a part."""
        record: dict[str, Any] = read_json(self._record_file(name))
        return record

    def tensors(self, name: str) -> dict[str, Tensor]:
        """A part's tensors."""
        with load_errors(str(self._file(name))):
            tensors: dict[str, Tensor] = load_file(self._file(name))
            return tensors

    def merge(self, names: list[str], out: Path, max_shard_bytes: int = MAX_SHARD_BYTES) -> list[Path]:
        """Make a store's files in the folder ``out``.

        Neighbouring parts share a file as long as it keeps within ``max_shard_bytes``; none is cut in two.

        Returns:
            The files, under the names that transformers expects; the last one is the index if there are several.

        Raises:
            InputError: If a part has changed since it was written.
        """
        for name in names:
            if file_sha256(self._file(name)) != self.record(name)["sha256"]:
                raise InputError(f"{self._file(name)}: has changed since it was written; remove {self._folder}")
        shards: list[list[str]] = []
        size = 0
        for name in names:
            part_bytes = self._file(name).stat().st_size
            if not shards or size + part_bytes > max_shard_bytes:
                shards.append([])
                size = 0
            shards[-1].append(name)
            size += part_bytes
        files, weight_map, total_bytes = [], {}, 0
        for number, members in enumerate(shards, start=1):
            several = f"model-{number:05}-of-{len(shards):05}.safetensors"
            file = out / (several if len(shards) > 1 else "model.safetensors")
            self._write_shard(members, file)
            files.append(file)
            with safe_open(file, framework="pt") as tensors:
                weight_map.update(dict.fromkeys(tensors.keys(), file.name))
            total_bytes += sum(self.record(name)["tensor_bytes"] for name in members)
        if len(files) > 1:
            index_file = out / "model.safetensors.index.json"
            write_json(index_file, {"metadata": {"total_size": total_bytes}, "weight_map": weight_map})
            files.append(index_file)
        return files

    def _write_shard(self, members: list[str], file: Path) -> None:
        if len(members) == 1:
            # The part may be large: give it a second name rather than a copy, where the file system can.
            try:
                os.link(self._file(members[0]), file)
            except OSError:
                shutil.copyfile(self._file(members[0]), file)
        else:
            save_tensors({key: tensor for name in members for key, tensor in self.tensors(name).items()}, file)

    def _file(self, name: str) -> Path:
        return self._folder / f"part-{name}.safetensors"

    def _record_file(self, name: str) -> Path:
        return self._folder / f"part-{name}.json"
