"""The study of the least bandwidth: its answers, what it says where there is none, its kept results."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from dse.quality_files import read_named_quality
from hwsim.trace import InputError, Schedule
from studies.pmpd_bandwidth.plot import savings_figure
from studies.pmpd_bandwidth.report import savings_text
from studies.pmpd_bandwidth.run import QUALITY, TASKS, Settings, family_of, make_cases, run_pmpd_bandwidth, saving_table

RESULTS = Path(__file__).parents[3] / "studies" / "pmpd_bandwidth" / "results"
NARROW = (8e9, 32e9, 28)  # 5% apart


@pytest.mark.parametrize(
    ("label", "family"),
    [("p3:3", "uniform"), ("p16:16", "uniform"), ("p3:2", "pmpd"), ("p3:3>2@85", "pmpd"), ("p4:3>2@9", "pmpd")],
)
def test_only_one_width_throughout_is_uniform(label: str, family: str) -> None:
    assert family_of(Schedule.from_label(label)) == family


def test_every_task_of_the_three_models_has_both_families() -> None:
    cases = make_cases(Settings(Path()), read_named_quality(QUALITY))
    assert [(case.model, case.task) for case in cases] == [
        *(("vicuna-7b", task) for task in TASKS),
        *(("mobilellama-1.4b", task) for task in TASKS),
        ("phi-1.5", "cnn-dm"),
        ("phi-1.5", "dialogsum"),
    ]
    assert cases[0].schedules == {"uniform": ("p2:2", "p3:3"), "pmpd": ("p3:3>2@85",)}


@pytest.mark.slow
def test_fewer_bits_at_the_same_quality_take_less_bandwidth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every answer runs on the event engine here; that 40 designs of each front do is the exact search's to test.
    monkeypatch.setattr("dse.confirm.CONFIRMATIONS", 1)
    settings = Settings(
        tmp_path, models=("mobilellama-1.4b",), targets_tokens_per_s=(15,), bandwidths=NARROW, progress=False
    )
    tables = run_pmpd_bandwidth(settings)
    answers = tables["answers"].set_index(["task", "loss", "family"])
    for task, load in TASKS.items():
        uniform, pmpd = answers.loc[(task, 0.02, "uniform")], answers.loc[(task, 0.02, "pmpd")]
        assert uniform["schedule"] == "p4:4"  # the paper's lossless width
        assert pmpd["bandwidth_bytes_per_s"] < uniform["bandwidth_bytes_per_s"], task
        for row in (uniform, pmpd):
            assert row["decode_tokens_per_s"] >= 15
            assert row["relative_quality"] >= 0.98
            assert row["events_tokens_per_s"] == pytest.approx(row["decode_tokens_per_s"], rel=1e-12)
        steps = Schedule.from_label(pmpd["schedule"]).mean_bits(load.decode_tokens)
        assert pmpd["mean_decode_bits"] == pytest.approx(steps)
    # Table 1 prints 12.6 BLEU for PMPD and 12.7 for 4 bits: a loss, however small.
    assert pd.isna(answers.loc[("iwslt-fr-en", 0.0, "pmpd")]["bandwidth_bytes_per_s"])
    assert "relative_quality >= 1 binds" in answers.loc[("iwslt-fr-en", 0.0, "pmpd")]["binding"]
    again = run_pmpd_bandwidth(settings)
    pd.testing.assert_frame_equal(again["answers"], tables["answers"])


def rows(family: str, bandwidth: float | None) -> dict[str, object]:
    key = {"model": "m", "task": "t", "target_tokens_per_s": 15.0, "loss": 0.0}
    return {**key, "family": family, "bandwidth_bytes_per_s": bandwidth, "schedule": bandwidth and "p3:3"}


def test_the_saving_is_a_share_of_what_uniform_widths_need() -> None:
    table = saving_table(pd.DataFrame([rows("uniform", 50e9), rows("pmpd", 40e9)]))
    assert table["saving"].tolist() == [pytest.approx(0.2)]
    assert savings_text(table).splitlines()[-1].split()[-5:] == ["50", "(p3:3)", "40", "(p3:3)", "20%"]


def test_where_pmpd_loses_quality_there_is_no_saving_and_the_figure_says_so() -> None:
    table = saving_table(pd.DataFrame([rows("uniform", 50e9), rows("pmpd", None)]))
    assert table["saving"].isna().all()
    assert "none" in savings_text(table)
    texts = [text.get_text() for axes in savings_figure(table).axes for text in axes.texts]
    assert texts == ["PMPD: none"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"models": ("vicuna-8b",)}, "vicuna-7b"),
        ({"targets_tokens_per_s": (0.0,)}, "target = 0 tokens/s: must be > 0"),
        ({"losses": (1.0,)}, "loss = 1: must be a share"),
    ],
)
def test_what_cannot_be_asked_is_refused(tmp_path: Path, changes: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        run_pmpd_bandwidth(Settings(tmp_path, progress=False, **changes))  # type: ignore[arg-type]


def test_kept_results_are_of_this_study_and_proved() -> None:
    numbers = json.loads((RESULTS / "pmpd_bandwidth.json").read_text())
    assert numbers["settings"]["tasks"] == {name: vars(load) for name, load in TASKS.items()}
    assert all(certificate["complete"] for certificate in numbers["certificates"].values())
    answers = pd.read_csv(RESULTS / "answers.csv")
    found = answers[answers["bandwidth_bytes_per_s"].notna()]
    assert (found["decode_tokens_per_s"] >= found["target_tokens_per_s"]).all()
    assert (found["events_tokens_per_s"] - found["decode_tokens_per_s"]).abs().max() < 1e-4
    kept = pd.read_csv(RESULTS / "savings.csv")
    pd.testing.assert_frame_equal(kept, saving_table(answers), rtol=1e-6)
