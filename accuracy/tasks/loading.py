"""Rows of a task's data: JSON files read with the place of every record, or anything that ``datasets`` reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hwsim.trace import InputError, file_sha256, read_json, read_text

KINDS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
"""What ``datasets`` reads a single file as; it unpacks ``.gz`` by itself."""


def read_records(source: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects of a JSON Lines file or a JSON list, each with the place to name in an error.

    Raises:
        InputError: If the file is missing or holds anything else.
    """
    values: Iterable[tuple[str, Any]]
    if source.suffix == ".json":
        whole = read_json(source)
        if not isinstance(whole, list):
            raise InputError(f"{source}: must be a list of objects")
        values = ((f"{source}: record {number}", value) for number, value in enumerate(whole, start=1))
    else:
        values = _lines(source)
    for where, value in values:
        if not isinstance(value, dict):
            raise InputError(f"{where}: must be an object with named fields")
        yield where, value


def text_field(record: Mapping[str, Any], path: str, where: str, *, may_be_empty: bool = False) -> str:
    """Text of a record's field; where no field has that whole name, a dot in it leads into an object.

    Raises:
        InputError: If the field is missing, or is no text, or is empty though it must not be.
    """
    value: Any = record
    for name in [path] if path in record else path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            found = ", ".join(sorted(map(str, value))) if isinstance(value, Mapping) else type(value).__name__
            raise InputError(f"{where}: field '{path}' is missing; fields found: {found}")
        value = value[name]
    if not isinstance(value, str) or not (may_be_empty or value.strip()):
        raise InputError(f"{where}: {path} = {value!r}: must be text that is not empty"[:300])
    return value


def load_splits(
    task: str,
    hub_name: str,
    data: Path | str | None,
    *,
    config: str | None = None,
    revision: str | None = None,
    data_files: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Load a dataset's splits, from the hub or from a local folder or file.

    Args:
        task: Name for errors.
        hub_name: The dataset on the hub, taken where ``data`` is None.
        data: A folder in any form that ``datasets`` reads, or a .json, .jsonl, .csv or .parquet file.
        config: Of the hub's dataset.
        revision: Of the hub's dataset.
        data_files: Files of the hub's dataset by split, where not all are wanted.

    Raises:
        InputError: If there is no such data or it cannot be read.
    """
    import datasets

    if data is not None and not Path(data).exists():
        raise InputError(f"task '{task}': data = {data}: no such folder or file")
    datasets.disable_progress_bars()
    try:
        if data is None:
            loaded = datasets.load_dataset(hub_name, config, revision=revision, data_files=data_files)
        elif Path(data).is_dir():
            loaded = datasets.load_dataset(str(data))
        else:
            kind = KINDS.get(Path(str(data).removesuffix(".gz")).suffix)
            if kind is None:
                raise InputError(f"task '{task}': data = {data}: must be {', '.join(KINDS)} or a folder")
            loaded = datasets.load_dataset(kind, data_files=str(data))
    except InputError:
        raise
    except Exception as error:  # datasets raises many kinds, of its own and of its readers
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        remedy = "; give local data" if data is None else ""
        raise InputError(f"task '{task}': {data or hub_name} cannot be loaded: {first}{remedy}") from None
    return dict(loaded)


def data_identity(data: Path | str | None, splits: Mapping[str, Any]) -> list[str]:
    """What tells one version of the data from another: its files' hashes, or the hub's fingerprints."""
    if data is None:
        return sorted(f"{name} {split._fingerprint}" for name, split in splits.items())
    path = Path(data)
    files: Sequence[Path] = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return [file_sha256(file) for file in files]


def _lines(source: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(read_text(source).split("\n"), start=1):
        if line.strip():
            try:
                yield f"{source}:{number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{source}:{number}: not JSON ({error.msg})") from None
