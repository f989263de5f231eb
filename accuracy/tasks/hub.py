"""The paper's tasks through the ``datasets`` library: CNN/DM, DialogSum, IWSLT 2017 French to English.

Hub names work where there is a network; a local folder or file in any form that ``datasets`` reads works the same way.
Prompts use PMPD's template for all models (FastChat's ``claude-2``: Human and Assistant turns after a system line); the
instruction sentence of each task is ours, because the paper does not print its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accuracy.tasks.base import Example, Split, Task, hashed_split, prompt_sha256, register_task
from hwsim.trace import InputError, canonical_sha256, file_sha256

TEMPLATE = (
    "Play the role of assistant and answer the question from human. \n\nHuman: {instruction}\n\n{text}\n\nAssistant:"
)
VICUNA = "lmsys/vicuna-7b-v1.5"
NATIVE: dict[Split, str] = {"calib": "train", "val": "validation", "test": "test"}
# A prompt of two splits belongs to the first named here: test stays whole.
PRECEDENCE: tuple[Split, ...] = ("test", "val", "calib")


@dataclass(frozen=True)
class Source:
    """Where a dataset lies on the hub and what its fields mean."""

    hub_name: str
    config: str | None
    revision: str | None
    fields: tuple[str, ...]
    read: Callable[[dict[str, Any]], tuple[str, str]]
    instruction: str


class DatasetTask(Task):
    """A dataset's own train, validation and test become calib, val and test; one that lacks any is split by hash.

    A prompt that occurs in several splits is kept in test only, or in val rather than calib.
    """

    source: Source

    def __init__(self, data: Path | str | None = None, *, max_new_tokens: int | None = None) -> None:
        """Load the data.

        Args:
            data: A local folder or file; the hub's copy by default.
            max_new_tokens: Bound on a response; the paper's by default.

        Raises:
            InputError: If there is no such data or it cannot be read.
        """
        if max_new_tokens is not None:
            self.max_new_tokens = max_new_tokens
        self._splits = _load_splits(self.name, self.source, data)
        self.version = canonical_sha256([1, _identity(data, self._splits), TEMPLATE, self.source.instruction])[:16]

    def _stream(self, split: Split) -> Iterator[Example]:
        splits = self._splits
        if not all(name in splits for name in NATIVE.values()):
            for name in sorted(splits):
                yield from (e for e in self._read(splits[name], name) if hashed_split(e.prompt) == split)
            return
        seen: set[str] = set()
        for other in PRECEDENCE[: PRECEDENCE.index(split)]:
            seen.update(prompt_sha256(example.prompt) for example in self._read(splits[NATIVE[other]], other))
        for example in self._read(splits[NATIVE[split]], split):
            identity = prompt_sha256(example.prompt)
            if identity not in seen:
                seen.add(identity)
                yield example

    def _read(self, rows: Iterable[dict[str, Any]], name: str) -> Iterator[Example]:
        for number, row in enumerate(rows):
            missing = [field for field in self.source.fields if field not in row]
            if missing:
                raise InputError(
                    f"task '{self.name}': field '{missing[0]}' is missing; fields found: {', '.join(sorted(row))}"
                )
            text, reference = self.source.read(row)
            if text.strip() and reference.strip() and self._wanted(reference):
                prompt = TEMPLATE.format(instruction=self.source.instruction, text=text.strip())
                yield Example(f"{name}-{number}", prompt, reference.strip())

    def _wanted(self, reference: str) -> bool:
        """Whether an example with this reference belongs to the task."""
        return True


@register_task("cnn-dm")
class CnnDailyMail(DatasetTask):
    """News summaries (the paper reports the first 100 of validation)."""

    name = "cnn-dm"
    max_new_tokens = 256
    metrics = ("rouge_l",)
    source = Source(
        "abisee/cnn_dailymail",
        "3.0.0",
        None,
        ("article", "highlights"),
        lambda row: (row["article"], row["highlights"]),
        "Summarize the following news article.",
    )


@register_task("dialogsum")
class DialogSum(DatasetTask):
    """Dialogue summaries."""

    name = "dialogsum"
    max_new_tokens = 33
    metrics = ("rouge_l",)
    source = Source(
        "knkarthick/dialogsum",
        None,
        None,
        ("dialogue", "summary"),
        lambda row: (row["dialogue"], row["summary"]),
        "Summarize the following dialogue.",
    )


@register_task("iwslt-fr-en")
class Iwslt(DatasetTask):
    """Translation of talks; like the paper, only references of more than 60 Vicuna tokens."""

    name = "iwslt-fr-en"
    max_new_tokens = 60
    metrics = ("bleu",)
    min_reference_tokens = 61
    # The hub's own revision is a script, which is never run; this is its converted data.
    source = Source(
        "IWSLT/iwslt2017",
        "iwslt2017-fr-en",
        "refs/convert/parquet",
        ("translation",),
        lambda row: (row["translation"]["fr"], row["translation"]["en"]),
        "Translate the following French text into English.",
    )

    def __init__(
        self,
        data: Path | str | None = None,
        *,
        max_new_tokens: int | None = None,
        length_tokenizer: Path | str = VICUNA,
    ) -> None:
        """Choose the data, and the tokenizer (hub name or folder) that measures references."""
        super().__init__(data, max_new_tokens=max_new_tokens)
        self._length_tokenizer = length_tokenizer
        self._tokenizer: Any = None

    def _wanted(self, reference: str) -> bool:
        if self._tokenizer is None:
            from accuracy.model import load_tokenizer

            self._tokenizer = load_tokenizer(str(self._length_tokenizer), "length_tokenizer")
        ids = self._tokenizer(reference, add_special_tokens=False)["input_ids"]
        return len(ids) >= self.min_reference_tokens


def _identity(data: Path | str | None, splits: dict[str, Any]) -> list[str]:
    """What tells one version of the data from another: its files' hashes, or the hub's fingerprints."""
    if data is None:
        return sorted(f"{name} {split._fingerprint}" for name, split in splits.items())
    path = Path(data)
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return [file_sha256(file) for file in files]


def _load_splits(name: str, source: Source, data: Path | str | None) -> dict[str, Any]:
    """Load a dataset's splits, from the hub or from local files."""
    import datasets

    if data is not None and not Path(data).exists():
        raise InputError(f"task '{name}': data = {data}: no such folder or file")
    datasets.disable_progress_bars()
    try:
        if data is None:
            loaded = datasets.load_dataset(source.hub_name, source.config, revision=source.revision)
        elif Path(data).is_dir():
            loaded = datasets.load_dataset(str(data))
        else:
            kind = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}.get(Path(data).suffix)
            if kind is None:
                raise InputError(f"task '{name}': data = {data}: must be .json, .jsonl, .csv, .parquet or a folder")
            loaded = datasets.load_dataset(kind, data_files=str(data))
    except InputError:
        raise
    except Exception as error:  # datasets raises many kinds, of its own and of its readers
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        remedy = "; give local data" if data is None else ""
        raise InputError(f"task '{name}': {data or source.hub_name} cannot be loaded: {first}{remedy}") from None
    return dict(loaded)
