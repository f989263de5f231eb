from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accuracy.quantization.widths import (
    WastefulWidthWarning,
    describe_wasteful_widths,
    warn_of_wasteful_widths,
    wasteful_widths,
)


def cost(K: int, bits: int) -> float:
    return bits + 16 * 2**bits / K


@pytest.mark.parametrize(
    ("K", "wasteful"),
    [
        # 8 + 4096 / K < 16 from K = 513 on, 7 + 2048 / K < 16 from 228, 6 + 1024 / K < 16 from 103.
        (4096, []),
        (513, []),
        (512, [8]),
        (228, [8]),
        (192, [7, 8]),
        (102, [6, 7, 8]),
    ],
)
def test_width_is_wasteful_once_its_codebook_outweighs_what_it_saves(K: int, wasteful: list[int]) -> None:
    assert wasteful_widths({bits: cost(K, bits) for bits in range(2, 9)}) == dict.fromkeys(wasteful, 16)


def test_width_that_reads_as_much_as_a_wider_one_is_wasteful() -> None:
    assert wasteful_widths({2: 3.0, 3: 5.0, 4: 4.5, 5: 5.0}) == {3: 5}


@given(st.dictionaries(st.integers(1, 8), st.floats(1, 40)))
def test_no_wasteful_width_is_the_better_one_of_another_or_cheaper_than_it(costs: dict[int, float]) -> None:
    found = wasteful_widths(costs)
    for width, better in found.items():
        assert better > width
        assert costs.get(better, 16.0) <= costs[width]
        assert better not in found


def test_warning_names_every_wasteful_width_and_what_serves_better() -> None:
    costs = {2: 3.0, 3: 5.0, 4: 4.5, 8: 29.333}
    message = (
        r"^tiny: width 3 reads 5 bits per weight, since short rows share its codebooks badly; "
        r"width 4 is better and reads 4\.5; width 8 reads 29\.3 bits per weight, .*; unquantised weights read 16$"
    )
    with pytest.warns(WastefulWidthWarning, match=message):
        warn_of_wasteful_widths("tiny", costs)
    assert len(describe_wasteful_widths(costs)) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_wasteful_widths("tiny", {2: 3.0})
