"""Tatoeba's sentence pairs, as manythings.org/anki packs them: text of another kind than the reported tasks."""

from __future__ import annotations

import io
import zipfile
from functools import lru_cache
from pathlib import Path

from hwsim.trace import InputError, read_text

PAIRS_FILE = "fra.txt"


@lru_cache(maxsize=1)
def tatoeba_pairs(archive: Path) -> tuple[tuple[str, str], ...]:
    """English and French of every entry, each French one once, in the order of the file; most are one sentence.

    White space is made plain: French sets narrow spaces before some marks.

    Args:
        archive: ``fra-eng.zip``, or the ``fra.txt`` in it.

    Raises:
        InputError: If it cannot be read, or a line is no pair.
    """
    if archive.suffix == ".zip":
        try:
            with zipfile.ZipFile(archive) as opened:
                name = next((name for name in opened.namelist() if Path(name).name == PAIRS_FILE), None)
                if name is None:
                    raise InputError(f"{archive}: holds no {PAIRS_FILE}; give fra-eng.zip of manythings.org/anki")
                text = io.TextIOWrapper(opened.open(name), encoding="utf-8").read()
        except (OSError, zipfile.BadZipFile, UnicodeDecodeError) as error:
            raise InputError(f"{archive}: cannot be read as a zip archive of UTF-8 text ({error})") from None
    else:
        text = read_text(archive)
    pairs: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        columns = line.split("\t")
        if len(columns) < 2:
            raise InputError(f"{archive}:{number}: has no tab; each line must be English, tab, French")
        english, french = (" ".join(column.split()) for column in columns[:2])
        if french:
            pairs.setdefault(french, english)
    return tuple((english, french) for french, english in pairs.items())
