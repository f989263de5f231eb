"""The record of an exploration: an append-only JSON Lines file that survives a kill at any byte.

An own log rather than Optuna's JournalStorage, because a trial costs it one line (4-9 ms in a journal), it
holds designs in their own terms (values and schedules, not a sampler's indices), it can be read without
Optuna, and its header can refuse a log of another study. Lines are::

    {"record": "header", "schema_version": "1.0", "meaning": {...}, "sampler": ..., "study": {...}, ...}
    {"record": "batch", "first": 0, "suggestions": 1, "duplicates": 0, "designs": [...], "generations": [...]}
    {"record": "trial", "number": 0, "metrics": {...}, "error": null}
    {"record": "certificate", "designs": 336, "simulated": 41, "pruned": {...}, ...}

A batch line is written before its designs are evaluated and a trial line as soon as one is, so a resumed
run finishes exactly the designs that were chosen. Every line is handed to the system at once, which
survives SIGKILL, and is synced to the disk at least each second. A half line at the end is cut off.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hwsim.trace import InputError

LOG_NAME = "trials.jsonl"
SYNC_INTERVAL_S = 1.0
_HEADER_START = b'{"record":"header",'


@dataclass(frozen=True)
class Batch:
    """Designs chosen together.

    Attributes:
        first: Number of the first trial.
        suggestions: Suggestions asked for until now, duplicates included.
        duplicates: Suggestions until now that repeated an earlier design.
        designs: Canonical designs.
        generations: NSGA-II's generation of each; null with other samplers.
    """

    first: int
    suggestions: int
    duplicates: int
    designs: Sequence[Mapping[str, Any]]
    generations: Sequence[int | None]


@dataclass(frozen=True)
class Outcome:
    """What came of one design: its metrics, or the reason why the NPU cannot run it."""

    number: int
    metrics: Mapping[str, float]
    error: str | None = None


@dataclass
class Record:
    """Everything a log holds."""

    header: Mapping[str, Any]
    batches: list[Batch] = field(default_factory=list)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    certificate: Mapping[str, Any] | None = None
    repaired_bytes: int = 0


def _add(record: Record, line: Mapping[str, Any]) -> None:
    kind = line["record"]
    values = {key: value for key, value in line.items() if key != "record"}
    if kind == "batch":
        record.batches.append(Batch(**values))
    elif kind == "trial":
        outcome = Outcome(**values)
        record.outcomes[outcome.number] = outcome
    elif kind == "certificate":
        record.certificate = values
    else:
        raise KeyError(kind)


def _parse(content: bytes, path: Path) -> Record:
    whole, _, rest = content.rpartition(b"\n")
    record: Record | None = None
    for number, text in enumerate(whole.split(b"\n") if whole else [], start=1):
        try:
            line = json.loads(text)
            if record is None:
                if line["record"] != "header":
                    raise KeyError(line["record"])
                if line["schema_version"] != "1.0":
                    raise InputError(f"{path}:1: schema_version = '{line['schema_version']}': must be 1.0")
                record = Record(line, repaired_bytes=len(rest))
            else:
                _add(record, line)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{path}:{number}: not a line of a trial log: it is damaged; restore it, or choose another folder"
            ) from None
    if record is None:
        raise InputError(f"{path}:1: holds no header: it is not a trial log, or was cut in its first line")
    return record


def read_log(path: Path) -> Record:
    """Read a log; a half line at the end, left by a kill, is passed over and counted.

    Raises:
        InputError: If the file is missing, not a log, of another version, or damaged before its end.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the study first") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return _parse(content, path)


class LogWriter:
    """Appends to a log, new or from an earlier run; holds a lock so that two runs cannot write the same one.

    Args:
        path: The log; created with its folder if missing. A half line at its end is cut off.

    Attributes:
        record: What an earlier run left; None for a new log.

    Raises:
        InputError: If another process is writing it, or it is not a sound log (it is then left as it is).
        OSError: As the file system says.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.record: Record | None = None
        # Unbuffered: a line is with the system once written, and no later close can write a half one again.
        self._file = path.open("a+b", buffering=0)
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                message = f"{path}: another run is writing it; wait for it, or choose another folder"
                raise InputError(message) from None
            self._file.seek(0)
            content = self._file.read()
            if not _HEADER_START.startswith(content[: len(_HEADER_START)]) or b"\n" in content:
                self.record = _parse(content, path)
            self._file.truncate(content.rfind(b"\n") + 1)
        except BaseException:
            self._file.close()
            raise
        self._synced_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def _append(self, kind: str, values: Mapping[str, Any]) -> None:
        text = json.dumps({"record": kind, **values}, allow_nan=False, separators=(",", ":"))
        rest = memoryview(text.encode() + b"\n")
        while rest:
            rest = rest[self._file.write(rest) :]
        if time.monotonic() - self._synced_s >= SYNC_INTERVAL_S:
            os.fsync(self._file.fileno())
            self._synced_s = time.monotonic()

    def clear(self) -> None:
        """Begin anew; for a record that holds no trial yet."""
        self._file.truncate(0)
        self.record = None

    def header(self, **values: Any) -> Record:
        """Write the first line."""
        header = {"schema_version": "1.0", **values}
        self._append("header", header)
        return Record(header)

    def batch(self, batch: Batch) -> None:
        """Record what is going to be evaluated."""
        self._append("batch", vars(batch))

    def outcome(self, outcome: Outcome) -> None:
        """Record what came of one design."""
        self._append("trial", vars(outcome))

    def certificate(self, values: Mapping[str, Any]) -> None:
        """Record what an enumeration has shown; the last one counts."""
        self._append("certificate", values)
