"""Arguments that several commands share, and how their text becomes values."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwsim.trace import InputError, Schedule, read_schedule


def add_action(actions: Any, name: str, summary: str, epilog: str) -> argparse.ArgumentParser:
    """Add a parser for one action of a command, with the command's examples below its options.

    Args:
        actions: What ``add_subparsers`` gave.
        name: The action's word.
        summary: One line.
        epilog: Text after the options, kept as it is written.
    """
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=summary, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    return parser


def parse_overrides(pairs: Sequence[str]) -> dict[str, object]:
    """Read ``--set path=value`` arguments; values are YAML (numbers, lists, words).

    >>> parse_overrides(["memory.bandwidth_bytes_per_s=16e9", "matrix.mm=[2, 16, 128]"])
    {'memory.bandwidth_bytes_per_s': 16000000000.0, 'matrix.mm': [2, 16, 128]}

    Raises:
        InputError: If an argument has no ``=``, a value is not YAML, or a path is given twice.
    """
    import yaml

    overrides: dict[str, object] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        if not equals or not path:
            raise InputError(f"--set {pair}: must be PATH=VALUE, for example memory.bandwidth_bytes_per_s=16e9")
        if path in overrides:
            raise InputError(f"--set {path}: given twice")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(f"--set {pair}: the value is not YAML") from None
        overrides[path] = _number(value)
    return overrides


def _number(value: object) -> object:
    """YAML 1.1 reads 16e9 (no dot) as text; people mean a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def parse_schedule(text: str) -> Schedule:
    """Read a schedule from a JSON file's path or from its label (``p4:4>3@40``).

    Raises:
        InputError: If it is neither.
    """
    return read_schedule(text) if text.endswith(".json") else Schedule.from_label(text)


def parse_widths(text: str) -> tuple[int, ...]:
    """Argparse type: a precision set.

    >>> parse_widths("4,3,2")
    (4, 3, 2)
    """
    try:
        return tuple(int(width) for width in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' must be widths with commas between, for example 4,3,2") from None


def positive_int(text: str) -> int:
    """Argparse type: an integer >= 1."""
    value = _integer(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be >= 1")
    return value


def non_negative_int(text: str) -> int:
    """Argparse type: an integer >= 0."""
    value = _integer(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text}: must be >= 0")
    return value


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not an integer") from None


def add_json(parser: argparse.ArgumentParser) -> None:
    """Offer ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON for programs instead of text")


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Offer ``--quiet``."""
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def check_writable(folder: Path) -> None:
    """Refuse a folder for results that cannot be written to, before anything long runs.

    Raises:
        InputError: If it, or the nearest folder above it that exists, is a file or not this user's to write to.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        raise InputError(f"--out {folder}: {place} is a file; choose another folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"--out {folder}: no permission to write to {place}; choose another folder")
