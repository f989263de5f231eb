"""Markers of methods with one mean of bits stand side by side, and no further away than that takes."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from studies.pmpd.plot import BESIDE_BITS, _free_place


@given(st.lists(st.sampled_from([2.0, 2.005, 2.4, 3.0]), max_size=6))
def test_no_marker_hides_another_and_a_lone_one_stands_at_its_bits(bits: list[float]) -> None:
    taken: list[float] = []
    for one in bits:
        alone = all(abs(one - other) >= BESIDE_BITS for other in taken)
        place = _free_place(one, taken)
        assert place == one if alone else one <= place <= one + 2 * len(bits) * BESIDE_BITS
    ends = sorted(taken)
    assert all(right - left > 0.89 * BESIDE_BITS for left, right in pairwise(ends))
