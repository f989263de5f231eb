"""Responses kept by content hash: the checkpoint of an evaluation and its cache of exact repeats.

One JSON line per response, appended batch by batch. A line cut by a kill or a full disk is dropped when the file is
opened again; what came before it is kept.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Self

from accuracy.decoding import Response
from hwsim.trace import InputError, run_length


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn what the file system says inside the block into one line."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{place}: cannot be written ({error.strerror}); finished batches are kept") from None


def open_exclusively(path: Path) -> IO[bytes]:
    """Open a file to read and append, for one process at a time.

    Raises:
        InputError: If it cannot be opened, or another process has it open.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror})") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise InputError(f"{path}: another process is using it; wait, or choose another folder") from None
    return file


class ResponseStore:
    """A file of responses, open for one process; use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._responses: dict[str, Response] = {}
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        """Open the file and read what is whole.

        Raises:
            InputError: If it cannot be opened, another process has it open, or it holds something else.
        """
        file = open_exclusively(self.path)
        try:
            file.seek(0)
            whole = 0
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                self._read(line, number)
                whole += len(line)
            file.truncate(whole)
        except BaseException:
            file.close()
            raise
        self._file = file
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __contains__(self, key: str) -> bool:
        return key in self._responses

    def __getitem__(self, key: str) -> Response:
        return self._responses[key]

    def __len__(self) -> int:
        return len(self._responses)

    def add(self, responses: Mapping[str, Response]) -> None:
        """Append responses; either all of them are on disk afterwards or none.

        Raises:
            InputError: If the disk does not take them.
        """
        assert self._file is not None, "the store is not open"
        text = "".join(_line(key, response) for key, response in responses.items()).encode()
        size = self._file.seek(0, os.SEEK_END)
        try:
            self._file.write(text)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            # Unwritten bytes wait in the buffer and would come out at close; the file is not used again.
            self._file.close()
            os.truncate(self.path, size)
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror}); {len(self)} responses are kept, "
                "make room and run the same command again"
            ) from None
        self._responses.update(responses)

    def _read(self, line: bytes, number: int) -> None:
        try:
            value = json.loads(line)
            key = value.pop("key")
            bits = tuple(width for width, count in value.pop("decode_weight_bits") for _ in range(count))
            tokens, step_ns = tuple(value.pop("tokens")), value.pop("step_ns")
            self._responses[key] = Response(
                tokens=tokens,
                decode_weight_bits=bits,
                step_ns=None if step_ns is None else tuple(step_ns),
                **value,
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{self.path}:{number}: is no response; remove the file and run again") from None


def _line(key: str, response: Response) -> str:
    record = {"key": key, **asdict(response), "decode_weight_bits": run_length(response.decode_weight_bits)}
    return json.dumps(record, ensure_ascii=False) + "\n"
