"""The templates to start from: every number has its reason, and derived ones follow from their parts."""

from __future__ import annotations

from importlib import resources
from itertools import dropwhile

import pytest

from hwsim import load_npu
from hwsim.load import canonical_shapes

TEMPLATES = ("edge-lpddr4", "mobile-lpddr5", "server-hbm3e")
REASONED_GROUPS = ("timing", "functions")  # their first line gives the source of the lines below it
MEMORIES = {  # bits of one channel, transfers per second of a pin, of the technology's names
    "edge-lpddr4": (16, 3200e6, 16),
    "mobile-lpddr5": (16, 6400e6, 16),
    "server-hbm3e": (32, 9200e6, 8),
}


def lines_of(name: str) -> list[str]:
    """Of the file, without the comment at its head."""
    lines = (resources.files("hwsim") / "npus" / f"{name}.yaml").read_text().splitlines()
    return list(dropwhile(lambda line: line.startswith("#"), lines))


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_number_says_where_it_comes_from(name):
    reasoned = False
    for line in lines_of(name):
        text, _, comment = line.partition("#")
        key, _, value = text.strip().partition(":")
        if not value.strip():
            # A group, or a comment above the line that it explains.
            reasoned = key in REASONED_GROUPS or (not key and bool(comment))
            continue
        if any(letter.isdigit() for letter in value) and key not in {"schema_version", "node", "name", "dram"}:
            assert comment.strip() or reasoned, f"{name}: {line}"


@pytest.mark.parametrize("name", TEMPLATES)
def test_bandwidth_and_bursts_follow_from_pins(name):
    memory = load_npu(name).memory
    bits, transfers_per_s, burst_length = MEMORIES[name]
    assert memory.bandwidth_bytes_per_s == pytest.approx(memory.channels * bits / 8 * transfers_per_s)
    assert memory.burst_bytes == bits * burst_length / 8


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_array_is_the_canonical_one_of_its_size(name):
    matrix = load_npu(name).matrix
    assert (matrix.mm, matrix.mv) == canonical_shapes(matrix.macs)
    assert matrix.lookups_per_cycle == {
        bits: matrix.macs >> max(0, bits - 4) for bits in matrix.weight_widths if bits != 16
    }
