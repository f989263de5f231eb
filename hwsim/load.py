"""Find NPUs and model shapes by name or path, and apply overrides to an NPU before it is checked."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from difflib import get_close_matches
from functools import lru_cache
from importlib import resources
from itertools import takewhile
from math import prod
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from hwsim.config import NpuConfig
from hwsim.trace import InputError, Record, from_validation, read_text, unknown_name

_FOLDER = resources.files("hwsim") / "npus"
NPU_NAMES: tuple[str, ...] = tuple(
    sorted(entry.name.removesuffix(".yaml") for entry in _FOLDER.iterdir() if entry.name.endswith(".yaml"))
)
"""NPUs that come with the package."""

MIN_MACS, MAX_MACS = 64, 1 << 24


def canonical_shapes(macs: object) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Shapes ``(mm, mv)`` of an array of ``macs`` MACs, a power of two.

    ``mm`` keeps FlightLLM's 16 columns and up to 128 tokens and grows in output rows; ``mv`` is as square
    as it can be. Every dimension grows with ``macs``, so that more MACs never need more cycles.

    >>> canonical_shapes(4096), canonical_shapes(16384)
    (((2, 16, 128), (64, 64, 1)), ((8, 16, 128), (128, 128, 1)))

    Raises:
        InputError: If ``macs`` is not a power of two within bounds.
    """
    if not isinstance(macs, int) or not MIN_MACS <= macs <= MAX_MACS or macs & (macs - 1):
        raise InputError(f"matrix.macs = {macs!r}: must be a power of two within {MIN_MACS}..{MAX_MACS}")
    exponent = macs.bit_length() - 1
    tokens = min(128, macs // 16)
    columns = 1 << (exponent // 2)
    return (macs // (16 * tokens), 16, tokens), (macs // columns, columns, 1)


def _set_macs(config: dict[str, Any], macs: object) -> None:
    """Resize the array to ``macs`` and scale the table lookups with it."""
    matrix = config["matrix"]
    before = prod(matrix["mm"])
    matrix["mm"], matrix["mv"] = canonical_shapes(macs)
    matrix["cores"] = min(matrix["cores"], matrix["mm"][0])
    after = prod(matrix["mm"])
    lookups = matrix["lookups_per_cycle"]
    matrix["lookups_per_cycle"] = {bits: max(1, rate * after // before) for bits, rate in lookups.items()}


def _paths(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted paths of all values that are not groups themselves."""
    found: list[str] = []
    for key, value in config.items():
        path = f"{prefix}{key}"
        found.extend(_paths(value, f"{path}.") if isinstance(value, Mapping) else [path])
    return found


def _set_path(config: dict[str, Any], path: str, value: object) -> None:
    """Set one dotted path that must already exist."""
    *parents, last = path.split(".")
    place: Any = config
    for part in parents:
        place = place.get(part) if isinstance(place, dict) else None
    if isinstance(place, dict):
        # The keys of lookups_per_cycle are numbers in YAML.
        key = next((known for known in place if str(known) == last), None)
        if key is not None:
            place[key] = deepcopy(value)  # a field of a group may be changed next, and the group is the caller's
            return
    raise _unknown_path(config, path)


def change_npu(config: dict[str, Any], changes: Mapping[str, object]) -> None:
    """Apply overrides to an NPU's values in place, whatever their order.

    Groups come before fields of theirs, and ``matrix.macs`` before the rest of the array, so that these refine them.

    Raises:
        InputError: If a path is unknown, or the number of MACs is not possible.
    """
    for path in sorted(changes, key=lambda path: (path != "matrix", path != "matrix.macs", path)):
        if path == "matrix.macs":
            _set_macs(config, changes[path])
        else:
            _set_path(config, path, changes[path])


def _unknown_path(config: dict[str, Any], path: str) -> InputError:
    """Name the nearest path, and what the innermost group that does exist holds."""
    near = get_close_matches(path, [*_paths(config), "matrix.macs"], n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ";"
    place, group = config, "an NPU"
    for part in path.split(".")[:-1]:
        if not isinstance(place.get(part), dict):
            break
        place, group = place[part], part
    return InputError(f"unknown NPU parameter '{path}'{hint} {group} has {', '.join(sorted(map(str, place)))}")


def _record_at(groups: tuple[int | str, ...]) -> type[Record]:
    """Class of the innermost group on a path through the NPU file."""
    record: type[Record] = NpuConfig
    for group in groups:
        # The names in a mapping of groups, as of the special functions, are no fields.
        if group in record.model_fields:
            annotation = record.model_fields[str(group)].annotation
            kinds = (annotation, *get_args(annotation))
            record = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Record))
    return record


def _refuse(error: ValidationError, source: str) -> InputError:
    """One line for the first problem; a name that does not exist comes first, as it may explain what is missing."""
    for problem in error.errors(include_url=False):
        if problem["type"] == "extra_forbidden":
            *groups, name = problem["loc"]
            known = sorted(_record_at(tuple(groups)).model_fields)
            near = get_close_matches(str(name), known, n=1, cutoff=0.5)
            prefix = "".join(f"{group}." for group in groups)
            hint = f"; did you mean '{prefix}{near[0]}'?" if near else ";"
            return InputError(
                f"{source}: unknown NPU parameter '{prefix}{name}' = {problem['input']!r:.40}{hint} "
                f"{groups[-1] if groups else 'an NPU'} has {', '.join(known)}"
            )
    return from_validation(error, source)


def read_npu_text(name_or_path: str | Path) -> tuple[str, str]:
    """Text of a named NPU or an NPU file, comments included, and its name for errors.

    Raises:
        InputError: If there is none.
    """
    if str(name_or_path) in NPU_NAMES:
        return (_FOLDER / f"{name_or_path}.yaml").read_text(encoding="utf-8"), str(name_or_path)
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"} and not path.is_file():
        raise unknown_name("NPU", str(name_or_path), NPU_NAMES)
    return read_text(path), str(path)


def npu_description(name_or_path: str | Path) -> tuple[str, str]:
    """What the comment at the head of an NPU file says: what the NPU is, and what it was validated against.

    >>> what, validated = npu_description("edge-lpddr4")
    >>> what[:24], validated[:5]
    ('Template: a small NPU be', 'none;')

    Raises:
        InputError: If there is no such NPU.
    """
    text, _ = read_npu_text(name_or_path)
    head = takewhile(lambda line: line.startswith("#"), text.splitlines())
    what, _, validated = " ".join(line.lstrip("# ") for line in head).partition(" Validation: ")
    return what, validated


def _read_yaml(name_or_path: str | Path) -> tuple[dict[str, Any], str]:
    text, source = read_npu_text(name_or_path)
    return deepcopy(_parse_yaml(text, source)), source


# An exploration loads one file thousands of times, and parsing it costs more than simulating a short response.
@lru_cache(maxsize=16)
def _parse_yaml(text: str, source: str) -> dict[str, Any]:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{source}{where}: not YAML ({getattr(error, 'problem', None) or error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{source}: must be a mapping of NPU parameters, is {type(value).__name__}")
    return value


def load_npu(name_or_path: str | Path, overrides: Mapping[str, object] | None = None) -> NpuConfig:
    """Load a named NPU or an NPU file and check it.

    Args:
        name_or_path: One of :data:`NPU_NAMES`, or a YAML file.
        overrides: Values by dotted path, for example ``{"memory.bandwidth_bytes_per_s": 16e9}``. One derived
            path, ``matrix.macs``, sets ``matrix.mm`` and ``matrix.mv`` to :func:`canonical_shapes`, scales
            ``matrix.lookups_per_cycle`` and lowers ``matrix.cores`` to what the rows can feed; it is applied
            first, so that the others can refine it.

    Raises:
        InputError: If the name or a path is unknown, or a value breaks the contract.
    """
    raw, source = _read_yaml(name_or_path)
    try:
        npu = NpuConfig.model_validate(raw)
        if not overrides:
            return npu
        # From the model, not the file: optional fields the file leaves out can be set too.
        config = npu.model_dump()
        change_npu(config, overrides)
        return NpuConfig.model_validate(config)
    except ValidationError as error:
        raise _refuse(error, source) from None
