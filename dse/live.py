"""Quality measured on demand: the study names a command, a design needs a schedule, the command measures it once.

The command runs as it is written, without a shell, in a folder of the exploration; dse itself imports no model. What
it leaves is checked and kept there, so that a run that was killed goes on without measuring again. A lock that the
command inherits tells whether it still works: a run that was killed and started again waits for the command that the
first one left behind instead of starting a second.

A command that fails, hangs or leaves something else makes an error of one line, which the record keeps as the outcome
of the design that needed it. It is kept beside what was measured too, so that no worker and no later run meets it again
(a command may fail after an hour) until one is told to try again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from dse.quality_files import QUANTISED_FIELDS, SHARED_FIELDS, check_split, is_full_precision, label_of
from dse.study import LiveQuality, Workload
from hwsim.trace import (
    InputError,
    Quality,
    Schedule,
    canonical_sha256,
    read_json,
    read_quality,
    unknown_name,
    write_json,
    write_quality,
    write_schedule,
)

FOLDER = "live_quality"
"""Below the exploration's folder."""

QUALITY_NAME = "quality.json"
"""What the command leaves in ``{out}``."""

MEASURED_NAME, FAILED_NAME, BASIS_NAME, LOCK_NAME = "measured.json", "failed.json", "basis.json", "lock"
OUTPUT_NAME, ERROR_NAME = "stdout.txt", "stderr.txt"

POLL_S = 0.05
"""Between looks at a lock that another process holds."""

MAX_ERROR_CHARACTERS = 200
"""Of the last line on standard error."""


class NotMeasuredError(InputError):
    """Nobody knows a schedule's quality, since the command that is to measure it failed."""


def forget_failures(folder: Path) -> None:
    """Let the commands that failed in an exploration's folder be tried again."""
    for path in (folder / FOLDER).glob(f"*/*/{FAILED_NAME}"):
        path.unlink(missing_ok=True)


def folder_name(label: str) -> str:
    """A schedule's label with the characters replaced that file systems mind.

    >>> folder_name("p4:4>3@40")
    'p4_4-3at40'
    """
    return label.replace(":", "_").replace(">", "-").replace("@", "at")


class LiveMeasurements:
    """Runs the study's command for schedules of one workload, and keeps what it measures.

    Args:
        live: The command.
        load: The workload.
        model: Name of its model.
        metric: Which metric counts; None where the command measures only one.
        folder: Of the exploration.
        index: Number of the workload.
        known: Records of the study's quality files for this workload, which new ones must agree with.

    Raises:
        InputError: If the program is not there.
    """

    def __init__(
        self,
        live: LiveQuality,
        load: Workload,
        model: str,
        metric: str | None,
        folder: Path,
        index: int,
        known: Sequence[Quality] = (),
    ) -> None:
        if shutil.which(live.command[0]) is None:
            raise InputError(
                f"live_quality.command: there is no program '{live.command[0]}'; install it or give its path"
            )
        self._live = live
        self._load = load
        self._model = model
        self._metric = metric
        # Another command measures another thing.
        self._folder = folder.resolve() / FOLDER / f"{canonical_sha256(live.command)[:8]}-{index}"
        self._known = list(known)

    def record(self, schedule: Schedule) -> Quality:
        """Quality of a schedule: as kept, or measured now.

        Raises:
            NotMeasuredError: If the command fails, takes too long, or leaves no record that belongs to the study; also
                if it did so before, for any process of the exploration.
        """
        try:
            return self._record(schedule)
        except InputError as error:
            raise NotMeasuredError(str(error)) from None

    def _record(self, schedule: Schedule) -> Quality:
        folder = self._folder / folder_name(schedule.label())
        measured, failed = folder / MEASURED_NAME, folder / FAILED_NAME
        if not measured.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder / LOCK_NAME, self._live.timeout_s) as lock:
                # Another process may have been faster.
                if failed.exists():
                    raise InputError(read_json(failed)["error"])
                if not measured.exists():
                    try:
                        record = self._left_behind(folder, schedule) or self._measure(folder, schedule, lock)
                    except InputError as error:
                        write_json(failed, {"error": str(error)})
                        raise
                    write_quality(measured, [record])
        (record,) = read_quality(measured)
        return record

    def _left_behind(self, folder: Path, schedule: Schedule) -> Quality | None:
        """What a command left that ended after the run which had started it was killed."""
        path = folder / QUALITY_NAME
        with suppress(InputError):
            if path.exists():
                return self._checked(path, schedule)
        return None

    def _measure(self, folder: Path, schedule: Schedule, lock: int) -> Quality:
        path = folder / QUALITY_NAME
        try:
            self._run(schedule, folder, lock)
            return self._checked(path, schedule)
        except InputError:
            if path.exists():  # what was refused must not be taken for what a killed run left
                path.replace(folder / f"refused-{QUALITY_NAME}")
            raise

    def _checked(self, path: Path, schedule: Schedule) -> Quality:
        record = self._choose(path, schedule)
        self._check(record)
        return record

    def _run(self, schedule: Schedule, folder: Path, lock: int) -> None:
        where = f"live_quality: schedule {schedule.label()}"
        write_schedule(folder / "schedule.json", schedule)
        places = {
            "schedule": schedule.label(),
            "schedule_file": str(folder / "schedule.json"),
            "out": str(folder),
            "model": self._model,
            "task": self._load.task or "",
        }
        command = [_filled(part, places) for part in self._live.command]
        with (folder / OUTPUT_NAME).open("wb") as output, (folder / ERROR_NAME).open("wb") as errors:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=errors,
                    start_new_session=True,
                    pass_fds=(lock,),
                )
            except OSError as error:
                raise InputError(f"{where}: '{command[0]}' cannot be started ({error.strerror})") from None
            try:
                code = process.wait(self._live.timeout_s)
            except subprocess.TimeoutExpired:
                raise InputError(
                    f"{where}: the command took longer than timeout_s = {self._live.timeout_s:g} and was stopped"
                    f"{_last_line(folder / ERROR_NAME)}"
                ) from None
            finally:
                _stop(process)
        if code != 0:
            raise InputError(f"{where}: the command ended with code {code}{_last_line(folder / ERROR_NAME)}")

    def _choose(self, path: Path, schedule: Schedule) -> Quality:
        """The record of the schedule, out of what the command left."""
        records = [record for record in read_quality(path) if label_of(record) == schedule.label()]
        if not records:
            raise InputError(f"{path}: holds no record of schedule {schedule.label()}; the command must measure it")
        metrics = sorted({record.metric for record in records})
        if self._metric is None and len(metrics) > 1:
            raise InputError(f"{path}: holds several metrics, {', '.join(metrics)}; choose one by quality_metric")
        wanted = self._metric or metrics[0]
        found = [record for record in records if record.metric == wanted]
        if not found:
            raise unknown_name(f"metric in {path}", wanted, metrics)
        return found[0]

    def _check(self, record: Quality) -> None:
        """Refuse a record of another model, task, store or set of prompts than the rest."""
        place = f"live_quality: schedule {record.scheduler_label}"
        if record.model_name != self._model:
            # Nor with allow_model_mismatch: rows say beforehand that the workload's own model is measured.
            raise InputError(
                f"{place}: model_name = '{record.model_name}': the workload runs '{self._model}'; mend the command, or "
                "name the workload's model as its records do"
            )
        if self._load.task is not None and record.task != self._load.task:
            raise InputError(
                f"{place}: task = '{record.task}': the workload's is '{self._load.task}'; mend the command"
            )
        check_split(place, record)
        _check_agreement(place, record, self._known)
        _check_agreement(place, record, self._basis(record))

    def _basis(self, record: Quality) -> Sequence[Quality]:
        """What the command left first, at full precision and quantised, whichever process ran it."""
        paths = {kind: self._folder / f"{kind}-{BASIS_NAME}" for kind in ("full", "quantised")}
        mine = paths["full" if is_full_precision(record) else "quantised"]
        with _locked(self._folder / LOCK_NAME, self._live.timeout_s):
            if not mine.exists():
                others = [one for path in paths.values() if path.exists() for one in read_quality(path)]
                _check_agreement(f"live_quality: schedule {record.scheduler_label}", record, others)
                write_quality(mine, [record])
        return [one for path in paths.values() if path.exists() for one in read_quality(path)]


def _check_agreement(place: str, record: Quality, others: Sequence[Quality]) -> None:
    for other in others:
        both_quantised = not is_full_precision(record) and not is_full_precision(other)
        for field in ("task", "metric", *SHARED_FIELDS, *(QUANTISED_FIELDS if both_quantised else ())):
            mine, theirs = getattr(record, field), getattr(other, field)
            if mine != theirs:
                raise InputError(
                    f"{place}: {field} = '{mine}', but '{theirs}' for {other.scheduler_label}: one table holds one "
                    f"{field}; mend the command, or start in another folder"
                )


def _filled(part: str, places: dict[str, str]) -> str:
    for name, value in places.items():
        part = part.replace(f"{{{name}}}", value)
    return part


@contextmanager
def _locked(path: Path, timeout_s: float) -> Iterator[int]:
    """Hold a lock file; what inherits the descriptor goes on holding it after this process has died.

    Raises:
        InputError: If another process holds it for longer than ``timeout_s``.
    """
    with path.open("ab") as file:
        deadline = time.monotonic() + timeout_s
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > deadline:
                raise InputError(
                    f"{path}: another process has been measuring here for more than timeout_s = {timeout_s:g}; end it"
                )
            time.sleep(POLL_S)
        yield file.fileno()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a command and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(path: Path) -> str:
    """The last line on standard error that says something, as the end of a message."""
    text = path.read_bytes()[-10_000:].decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f": {lines[-1][:MAX_ERROR_CHARACTERS]}" if lines else ", without a word on standard error"
