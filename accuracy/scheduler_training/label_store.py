"""The folder of labels, written batch by batch and read by every training.

``labels.json`` says what the labels are of; ``labels.jsonl`` holds a line a prompt with the scores of all classes, from
which the label follows by either rule; ``features/`` holds a safetensors file a batch. A batch's file is written before
its lines, and a line cut by a kill is dropped when the folder is opened again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Literal, Self

from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from accuracy.evaluation.plan import claim_folder
from accuracy.evaluation.store import open_exclusively
from accuracy.scheduler_training.features import FeatureInput, Features
from accuracy.schedulers import CandidateSet
from hwsim.trace import InputError, Record, WeightBits, atomic_writer, from_validation, read_json
from hwsim.trace.files import reading

SETTINGS_FILE = "labels.json"
LABELS_FILE = "labels.jsonl"
FEATURES_FOLDER = "features"

LabelRule = Literal["high-precision", "full-precision"]


class LabelSettings(Record):
    """What the labels of a folder are of."""

    schema_version: Literal["1.0"] = "1.0"
    model_name: str
    model_sha256: str
    store_sha256: str | None
    dtype: str
    layers: int = Field(ge=1)
    widths: tuple[WeightBits, ...]
    points: int = Field(ge=2)
    prefill_weight_bits: WeightBits
    inputs: tuple[str, ...] = Field(description="Names of the recorded features.")
    score: str = Field(description="Metric of the scores.")
    prompts: int = Field(ge=0)
    prompts_sha256: str
    max_new_tokens: int = Field(ge=0, description="Largest bound on a response.")
    batch_size: int

    @property
    def candidates(self) -> CandidateSet:
        """The classes."""
        return CandidateSet.of(self.widths, self.points, self.prefill_weight_bits)


class LabelRecord(Record):
    """One prompt's responses, scored; classes run from the fewest bits to the most."""

    number: int = Field(ge=0, description="Place among the prompts as they were given; batches go by length.")
    id: str
    prompt_tokens: int = Field(ge=1)
    scores: tuple[float, ...] = Field(description="Rouge-L against the full-precision response, by class.")
    full_precision_score: float = Field(description="The full-precision response's against itself.")
    decode_steps: tuple[int, ...] = Field(description="Decode steps of the response, by class.")
    decode_bits: tuple[int, ...] = Field(description="Sum of the steps' weight bits, by class.")
    batch: int = Field(ge=0, description="File of its features.")
    place: int = Field(ge=0, description="Its number in that file.")
    batch_prompts: int = Field(ge=1, description="Prompts in that file.")

    def label(self, rule: LabelRule = "high-precision") -> int:
        """The class of fewest bits that is good enough, the last one if none is.

        Args:
            rule: ``high-precision``: as good as the response at the highest width throughout, as the paper's public
                code has it. ``full-precision``: as good as the full-precision response, i.e. the same words, as
                A.1.2 says literally.
        """
        enough = self.scores[-1] if rule == "high-precision" else self.full_precision_score
        return next((index for index, score in enumerate(self.scores) if score >= enough), len(self.scores) - 1)


@dataclass(frozen=True)
class LabelledPrompts:
    """Prompts with the scores of every class, and their features on disk.

    Attributes:
        folder: Where they lie.
        settings: What they are of.
        records: One per prompt, in the order in which the prompts were given.
    """

    folder: Path
    settings: LabelSettings
    records: tuple[LabelRecord, ...]

    @classmethod
    def read(cls, folder: Path | str) -> LabelledPrompts:
        """Read a folder that :func:`accuracy.scheduler_training.labels.collect_labels` finished.

        Raises:
            InputError: If the folder holds no labels, is damaged, or its labelling has not finished.
        """
        folder = Path(folder)
        settings = _read_settings(folder)
        with reading(folder / LABELS_FILE), (folder / LABELS_FILE).open("rb") as file:
            records, _ = _read_records(file, folder / LABELS_FILE)
        if len(records) != settings.prompts:
            raise InputError(f"{folder}: {len(records)} of {settings.prompts} prompts are labelled; run it to its end")
        return cls(folder, settings, tuple(sorted(records, key=lambda record: record.number)))

    def labels(self, rule: LabelRule = "high-precision") -> list[int]:
        """The label of every prompt."""
        return [record.label(rule) for record in self.records]

    def split(self, held_out: int) -> tuple[LabelledPrompts, LabelledPrompts]:
        """All but the last ``held_out`` prompts, and those.

        Raises:
            InputError: If either part would be empty.
        """
        count = len(self.records)
        if not 0 < held_out < count:
            raise InputError(f"held_out = {held_out}: must be 1..{count - 1} of {count} labelled prompts")
        return replace(self, records=self.records[:-held_out]), replace(self, records=self.records[-held_out:])

    def features(self, chosen: FeatureInput) -> list[Features]:
        """One input of every prompt.

        Raises:
            InputError: If it was not recorded, or a file of it is missing or damaged.
        """
        if chosen.name not in self.settings.inputs:
            recorded = ", ".join(self.settings.inputs)
            raise InputError(f"{self.folder}: input '{chosen.name}' was not recorded; recorded: {recorded}")
        found: dict[tuple[int, int], Features] = {}
        for batch in sorted({record.batch for record in self.records}):
            path = _features_path(self.folder, batch)
            try:
                with reading(path), safe_open(path, framework="pt") as file:
                    names = set(file.keys())
                    for record in self.records:
                        if record.batch == batch:
                            prefix = f"{record.place}.{chosen.name}"
                            parts = {
                                name: file.get_tensor(name)
                                for name in (f"{prefix}.keys", f"{prefix}.values")
                                if name in names
                            }
                            found[batch, record.place] = Features.from_tensors(parts, prefix)
            except (SafetensorError, KeyError):
                raise InputError(f"{path}: is damaged; remove the folder and label again") from None
        return [found[record.batch, record.place] for record in self.records]


class LabelWriter:
    """Appends batches to a folder of labels, open for one process; use it as a context manager.

    Attributes:
        settings: What its labels are of; a folder that records more inputs than asked for goes on recording them.
        batches: Numbers of the batches that are whole.
    """

    def __init__(self, folder: Path, settings: LabelSettings) -> None:
        self._folder, self.settings = folder, settings
        self._file: IO[bytes] | None = None
        self.batches: set[int] = set()

    def __enter__(self) -> Self:
        """Begin the folder, or go on with it.

        Raises:
            InputError: If it holds labels with other settings, or another process writes to it.
        """
        path = self._folder / LABELS_FILE
        file = open_exclusively(path)
        try:
            if (self._folder / SETTINGS_FILE).exists():
                recorded = _read_settings(self._folder).inputs
                if set(self.settings.inputs) <= set(recorded):
                    self.settings = self.settings.model_copy(update={"inputs": recorded})
            claim_folder(self._folder, self.settings.model_dump(mode="json"), SETTINGS_FILE)
            records, whole = _read_records(file, path)
            file.truncate(whole)
        except BaseException:
            file.close()
            raise
        self._file = file
        self.batches = {record.batch for record in records}
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def add(self, batch: int, records: Sequence[LabelRecord], features: Sequence[Mapping[str, Features]]) -> None:
        """Write a batch: its features, then its lines in one piece."""
        assert self._file is not None, "the folder is not open"
        tensors = {
            name: tensor
            for place, by_input in enumerate(features)
            for input_name, one in by_input.items()
            for name, tensor in one.tensors(f"{place}.{input_name}").items()
        }
        with atomic_writer(_features_path(self._folder, batch), "wb") as file:
            file.write(save(tensors))
        self._file.write("".join(record.model_dump_json() + "\n" for record in records).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.batches.add(batch)


def _features_path(folder: Path, batch: int) -> Path:
    return folder / FEATURES_FOLDER / f"{batch:05d}.safetensors"


def _read_settings(folder: Path) -> LabelSettings:
    path = folder / SETTINGS_FILE
    try:
        return LabelSettings.model_validate(read_json(path))
    except ValidationError as error:
        raise from_validation(error, str(path)) from None


def _read_records(file: IO[bytes], path: Path) -> tuple[list[LabelRecord], int]:
    """Records of the batches that are whole, and how many bytes they take; a kill can cut the last one anywhere."""
    file.seek(0)
    records: list[LabelRecord] = []
    pending: list[LabelRecord] = []
    position = whole = 0
    for number, line in enumerate(file, start=1):
        if not line.endswith(b"\n"):
            break
        try:
            record = LabelRecord.model_validate_json(line)
        except ValidationError as error:
            problem = from_validation(error, str(path), number)
            raise InputError(f"{problem}; remove {path.parent} and label again") from None
        position += len(line)
        pending.append(record)
        if len(pending) == record.batch_prompts:
            records += pending
            pending, whole = [], position
    return records, whole
