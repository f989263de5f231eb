"""Which numbers of an NPU file are assumed: those whose line says so in its comment.

Every constant of an NPU file names its source in a comment, or says "assumed". An analysis that asks how much an answer
rests on assumptions reads them from there, so that the list cannot drift from the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from hwsim.load import read_npu_text

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def assumed_numbers(name_or_path: str | Path) -> list[str]:
    """Dotted paths of the numbers that an NPU file marks as assumed, in the file's order.

    Lists and names are left out: there is no more or less of them.

    >>> assumed_numbers("pmpd-4k")[:3]
    ['matrix.cores', 'matrix.pipeline_cycles', 'sfu.functions.sampling.passes']

    Raises:
        InputError: If there is no such NPU.
    """
    text, _ = read_npu_text(name_or_path)
    marked = {number for number, line in enumerate(text.splitlines()) if "assumed" in line.partition("#")[2]}
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    return [path for path, node in _scalars(root, "") if node.start_mark.line in marked and node.tag in _NUMBERS]


def _scalars(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, yaml.ScalarNode]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _scalars(value, f"{prefix}.{key.value}" if prefix else str(key.value))
    elif isinstance(node, yaml.ScalarNode):
        yield prefix, node
