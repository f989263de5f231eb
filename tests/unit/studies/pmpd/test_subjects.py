import pytest

from studies.pmpd.subjects import quick_subject, subject_makers


def test_the_shipped_model_tunes_learns_and_reports_on_prompts_that_differ():
    subject = quick_subject()
    subject.check_disjoint()
    assert {one.id.split("-")[1] for one in subject.learn.examples("calib", 9)} == {"harbour"}
    assert all("<sep>" in text for text in subject.calibration()[:3])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["m30k-fren-2M", "fren-paragraphs-4M", "stories260K"])
def test_real_models_tune_learn_and_report_on_prompts_that_differ(name, shared_data):
    subject = subject_makers(shared_data)[name]()
    subject.check_disjoint()
    reported = len(subject.report.examples("test", subject.report_prompts))
    assert reported == {"m30k-fren-2M": 1000, "fren-paragraphs-4M": 741, "stories260K": 320}[name]
