"""A marker that others cover shows around them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from studies.pmpd.plot import MARKER_SIZE, _ringed_sizes


@given(st.lists(st.sampled_from([(2.0, 0.0), (2.01, 0.0), (2.0, 0.5), (3.0, 0.0)]), max_size=6))
def test_markers_at_one_place_grow_smaller_and_a_lone_one_has_its_size(places: list[tuple[float, float]]) -> None:
    sizes = _ringed_sizes(places)
    for place in {(2.0, 0.5), (3.0, 0.0)}:
        here = [size for size, where in zip(sizes, places, strict=True) if where == place]
        assert here == [MARKER_SIZE + 2 * left for left in reversed(range(len(here)))]
    here = [size for size, (x, y) in zip(sizes, places, strict=True) if x < 2.1 and y == 0]
    assert here == [MARKER_SIZE + 2 * left for left in reversed(range(len(here)))]
