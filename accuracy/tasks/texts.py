"""Running text that perplexity is measured on: C4 and WikiText-2, from the hub or from local files.

Both are put together as GPTQ's evaluation does, which most quantisation papers follow (Frantar et al., 2022): all
lines of a split of WikiText-2 (raw), joined by a blank line; the first 1,100 documents of C4's first English validation
file, joined by a space (about 530,000 Llama tokens). Nothing else bounds the number of tokens.

WikiText-2 has its own splits. C4 has only a validation set that is small enough to load, so its documents are cut by
hash, and the 1,100 are the first of the split asked for: what is tuned on C4 and what is reported share no document.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from accuracy.tasks.base import SPLITS, Split, hashed_split
from accuracy.tasks.loading import load_splits, text_field
from hwsim.trace import InputError, read_text, unknown_name

PLAIN_SUFFIXES = (".txt", ".raw", ".tokens")
NATIVE_SPLITS: dict[Split, tuple[str, ...]] = {"calib": ("train",), "val": ("validation", "valid"), "test": ("test",)}
"""What a native split is called, in a dataset and in the name of a plain file."""


@dataclass(frozen=True)
class TextSource:
    """Where a text lies and how its rows are put together.

    Attributes:
        hub_name: The dataset.
        config: Of the dataset.
        data_files: Files of the dataset by split, where not all are wanted.
        separator: What joins two rows.
        native_splits: Whether its own splits are used; else its rows are cut by hash.
        max_rows: How many rows of a split are taken; None for all.
        may_be_empty: Whether rows without text belong to it.
    """

    hub_name: str
    config: str | None
    data_files: Mapping[str, str] | None
    separator: str
    native_splits: bool
    max_rows: int | None
    may_be_empty: bool


TEXTS: dict[str, TextSource] = {
    "c4": TextSource(
        "allenai/c4",
        None,
        {"validation": "en/c4-validation.00000-of-00008.json.gz"},
        separator=" ",
        native_splits=False,
        max_rows=1100,
        may_be_empty=False,
    ),
    "wikitext": TextSource(
        "Salesforce/wikitext",
        "wikitext-2-raw-v1",
        None,
        separator="\n\n",
        native_splits=True,
        max_rows=None,
        may_be_empty=True,
    ),
}
"""Where the texts of perplexity come from, by name."""


def perplexity_text(name: str, data: Path | str | None = None, split: str = "test") -> str:
    """The text of a split.

    Args:
        name: ``c4`` or ``wikitext``.
        data: A local copy instead of the hub's: a folder or file that ``datasets`` reads, with a field ``text``; for
            ``wikitext`` also a plain file (.txt, .raw, .tokens), taken as it is, whose name says which split it holds
            (train, valid or test), or a folder of such files.
        split: ``calib``, ``val`` or ``test``.

    Raises:
        InputError: If the name or split is unknown, the data cannot be read or lacks the split, or it holds no word.
    """
    if name not in TEXTS:
        raise unknown_name("text", name, TEXTS)
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    source = TEXTS[name]
    plain = _plain_files(Path(data)) if data is not None and source.native_splits else []
    text = _read_plain(name, plain, split) if plain else source.separator.join(_rows(name, source, data, split))
    if not text.strip():
        raise InputError(f"text '{name}': split '{split}' holds no word; give more data")
    return text


def _plain_files(data: Path) -> list[Path]:
    files = sorted(data.iterdir()) if data.is_dir() else [data]
    return [file for file in files if file.suffix in PLAIN_SUFFIXES]


def _read_plain(name: str, files: Iterable[Path], split: Split) -> str:
    files = list(files)
    found = [file for file in files if not set(NATIVE_SPLITS[split]).isdisjoint(re.split("[^a-z]+", file.name.lower()))]
    if len(found) != 1:
        raise InputError(
            f"text '{name}': needs one file with {NATIVE_SPLITS[split][-1]} in its name for split '{split}', found: "
            f"{', '.join(file.name for file in found) or 'none'} of {', '.join(file.name for file in files)}"
        )
    return read_text(found[0])


def _rows(name: str, source: TextSource, data: Path | str | None, split: Split) -> Iterator[str]:
    """Texts of the rows of a split, in the data's order."""
    loaded = load_splits(name, source.hub_name, data, config=source.config, data_files=source.data_files)
    if source.native_splits:
        native = next((one for one in NATIVE_SPLITS[split] if one in loaded), None)
        if native is None:
            raise InputError(f"text '{name}': split '{split}' is not among the data's: {', '.join(sorted(loaded))}")
        chosen: Iterator[str] = _texts(name, source, native, loaded[native])
    else:
        everything = (text for one in sorted(loaded) for text in _texts(name, source, one, loaded[one]))
        chosen = (text for text in everything if hashed_split(text) == split)
    return islice(chosen, source.max_rows)


def _texts(name: str, source: TextSource, native: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for number, row in enumerate(rows, start=1):
        where = f"text '{name}': {native} row {number}"
        yield text_field(row, "text", where, may_be_empty=source.may_be_empty)
