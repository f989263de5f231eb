"""The record of an exploration: an append-only JSON Lines file that survives a kill at any byte.

An own log rather than Optuna's JournalStorage, because a trial costs it one line (4-9 ms in a journal), it
holds designs in their own terms (values and schedules, not a sampler's indices), it can be read without
Optuna, and its header can refuse a log of another study. Lines are::

    {"record": "header", "schema_version": "1.1", "meaning": {...}, "sampler": ..., "study": {...}, ...}
    {"record": "batch", "first": 0, "suggestions": 1, "duplicates": 0, "designs": [...], "generations": [...]}
    {"record": "trial", "number": 0, "metrics": {...}, "error": null}
    {"record": "continued", "first": 40, "provenance": {...}, "again": [0, 20, 39]}
    {"record": "settled", "rows": [0, 1, 2], "samples": 8, "metrics": {"ttft_s": [0.1, 0.2, null], ...}}
    {"record": "unsettled"}
    {"record": "certificate", "designs": 336, "simulated": 41, "pruned": {...}, ...}

A batch line is written before its designs are evaluated and a trial line as soon as one is (in any order, since workers
finish in any order), so a resumed run finishes exactly the designs that were chosen. A trial whose result was taken
over from elsewhere has a ``source``. Where an outcome is ``unknown``, a later line of the same trial counts. What the
header says of each schedule stands once for all of which it says the same: there may be 50,000 of them. Every line is
handed to the system at once, which survives SIGKILL, and synced to the disk each second by a thread of its own, which
survives a power failure. What is damaged at the end, a half line or zeros, is cut off and kept beside the log; damage
with sound lines after it is refused.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hwsim.trace import InputError

LOG_NAME = "trials.jsonl"
CUT_SUFFIX = ".cut"
SYNC_INTERVAL_S = 1.0
_HEADER_START = b'{"record":"header",'
SCHEMA_VERSION = "1.2"
"""Since 1.1 the header groups schedules, and a log may say that another version went on with it; since 1.2 it may hold
parts of a settling."""

READABLE_VERSIONS = ("1.0", "1.1", SCHEMA_VERSION)
BY_SCHEDULE = ("excluded_schedules", "quality_labels")
"""Of the header: mappings from a schedule's label."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Designs chosen together.

    Attributes:
        first: Number of the first trial.
        suggestions: Suggestions asked for until now, duplicates included.
        duplicates: Suggestions until now that repeated an earlier design.
        designs: Canonical designs.
        generations: Generation of each with a genetic sampler; null with others.
        levels: Evaluations below a full simulation that chose them, by level; null where there were none.
    """

    first: int
    suggestions: int
    duplicates: int
    designs: Sequence[Mapping[str, Any]]
    generations: Sequence[int | None]
    levels: Mapping[str, int] | None = None

    def line(self) -> dict[str, Any]:
        """As the log holds it."""
        return {
            "record": "batch",
            "first": self.first,
            "suggestions": self.suggestions,
            "duplicates": self.duplicates,
            "designs": self.designs,
            "generations": self.generations,
            **({} if self.levels is None else {"levels": self.levels}),
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one design.

    Attributes:
        number: Of the trial.
        metrics: By name; empty where there is an error.
        error: Why the NPU cannot run the design.
        source: Whose result was taken over; null where it was simulated in this exploration.
        unknown: The error says nothing of the design: its worker was ended, or its quality could not be measured.
    """

    number: int
    metrics: Mapping[str, float]
    error: str | None = None
    source: str | None = None
    unknown: bool = False

    def line(self) -> dict[str, Any]:
        """As the log holds it."""
        line: dict[str, Any] = {"record": "trial", "number": self.number, "metrics": self.metrics, "error": self.error}
        line |= {} if self.source is None else {"source": self.source}
        return line | ({"unknown": True} if self.unknown else {})


@dataclass(frozen=True, slots=True)
class Settlement:
    """What settling found of some designs (see :mod:`dse.settled`).

    Attributes:
        rows: Their places in the enumeration.
        samples: Steps of each width that bound them; null where all were run.
        metrics: By name, of each; null where the NPU cannot run it.
    """

    rows: Sequence[int]
    samples: int | None
    metrics: Mapping[str, Sequence[float | None]]

    def line(self) -> dict[str, Any]:
        """As the log holds it."""
        return {"record": "settled", "rows": self.rows, "samples": self.samples, "metrics": self.metrics}


@dataclass
class Record:
    """Everything a log holds.

    Attributes:
        header: The first line.
        batches: In their order.
        outcomes: By trial number, in the order of completion.
        continued: Where runs of another version went on: ``first`` is the number of designs chosen until then,
            ``again`` the trials that gave the same once more, ``finished`` how many trials were known.
        settled: Parts of a settling, in their order; a later run of another simulator may have taken them back.
        certificate: The last one.
        repaired_bytes: Damaged bytes at the end that are not part of this.
    """

    header: Mapping[str, Any]
    batches: list[Batch] = field(default_factory=list)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    continued: list[Mapping[str, Any]] = field(default_factory=list)
    settled: list[Settlement] = field(default_factory=list)
    certificate: Mapping[str, Any] | None = None
    repaired_bytes: int = 0

    def designs(self) -> int:
        """Number of designs chosen so far."""
        return self.batches[-1].first + len(self.batches[-1].designs) if self.batches else 0

    def designs_by_number(self) -> dict[int, Mapping[str, Any]]:
        """The canonical design of every trial."""
        return {number: design for batch in self.batches for number, design in enumerate(batch.designs, batch.first)}

    def known(self) -> int:
        """Number of trials whose outcome says something of the design."""
        return sum(not outcome.unknown for outcome in self.outcomes.values())

    def versions(self) -> list[tuple[str, int, int]]:
        """Versions that finished trials, in their order: which, how many, and earlier trials simulated again before."""
        runs = [(self.header.get("provenance", {}), 0, 0)]
        runs += [(one["provenance"], one["finished"], len(one["again"])) for one in self.continued]
        ends = [*(finished for _, finished, _ in runs[1:]), self.known()]
        found = [
            (version_of(provenance), end - begin, again)
            for (provenance, begin, again), end in zip(runs, ends, strict=True)
        ]
        return [one for one in found if one[1] > 0]

    @property
    def last_provenance(self) -> Mapping[str, str]:
        """Of the version that wrote the last part."""
        found: Mapping[str, str] = (self.continued[-1] if self.continued else self.header).get("provenance", {})
        return found


def version_of(provenance: Mapping[str, str]) -> str:
    """Which simulator a run had.

    >>> version_of({"bittaper": "0.3.0", "commit": "1a2b3c", "python": "3.11"})
    'bittaper 0.3.0 (commit 1a2b3c)'
    """
    return f"bittaper {provenance.get('bittaper', 'unknown')} (commit {provenance.get('commit', 'unknown')})"


def _grouped(by_label: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Schedules of which the same is said, together.

    >>> _grouped({"p4:4": "a", "p3:3": "b", "p2:2": "a"})
    [{'value': 'a', 'schedules': ['p4:4', 'p2:2']}, {'value': 'b', 'schedules': ['p3:3']}]
    """
    groups: dict[str, dict[str, Any]] = {}
    for label, value in by_label.items():
        key = json.dumps(value)
        groups.setdefault(key, {"value": value, "schedules": []})["schedules"].append(label)
    return list(groups.values())


def _spread(header: Mapping[str, Any]) -> dict[str, Any]:
    """A header as it is used: by schedule again, and ready for a log of an earlier version."""
    spread = {
        name: {label: group["value"] for group in header[name] for label in group["schedules"]}
        for name in BY_SCHEDULE
        if isinstance(header.get(name), list)
    }
    return {**header, **spread}


def _interned(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with names shared between trials: half of the memory of a long log."""
    return {sys.intern(key): value for key, value in values.items()}


def _add(record: Record, line: Mapping[str, Any]) -> None:
    """Add a parsed line; KeyError, TypeError or ValueError where it does not follow from those before it."""
    kind = line["record"]
    values = {key: value for key, value in line.items() if key != "record"}
    if kind == "batch":
        batch = Batch(**values)
        if batch.first != record.designs() or len(batch.designs) != len(batch.generations):
            raise ValueError(f"the batch starts at trial {batch.first}, not {record.designs()}")
        record.batches.append(Batch(**{**values, "designs": [_interned(design) for design in batch.designs]}))
    elif kind == "trial":
        outcome = Outcome(**{**values, "metrics": _interned(values["metrics"])})
        if outcome.number in record.outcomes and not record.outcomes[outcome.number].unknown:
            raise ValueError(f"trial {outcome.number} is there twice")
        if not 0 <= outcome.number < record.designs():
            raise ValueError(f"trial {outcome.number} is in no batch")
        record.outcomes[outcome.number] = outcome
    elif kind == "continued":
        kept = {name: values[name] for name in ("first", "provenance", "again")}
        record.continued.append({**kept, "finished": record.known()})
    elif kind == "settled":
        part = Settlement(**values)
        if any(len(column) != len(part.rows) for column in part.metrics.values()):
            raise ValueError("a settled part has columns of other lengths")
        record.settled.append(part)
    elif kind == "unsettled":
        record.settled.clear()
    elif kind == "certificate":
        record.certificate = values
    else:
        raise KeyError(kind)


def _object(text: bytes) -> dict[str, Any] | None:
    """A line's JSON object; None where it is damaged."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


@dataclass
class _Scan:
    """What reading a log from its start found: the record, and where its sound lines end."""

    record: Record | None = None
    sound_bytes: int = 0
    sound_lines: int = 0
    ended: bool = True
    """Whether the last sound line has its newline."""


def _scan(lines: Iterable[bytes], path: Path) -> _Scan:
    found = _Scan()
    rest = iter(lines)
    for text in rest:
        where = f"{path}:{found.sound_lines + 1}"
        line = _object(text)
        if line is None:
            if any(_object(later) for later in rest):
                raise InputError(
                    f"{where}: not a line of a trial log, and sound lines follow: it is damaged; restore it, or choose "
                    f"another folder"
                )
            break
        try:
            if found.record is not None:
                _add(found.record, line)
            elif line["record"] != "header":
                raise KeyError(line["record"])
            elif line["schema_version"] not in READABLE_VERSIONS:
                known = " or ".join(READABLE_VERSIONS)
                raise InputError(f"{where}: schema_version = '{line['schema_version']}': must be {known}")
            else:
                found.record = Record(_spread(line))
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            why = f" ({error})" if type(error) is ValueError else ""
            raise InputError(
                f"{where}: not a line of a trial log{why}: it is damaged; restore it, or choose another folder"
            ) from None
        found.sound_bytes += len(text)
        found.sound_lines += 1
        found.ended = text.endswith(b"\n")
    return found


def read_log(path: Path) -> Record:
    """Read a log, also while it is written; what is damaged at its end is passed over and counted.

    Raises:
        InputError: If the file is missing, not a log, of another version, or damaged before its end.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size  # before: what a run adds meanwhile is not damage
            found = _scan(file, path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the study first") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if found.record is None:
        raise InputError(f"{path}:1: holds no header: it is not a trial log, or was cut in its first line")
    found.record.repaired_bytes = max(0, size - found.sound_bytes)
    return found.record


class LogWriter:
    """Appends to a log, new or from an earlier run; holds a lock so that two runs cannot write the same one.

    Args:
        path: The log; created with its folder if missing. What is damaged at its end is cut off and added to
            ``path`` + ``.cut``.

    Attributes:
        path: The log.
        record: What an earlier run left; None for a new log.

    Raises:
        InputError: If another process is writing it, it is not a sound log (it is then left as it is), or a line cannot
            be written, as on a full disk.
        OSError: As the file system says of opening it.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        # Unbuffered: a line is with the system once written, and no later close can write a half one again.
        self._file = path.open("a+b", buffering=0)
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                message = f"{path}: another run is writing it; wait for it, or choose another folder"
                raise InputError(message) from None
            self.record = self._open(path)
            _sync_folder(path.parent)
        except BaseException:
            self._file.close()
            raise
        self._unsynced = threading.Event()
        self._closing = threading.Event()
        self._sync_error: OSError | None = None
        self._syncer = threading.Thread(target=self._sync_each_second, name="log-sync", daemon=True)
        self._syncer.start()

    def _open(self, path: Path) -> Record | None:
        """Read what is there and mend its end."""
        with path.open("rb") as file:
            found = _scan(file, path)
            file.seek(found.sound_bytes)
            damaged = file.read()
        if found.record is None and not _may_be_cut_header(damaged):
            raise InputError(
                f"{path}:1: holds no header: it is not a trial log; move it away, or choose another folder"
            )
        if damaged:
            _keep(damaged, Path(f"{path}{CUT_SUFFIX}"), found)
            self._file.truncate(found.sound_bytes)
        if not found.ended:
            self._write(b"\n")
        if found.record is not None:
            found.record.repaired_bytes = len(damaged)
        return found.record

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._syncer.join()
        try:
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def _sync_each_second(self) -> None:
        """Whatever the evaluations do meanwhile."""
        while not self._closing.wait(SYNC_INTERVAL_S):
            if self._unsynced.is_set():
                self._unsynced.clear()
                try:
                    os.fsync(self._file.fileno())
                except OSError as error:
                    self._sync_error = error
                    return

    def _write(self, content: bytes) -> None:
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror}); the trials in it are kept: mend that, and the "
                "same command goes on from there"
            ) from None

    def _append(self, line: Mapping[str, Any]) -> None:
        if self._sync_error is not None:
            raise self._sync_error
        self._write(json.dumps(line, allow_nan=False, separators=(",", ":")).encode() + b"\n")
        self._unsynced.set()

    def clear(self) -> None:
        """Begin anew; for a record that holds no trial yet."""
        self._file.truncate(0)
        self.record = None

    def header(self, **values: Any) -> Record:
        """Write the first line."""
        header = {"schema_version": SCHEMA_VERSION, **values}
        groups = {name: _grouped(values[name]) for name in BY_SCHEDULE if name in values}
        self._append({"record": "header", **header, **groups})
        return Record(header)

    def continued(self, record: Record, provenance: Mapping[str, str], again: Sequence[int]) -> None:
        """Record that another version goes on from here."""
        line = {"first": record.designs(), "provenance": dict(provenance), "again": list(again)}
        self._append({"record": "continued", **line})
        record.continued.append({**line, "finished": record.known()})

    def batch(self, batch: Batch) -> None:
        """Record what is going to be evaluated."""
        self._append(batch.line())

    def outcome(self, outcome: Outcome) -> None:
        """Record what came of one design."""
        self._append(outcome.line())

    def settled(self, part: Settlement) -> None:
        """Record what settling found of some designs."""
        self._append(part.line())

    def unsettled(self) -> None:
        """Take back every part of a settling so far."""
        self._append({"record": "unsettled"})

    def certificate(self, values: Mapping[str, Any]) -> None:
        """Record what an enumeration has shown; the last one counts."""
        self._append({"record": "certificate", **values})


def _may_be_cut_header(content: bytes) -> bool:
    """Whether a kill or a power failure may have left this where the header was being written."""
    begun = content.rstrip(b"\0")
    return b"\n" not in begun and _HEADER_START.startswith(begun[: len(_HEADER_START)])


def _keep(damaged: bytes, path: Path, found: _Scan) -> None:
    """Add what is cut off to the file beside the log; Latin-1 stands for any bytes."""
    line = {"after_line": found.sound_lines, "at_byte": found.sound_bytes, "latin1": damaged.decode("latin-1")}
    with path.open("a", encoding="ascii") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """A new file's name is on the disk only once its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
