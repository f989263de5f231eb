from __future__ import annotations

import pytest

from accuracy.tasks import prompt_sha256
from studies.quantization_quality.subjects import (
    SAMPLED_TOKENS,
    _check_disjoint,
    quick_subject,
    subject_makers,
)


def test_without_shared_data_the_shipped_model_is_studied_alone():
    assert list(subject_makers(None)) == ["selvic"]


def test_the_shipped_model_reads_prompt_and_answer_in_the_form_it_was_trained_on():
    subject = quick_subject()
    assert len(subject.answers) == 6
    assert len(subject.prompts) == 4
    for (prompt, answer), asked in zip(subject.answers, subject.prompts, strict=False):
        assert prompt == asked.token_ids
        assert (prompt[0], prompt[-1], answer[-1]) == (1, 3, 2)
        assert 3 not in answer
    assert all(text.count("<sep>") == 1 and text.endswith("</s>") for text in subject.calibration)


def test_calibration_and_measured_text_share_nothing():
    _check_disjoint(["a b"], ["a c"])
    with pytest.raises(AssertionError, match="1 texts"):
        _check_disjoint(["a  b", "x"], ["a b", "y"])


@pytest.mark.slow
def test_the_story_model_writes_its_own_text_and_calibration_never_sees_what_is_measured(shared_data):
    subject = subject_makers(shared_data)["stories260K"]()
    calibration = {prompt_sha256(text) for text in subject.calibration}
    assert len(calibration) == len(subject.calibration) == 32
    assert len(subject.answers) == 64
    assert len(subject.prompts) == 96
    assert all(prompt == (1,) for prompt, _ in subject.answers)
    # Text that is encoded again may come out a few tokens shorter than it was sampled.
    assert all(0.8 * SAMPLED_TOKENS < len(answer) <= SAMPLED_TOKENS + 8 for _, answer in subject.answers)
    assert "sampled from the model itself" in subject.text
