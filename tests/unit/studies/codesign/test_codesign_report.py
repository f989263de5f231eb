"""What the page says of a chosen design follows from its numbers."""

import pytest

from studies.codesign.report import _doubt


@pytest.mark.parametrize(("low", "said"), [(0.904, True), (0.95, False), (0.97, False)])
def test_an_interval_that_reaches_below_the_floor_is_said_to_settle_nothing(low, said):
    doubt = _doubt({"floor": 0.95, "test": {"relative_quality_low": low, "n": 40}})
    assert ("Its interval over 40 test prompts reaches below 95%" in doubt) is said
    assert bool(doubt) is said
