"""What the page says of a chosen design follows from its numbers."""

import json

import pytest

from documents import REPOSITORY
from studies.codesign.report import _doubt, _doubt_of_rival, answers, lead


@pytest.mark.parametrize(("low", "said"), [(0.904, True), (0.95, False), (0.97, False)])
def test_an_interval_that_reaches_below_the_floor_is_said_to_settle_nothing(low, said):
    doubt = _doubt({"floor": 0.95, "test": {"relative_quality_low": low, "relative_quality_high": 0.98, "n": 40}})
    assert ("Its interval over 40 test prompts reaches below 95%" in doubt) is said
    assert bool(doubt) is said


def test_an_interval_wholly_below_the_floor_is_said_to_miss_it():
    test = {"relative_quality_low": 0.85, "relative_quality_high": 0.93, "n": 40}
    doubt = _doubt({"floor": 0.95, "test": test})
    assert doubt.startswith(" Its whole interval over 40 test prompts lies below 95%: it does not keep that, though")


@pytest.mark.parametrize(
    ("ours", "its", "said"),
    [
        ((0.96, 0.99), (0.96, 0.99), ""),
        ((0.93, 0.97), (0.96, 0.99), " The rival's whole interval keeps 95%."),
        ((0.96, 0.99), (0.93, 0.97), " The rival's interval reaches below 95%."),
        ((0.93, 0.97), (0.93, 0.97), " The rival's interval reaches below 95% too."),
        ((0.93, 0.97), (0.91, 0.94), " The rival's interval lies below 95% too."),
    ],
)
def test_what_test_prompts_say_of_the_rival_stands_beside_what_they_say_of_the_design(ours, its, said):
    def measured(interval):
        return {"relative_quality_low": interval[0], "relative_quality_high": interval[1], "n": 40}

    rival = {"schedule": "p3:3", "test": measured(its)}
    design = {"floor": 0.95, "schedule": "p4:2", "test": measured(ours), "uniform_rival": rival}
    assert _doubt_of_rival(design) == said
    assert _doubt_of_rival(design | {"schedule": "p3:3"}) == "", "a design is no rival of itself"
    assert _doubt_of_rival(design | {"uniform_rival": None}) == ""


def test_the_lead_says_what_its_answer_leaves_open():
    numbers = json.loads((REPOSITORY / "studies/codesign/example/codesign.json").read_text())
    assert lead(numbers).endswith(answers(numbers)[-1])


def test_each_share_of_quality_that_was_asked_for_gets_a_sentence_with_its_speed():
    numbers = json.loads((REPOSITORY / "studies/codesign/example/codesign.json").read_text())
    said = answers(numbers)
    assert len(said) == len(numbers["chosen"]) > 0
    for sentence, design in zip(said, numbers["chosen"], strict=True):
        assert f"keep {design['floor']:.0%} of full-precision quality on validation prompts, " in sentence
        assert f"schedule {design['schedule']} ({design['explored']['relative_quality']:.1%} there)" in sentence
        assert f"{design['test']['decode_tokens_per_s']:,.0f} tokens/s (simulated)" in sentence
