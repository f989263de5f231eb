"""Write a store: tensors into files of a bounded size, and the whole folder at once or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from hwsim.trace import InputError, write_json

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
        with write_errors(self._folder):
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
        # Another process may have finished or removed it since.
        with suppress(FileNotFoundError), (stale / ".lock").open("w") as lock:
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


@contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """Turn what safetensors and torch raise when a file cannot be written (not an OSError) into one line."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{folder.parent}: weights cannot be written ({reason}); free space there or give another folder"
        ) from None


def copy_companions(source: Path, folder: Path) -> None:
    """Copy tokenizer and generation settings beside the weights."""
    for pattern in COMPANIONS:
        for file in source.glob(pattern):
            shutil.copyfile(file, folder / file.name)
