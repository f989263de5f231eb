"""Write a folder whole or not at all, one writer at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from hwsim.trace import InputError

STORE_NAME = "store"
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


@contextmanager
def partial_folder(out: Path) -> Iterator[Path]:
    """Give ``OUT.partial`` to work in; its folder ``store`` becomes ``out`` if the block ends without an error.

    What lies in it stays when the block fails or the process is killed, for the next call to go on with. An empty
    one is removed.

    Raises:
        InputError: If ``out`` exists already and is not an empty folder, or another process is writing it.
    """
    with _alone(out):
        folder = out.with_name(f"{out.name}.partial")
        folder.mkdir(exist_ok=True)
        try:
            yield folder
        except BaseException:
            with suppress(OSError):
                folder.rmdir()
            raise
        (folder / STORE_NAME).rename(out)
        shutil.rmtree(folder)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes ``out`` if the block ends without an error, and is removed if not.

    Raises:
        InputError: As :func:`partial_folder`.
    """
    with _alone(out):
        folder = out.with_name(f".{out.name}.new")
        # A killed process may have left one.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
            folder.rename(out)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the lock of ``out``, a file beside it that goes away with its owner's work."""
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_name(f".{out.name}.lock")
    with _lock(path, out):
        try:
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise InputError(f"{out}: exists already; remove it or give another folder")
            yield
        finally:
            path.unlink()


def _lock(path: Path, out: Path) -> IO[str]:
    """Open and lock a file."""
    while True:
        file = path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise InputError(f"{out}: another process is writing it; wait for it or give another folder") from None
        # Between opening and locking, the owner before may have removed the file, and another have made a new one.
        with suppress(FileNotFoundError):
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                return file
        file.close()


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


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write a safetensors file that is complete, and on the disk, once it has its name.

    Raises:
        InputError: If it cannot be written.
    """
    temporary = file.with_name(f".{file.name}.tmp")
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with write_errors(file.parent):
        save_file(contiguous, temporary, metadata={"format": "pt"})
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.rename(file)


def copy_companions(source: Path, folder: Path) -> None:
    """Copy tokenizer and generation settings beside the weights."""
    for pattern in COMPANIONS:
        for file in source.glob(pattern):
            shutil.copyfile(file, folder / file.name)
