"""What the page says of a chosen design follows from its numbers."""

import json

import pytest

from documents import REPOSITORY
from studies.codesign.report import _doubt, answers


@pytest.mark.parametrize(("low", "said"), [(0.904, True), (0.95, False), (0.97, False)])
def test_an_interval_that_reaches_below_the_floor_is_said_to_settle_nothing(low, said):
    doubt = _doubt({"floor": 0.95, "test": {"relative_quality_low": low, "n": 40}})
    assert ("Its interval over 40 test prompts reaches below 95%" in doubt) is said
    assert bool(doubt) is said


def test_each_share_of_quality_that_was_asked_for_gets_a_sentence_with_its_speed():
    numbers = json.loads((REPOSITORY / "studies/codesign/example/codesign.json").read_text())
    said = answers(numbers)
    assert len(said) == len(numbers["chosen"]) > 0
    for sentence, design in zip(said, numbers["chosen"], strict=True):
        assert f"keep {design['floor']:.0%} of full-precision quality, schedule {design['schedule']}" in sentence
        assert f"{design['test']['decode_tokens_per_s']:,.0f} tokens/s (simulated)" in sentence
