from __future__ import annotations

import pytest

from hwsim.trace import InputError
from studies.demo.choices import Choices


@pytest.mark.parametrize(
    ("choices", "label", "rival"),
    [
        (Choices(widths=(2, 4)), "p4:4>2@20", "p4:4"),
        (Choices(widths=(2, 3, 4), switch_step=5, prefill_weight_bits=16, rival="Low"), "p16:4>3@5>2@10", "p2:2"),
        (Choices(widths=(4, 2), switch_step=0, rival="16 bits"), "p4:2", "p16:16"),
        (Choices("Low", widths=(4, 3), rival="PMPD"), "p3:3", "p4:4>3@20"),
        (Choices("High", widths=(4, 3), prefill_weight_bits=8, rival="p8:5>2@7"), "p4:4", "p8:5>2@7"),
    ],
)
def test_controls_make_the_schedules_they_name(choices, label, rival):
    assert choices.schedule().label() == label
    assert choices.rival_schedule().label() == rival


def test_nothing_may_be_compared_with():
    assert Choices(rival="nothing").rival_schedule() is None


def test_only_pmpd_is_planned_by_a_learned_scheduler():
    assert Choices("PMPD", "Learned").learned
    assert not Choices("High", "Learned").learned


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"widths": ()}, "precision set: empty"),
        ({"precision": "Medium"}, "unknown precision 'Medium'"),
        ({"scheduler": "Lerned"}, "did you mean 'Learned'"),
        ({"max_new_tokens": 0}, "max new tokens = 0: must be >= 1"),
        ({"switch_step": -1}, "switch position = -1: must be >= 0"),
    ],
)
def test_what_no_control_can_mean_is_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        Choices(**wrong)
