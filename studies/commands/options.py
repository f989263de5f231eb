"""Arguments that several commands share, and how their text becomes values."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from hwsim.trace import InputError, Schedule, read_schedule


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
    """Read a schedule from a JSON file's path or from its label.

    The label is ``p4:4>3@40``: prefill at 4 bits, decode at 4, at 3 from step 40 on. ``4`` alone is uniform.

    >>> parse_schedule("p8:4>3@40>2@60").runs(70)
    [(4, 40), (3, 20), (2, 10)]

    Raises:
        InputError: If it is neither; the message shows the form.
    """
    if text.endswith(".json") or Path(text).is_file():
        return read_schedule(text)
    try:
        prefill, colon, decode = text.partition(":")
        if not colon:
            return Schedule.uniform(int(text))
        first, *switches = decode.split(">")
        pairs = [(0, int(first))]
        for switch in switches:
            bits, at, step = switch.partition("@")
            if not at:
                raise ValueError(switch)
            pairs.append((int(step), int(bits)))
        return Schedule.from_pairs(int(prefill.removeprefix("p")), pairs)
    except ValueError as error:
        # pydantic's ValidationError is a ValueError too and knows the bound that was broken.
        detail = getattr(error, "errors", None)
        why = f" ({detail()[0]['msg'].removeprefix('Value error, ')})" if detail else ""
        raise InputError(
            f"schedule '{text}' is neither a file nor of the form p4:4>3@40 "
            f"(prefill bits : decode bits > next bits @ first step){why}"
        ) from None


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
