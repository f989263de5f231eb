"""``bittaper npus``: the NPUs that have a name, what they rest on, and a file to start from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from studies.commands.options import add_json
from studies.common.output import format_table, print_json, three_digits

HELP = """the named NPUs: sizes, sources, how much is assumed, and a file to start an own one from

Without NAME a table. With NAME its YAML, which gives the source of every number, once it has been checked; a file of
one's own is a NAME too. A template stands for a class of devices and was measured by nobody; a published one is from a
paper, and says what it was validated against. Units are in the names of the fields.

examples:
  bittaper npus
  bittaper npus pmpd-4k
  bittaper npus edge-lpddr4 --write my-edge.yaml
  bittaper npus my-edge.yaml --json
"""
_SUFFIXES = {".yaml", ".yml"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="one NPU: a name or a file")
    parser.add_argument(
        "--write", metavar="FILE", help="copy its YAML to FILE, called after it, to be changed; FILE must not exist yet"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Print the table or one NPU, or write a copy."""
    from hwsim import NPU_NAMES, load_npu
    from hwsim.load import read_npu_text
    from hwsim.trace import InputError
    from studies.common.subjects import npu_facts

    if args.name is None:
        if args.write is not None:
            raise InputError(f"--write {args.write} needs the NAME of what to copy: one of {', '.join(NPU_NAMES)}")
        facts = [npu_facts(load_npu(name), name) for name in NPU_NAMES]
        print_json(facts) if args.json else print(_table(facts))
        return
    npu = load_npu(args.name)
    if args.write is not None:
        print(f"wrote {write_copy(args.name, Path(args.write))}")
    elif args.json:
        print_json(npu_facts(npu, args.name) | {"file": npu.model_dump(mode="json")})
    else:
        print(read_npu_text(args.name)[0], end="")


def write_copy(name: str, path: Path) -> Path:
    """Copy an NPU's YAML, comments included, under the name of its new file.

    Args:
        name: A named NPU, or a file.
        path: Where to; results call the copy after it.

    Raises:
        InputError: If the file exists, is no YAML file by its name, or cannot be written there.
    """
    import json
    import re

    from hwsim.load import npu_description, read_npu_text
    from hwsim.trace import InputError, write_text

    if path.suffix not in _SUFFIXES:
        raise InputError(f"--write {path}: must end with .yaml")
    if path.exists():
        raise InputError(f"--write {path}: exists already, and may hold your changes; choose another name")
    text, _ = read_npu_text(name)
    what, _ = npu_description(name)
    body = text[re.match(r"(#.*\n)*", text).end() :]  # type: ignore[union-attr]  # no comment matches too
    body = re.sub(r"(?m)^name:.*$", lambda _: f"name: {json.dumps(path.stem)}", body, count=1)
    head = f"Copy of {name}, validated against nothing once it is changed: {what.removeprefix('Template: ')}"
    write_text(path, "".join(f"# {line}\n" for line in _wrapped(head)) + body)
    return path


def _wrapped(text: str) -> list[str]:
    from textwrap import wrap

    return wrap(text, 118, break_long_words=False, break_on_hyphens=False)


def _table(facts: list[dict[str, Any]]) -> str:
    header = (
        "name",
        "kind",
        "MACs",
        "GHz",
        "GB/s",
        "memory",
        "GiB",
        "buffers KiB",
        "node",
        "mm2",
        "assumed",
        "validated",
    )
    rows = [
        (
            one["name"],
            one["kind"],
            f"{one['macs']:,}",
            f"{one['clock_hz'] / 1e9:g}",
            f"{one['bandwidth_bytes_per_s'] / 1e9:g}",
            one["memory"],
            f"{one['capacity_bytes'] / 2**30:g}",
            f"{one['buffers_kib']:,.0f}",
            one["node"],
            three_digits(one["area_mm2"]),
            str(len(one["assumed"])),
            "no" if one["validation"].startswith("none") else "yes",
        )
        for one in facts
    ]
    return (
        f"{format_table(header, rows)}\n\nassumed: numbers of the file without a source. bittaper npus NAME prints one "
        "with its sources and what it was validated\nagainst, bittaper npus NAME --write FILE copies it, to be changed."
    )
