"""A team's shared Optuna study: known designs are taken from it, new ones are given to it.

The log stays the truth; the shared study is a copy that others read. What is checked and what is trusted:

- The shared study carries a hash of what was explored (everything that decides a design's metrics, objectives or
  limits: models, traces, NPU, quality files, parameters, mode, engine; not the sampler, its seed or the budget, in
  which members of a team differ). Another hash, or a study that bittaper did not make, is refused.
- A trial is taken over only if it holds a design in bittaper's terms. The design must lie in the space and its
  metrics must be finite and complete; otherwise the run is refused and names the trial.
- The numbers themselves are trusted: they are what another member's simulator gave for the same meaning.

Trials taken over are recorded in the log with their source when a run starts, so a resumed run does not
depend on what the shared study holds by then. They cost no budget. New trials are handed over in bulk by a
thread; the log never waits for it. If the connection is lost, the run goes on, a note says so, and the same command or
:func:`sync` hands over what is missing later.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from dse.evaluation import judge
from dse.export import DESIGN_ATTRIBUTE, ERROR_ATTRIBUTE, METRICS_ATTRIBUTE, OptunaForm, labels_of, quiet_optuna
from dse.log import LOG_NAME, Batch, Outcome, Record, read_log
from dse.study import StudyConfig
from hwsim.trace import BittaperError, InputError, canonical_sha256

if TYPE_CHECKING:
    from dse.problem import Problem
    from dse.space import Design, Space

MEANING_ATTRIBUTE = "bittaper_meaning_sha256"

SEARCH_FIELDS = ("sampler", "seed", "batch_size", "reference_point")
"""Fields of the meaning that say how a space is searched, and not what a design is worth."""

HAND_OVER_S = 10.0
"""How long new trials wait, so that they are handed over in bulk."""

CONNECT_TIMEOUT_S = 10

CLOSING_S = 600.0
"""How long the end of a run waits for what is still to be handed over; a database takes some 0.1 s a trial."""


@dataclass(frozen=True)
class SharedStudy:
    """Where a team's trials are.

    Attributes:
        place: URL of a database (``postgresql://...``), or the path of an Optuna journal.
        name: Of the Optuna study in it; made where there is none.
    """

    place: str
    name: str

    def __str__(self) -> str:
        return f"Optuna study '{self.name}' in {self.shown()}"

    def shown(self) -> str:
        """The place without a password."""
        if "://" not in self.place:
            return self.place
        from sqlalchemy.engine import make_url  # noqa: PLC0415 - SQLAlchemy takes a while to import

        return make_url(self.place).render_as_string(hide_password=True)

    def open(self) -> optuna.storages.BaseStorage:
        """Connect.

        Raises:
            InputError: If nobody answers, the driver is missing, or the place is not a storage.
        """
        if "://" not in self.place:
            return self._open_journal()
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError  # noqa: PLC0415

        # SQLAlchemy would take psycopg's predecessor.
        url = self.place.replace("postgresql://", "postgresql+psycopg://", 1)
        options: dict[str, Any] = {"pool_pre_ping": True}
        if url.startswith("postgresql"):
            options["connect_args"] = {"connect_timeout": CONNECT_TIMEOUT_S}
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=options)
        except ImportError as error:  # Optuna's own, about the one of the driver
            missing = getattr(error.__cause__, "name", None) or "a driver for this database"
            raise InputError(
                f"--storage {self.shown()}: needs the package '{missing}' (PostgreSQL: pip install 'bittaper[cluster]')"
            ) from None
        except (ArgumentError, NoSuchModuleError):
            raise InputError(
                "--storage: not a URL; must be like postgresql://user@host/database, or a journal file"
            ) from None
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            raise InputError(f"--storage {self.shown()}: cannot be opened ({_why(error)})") from None

    def _open_journal(self) -> optuna.storages.BaseStorage:
        backend = optuna.storages.journal.JournalFileBackend(self.place)
        try:
            return optuna.storages.JournalStorage(backend)
        except (ValueError, KeyError, TypeError):
            raise InputError(f"--storage {self.place}: not an Optuna journal") from None


def _why(error: BaseException) -> str:
    cause = error.__cause__ or error
    return str(getattr(cause, "orig", cause)).strip().split("\n", maxsplit=1)[0] or type(cause).__name__


def shared_meaning(meaning: Mapping[str, Any]) -> str:
    """Hash of what two members of a team must agree on."""
    return canonical_sha256({key: value for key, value in meaning.items() if key not in SEARCH_FIELDS})


class Mirror:
    """Hands new trials over to a shared study, behind the run's back.

    Args:
        shared: Where.
        config: The study.
        meaning: Of the record.
        labels: Schedules that designs may have.

    Attributes:
        known: Trials of the shared study by canonical design hash, as they were when it was opened.

    Raises:
        InputError: If the shared study cannot be opened, or is about something else.
    """

    def __init__(
        self, shared: SharedStudy, config: StudyConfig, meaning: Mapping[str, Any], labels: Sequence[str]
    ) -> None:
        self.shared = shared
        self._form = OptunaForm(config, labels, flat=False)
        self._storage = shared.open()
        with quiet_optuna():
            self._study = _open_study(shared, self._storage, config, shared_meaning(meaning))
        self.known = {
            canonical_sha256(trial.user_attrs[DESIGN_ATTRIBUTE]): trial
            for trial in reversed(self._study.get_trials(deepcopy=False))
            if trial.state in {TrialState.COMPLETE, TrialState.FAIL} and DESIGN_ATTRIBUTE in trial.user_attrs
        }
        self.handed_over = 0
        self.error: BaseException | None = None
        self._waiting: list[FrozenTrial] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def add(self, design: Mapping[str, Any], outcome: Outcome) -> None:
        """Have a trial handed over soon, unless it is there or came from there, or says nothing of its design."""
        if outcome.source is None and not outcome.unknown and canonical_sha256(dict(design)) not in self.known:
            trial = self._form.trial(design, outcome)
            with self._lock:
                self._waiting.append(trial)

    def add_record(self, record: Record) -> None:
        """Have all trials of a record handed over that are not there."""
        for batch in record.batches:
            for number, design in enumerate(batch.designs, start=batch.first):
                if number in record.outcomes:
                    self.add(design, record.outcomes[number])

    def _work(self) -> None:
        while not self._closing.wait(HAND_OVER_S):
            self._hand_over()
        self._hand_over()

    def _hand_over(self) -> None:
        while self.error is None and self._waiting:
            with self._lock:
                trials = self._waiting[:100]
            try:
                # One by one in there, and each whole: after an error it is known which ones are still waiting.
                for trial in trials:
                    self._study.add_trial(trial)
                    self.handed_over += 1
                    with self._lock:
                        self._waiting.pop(0)
            except Exception as error:
                self.error = error

    def close(self, wait_s: float = CLOSING_S) -> str:
        """Hand over the rest for so long; returns what to tell the user.

        A lost connection is told, not raised: the log has every trial.
        """
        self._closing.set()
        self._thread.join(wait_s)
        if isinstance(self._storage, optuna.storages.RDBStorage):
            self._storage.engine.dispose()  # a server has few connections, and many members
        missing = len(self._waiting)
        if missing:
            why = "it takes too long" if self.error is None else _why(self.error)
            return (
                f"{missing} trials are not in {self.shared} yet ({why}); the record has them: run the same command "
                f"again, or bittaper explore export FOLDER --storage {self.shared.shown()} --storage-study "
                f"{self.shared.name}"
            )
        return f"{self.handed_over} trials were added to {self.shared}"

    def known_batch(self, record: Record) -> Batch | None:
        """The designs that the shared study knows and a record does not, as its next batch."""
        seen = {canonical_sha256(dict(design)) for batch in record.batches for design in batch.designs}
        trials = [trial for key, trial in self.known.items() if key not in seen]
        if not trials:
            return None
        designs = [dict(trial.user_attrs[DESIGN_ATTRIBUTE]) for trial in sorted(trials, key=lambda trial: trial.number)]
        last = record.batches[-1] if record.batches else None
        suggestions, duplicates = (last.suggestions, last.duplicates) if last else (0, 0)
        return Batch(record.designs(), suggestions, duplicates, designs, [None] * len(designs))

    def take_over(self, problem: Problem, number: int, design: Design) -> Outcome | None:
        """The outcome of a design that the shared study knows.

        Raises:
            InputError: If the trial's metrics are not what a simulation gives.
        """
        trial = self.known.get(design.key)
        if trial is None:
            return None
        where = f"trial {trial.number} of {self.shared}"
        given = trial.user_attrs.get(ERROR_ATTRIBUTE)
        try:
            metrics = InputError(given) if given is not None else trial.user_attrs[METRICS_ATTRIBUTE]
            return replace(judge(problem, number, design, metrics), source=where)
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(
                f"{where}: not a result of this study ({error}); remove it there, or leave out --storage"
            ) from None

    def check_designs(self, space: Space) -> None:
        """Check that what is known lies in the space.

        Raises:
            InputError: If a design does not; it names the trial.
        """
        for trial in self.known.values():
            try:
                space.encode(space.decode(trial.user_attrs[DESIGN_ATTRIBUTE]))
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                raise InputError(
                    f"trial {trial.number} of {self.shared}: its design is not of this space ({error}); remove it "
                    f"there, or leave out --storage"
                ) from None


def _open_study(
    shared: SharedStudy, storage: optuna.storages.BaseStorage, config: StudyConfig, meaning: str
) -> optuna.Study:
    study = optuna.create_study(
        study_name=shared.name,
        storage=storage,
        directions=[objective.direction for objective in config.objectives],
        load_if_exists=True,
    )
    found = study.user_attrs.get(MEANING_ATTRIBUTE)
    if found is None and not study.get_trials(deepcopy=False):
        study.set_metric_names([objective.name for objective in config.objectives])
        study.set_user_attr(MEANING_ATTRIBUTE, meaning)
    elif found != meaning:
        why = "was not made by bittaper" if found is None else "is about other models, files, parameters or limits"
        raise InputError(f"{shared}: {why}; choose another --storage-study")
    return study


def sync(folder: Path | str, shared: SharedStudy) -> str:
    """Hand over what a record has and a shared study lacks.

    Args:
        folder: What ``explore`` wrote.
        shared: Where to.

    Returns:
        What was done, in words.

    Raises:
        InputError: If there is no sound log, or the shared study cannot be used.
        BittaperError: If the connection is lost on the way.
    """
    record = read_log(Path(folder) / LOG_NAME)
    config = StudyConfig.model_validate(record.header["study"])
    mirror = Mirror(shared, config, record.header["meaning"], labels_of(record))
    mirror.add_record(record)
    told = mirror.close()
    if mirror.error is not None:
        raise BittaperError(told)
    return told
