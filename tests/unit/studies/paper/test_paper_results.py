"""What single results compute, held against closed forms and the files that they read."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsim import load_shape
from hwsim.trace import InputError, write_json
from studies.paper import figure5, gpu, table5
from studies.paper.figure2 import MARK, divergence, marked, methods
from studies.paper.files import write_result
from studies.paper.report import sample_tables
from studies.paper.result import Request
from studies.paper.small_models import SHARE, claim_comparisons, found_of, measurements, settings_of
from studies.paper.text import CASE

CLAIM = "high bits first, not last-half"


@given(st.text(alphabet="ab ", max_size=12), st.text(alphabet="ab ", max_size=12))
def test_a_text_is_marked_where_it_leaves_its_reference_and_nowhere_else(text: str, reference: str) -> None:
    place = divergence(text, reference)
    if place is None:
        assert text == reference
        assert marked(text, reference) == " ".join(text.split())
    else:
        assert text[:place] == reference[:place]
        assert text[place : place + 1] != reference[place : place + 1]
        assert marked(text, reference).count(MARK.strip()) == 1


def test_a_prompt_is_answered_under_every_width_a_high_prefill_and_pmpd() -> None:
    labels = {name: one.label() for name, one in methods(128).items()}
    assert labels == {
        "full precision": "p16:16",
        "4 bits": "p4:4",
        "3 bits": "p3:3",
        "2 bits": "p2:2",
        "prefill 4, decode 3": "p4:3",
        "PMPD 4 then 3": "p4:4>3@42",
        "prefill 3, decode 2": "p3:2",
        "PMPD 3 then 2": "p3:3>2@42",
    }


def write_run(folder: Path, verdicts: dict[str, str]) -> None:
    """A finished run of the small models with one claim, and a second metric that does not decide."""
    keys = {"experiment": "fig3", "pair": "4/3", "n": 5, "seed": 0, "ci_low": -1.0, "ci_high": 2.0}
    scores = [
        {**keys, "model": model, "method": "first-half", "metric": metric, "value": 1.0}
        for model in verdicts
        for metric in ("bleu", "rouge_l")
    ]
    comparisons = [
        {
            **keys, "model": model, "claim": CLAIM, "method": "first-half", "against": "last-half", "metric": metric,
            "relative": False, "value": 0.5, "verdict": verdict if metric == "bleu" else "holds",
        }
        for model, verdict in verdicts.items()
        for metric in ("bleu", "rouge_l")
    ]  # fmt: skip
    pd.DataFrame(scores).to_csv(folder / "scores.csv", index=False)
    pd.DataFrame(comparisons).to_csv(folder / "comparisons.csv", index=False)
    models = {
        model: {"settings": {"report": "r"}, "provenance": {"commit": "c"}, "cpu_seconds": 2.0} for model in verdicts
    }
    write_json(folder / "manifest.json", {"models": models})


def test_a_claim_is_counted_over_the_models_by_their_deciding_metric(tmp_path: Path) -> None:
    write_run(tmp_path, {"a": "holds", "b": "not resolved", "c": "contradicted", "d": "holds"})
    measured = measurements(Request(tmp_path, pmpd=tmp_path), "fig3")
    share, *cases = claim_comparisons(measured, CLAIM, paper_basis="Phi")
    assert (share.unit, share.paper, share.ours, share.n, share.headline) == (SHARE, 1.0, 0.5, 4, True)
    assert share.our_basis == "holds in 2, not resolved in 1, contradicted in 1 of 4 pairs of model and widths"
    assert [(one.ours, one.unit, one.n) for one in cases] == [(0.5, "bleu points", 5)] * 4
    assert list(claim_comparisons(measured, "no such claim", paper_basis="")) == []


@pytest.mark.parametrize(("models", "shown"), [(("a",), True), (("a", "b"), False)])
def test_a_short_table_of_one_model_shows_its_cases_and_of_several_their_share(
    tmp_path: Path, models: tuple[str, ...], shown: bool
) -> None:
    write_run(tmp_path, dict.fromkeys(models, "holds"))
    measured = measurements(Request(tmp_path, pmpd=tmp_path), "fig3")
    share, *cases = claim_comparisons(measured, CLAIM, paper_basis="Phi")
    assert share.headline
    assert [one.headline for one in cases] == [shown] * len(models)


def test_what_the_realistic_mode_reads_besides_is_told_apart_in_bytes() -> None:
    row = {"dataset": "CNN/DM", "model": "Vicuna-7B", "published_speedup": 5.0, "analytic_speedup": 5.0}
    details = [row | {"mean_decode_weight_bits": bits, "realistic_speedup": 4.0} for bits in (16.0, 2.0)]
    baseline, two = (next(iter(figure5.causes([one], {"CNN/DM": 0}))) for one in details)
    assert baseline["and lm_head at 16 bits"] == 0, "what is added to both steps alike leaves their ratio"
    shape = load_shape("vicuna-7b")
    linear, head = shape.linear_weights(), shape.hidden_size * shape.vocab_size
    assert two["and lm_head at 16 bits"] == pytest.approx((1 + head / linear) / (1 + 8 * head / linear) - 1)
    outputs = shape.layers * (4 * shape.hidden_size + 2 * shape.ffn_size + shape.hidden_size)
    with_codebooks = (1 + head / linear) / (1 + (8 * head + 4 * 8 * outputs) / linear)
    assert two["and codebooks"] == pytest.approx(with_codebooks - 1)
    assert two["realistic"] == pytest.approx(-0.2)


def test_what_the_run_could_not_measure_is_said_with_the_result(tmp_path: Path) -> None:
    write_run(tmp_path, {"a": "holds"})
    rows = [{"model": "a", "experiment": name, "pair": "4/3", "note": f"no {name}"} for name in ("fig3", "table1")]
    pd.DataFrame(rows).to_csv(tmp_path / "notes.csv", index=False)
    found = found_of(measurements(Request(tmp_path, pmpd=tmp_path), "fig3"))
    assert found.facts["notes"] == ["a, 4/3 bits: no fig3"]


@pytest.mark.parametrize("name", ["scores.csv", "comparisons.csv", "manifest.json", "notes.csv"])
def test_a_result_is_made_anew_when_any_file_of_the_run_that_it_was_read_from_changed(
    tmp_path: Path, name: str
) -> None:
    write_run(tmp_path, {"a": "holds"})
    request = Request(tmp_path, pmpd=tmp_path)
    before = settings_of(request, "fig3")
    assert settings_of(request, "fig3") == before
    path = tmp_path / name
    path.write_text((path.read_text() if path.is_file() else "model,experiment,pair,note") + "\n")
    assert settings_of(request, "fig3") != before


def test_what_is_read_of_a_run_is_what_its_result_is_kept_by(tmp_path: Path) -> None:
    write_run(tmp_path, {"a": "holds"})
    for other in ("searches.csv", "notes.csv"):
        (tmp_path / other).write_text("model,experiment,pair,note\n")
    opened = set()
    listening = True  # a hook cannot be taken away again

    def note(event: str, args: tuple[object, ...]) -> None:
        if listening and event == "open" and str(args[0]).startswith(str(tmp_path)):
            opened.add(Path(str(args[0])).name)

    sys.addaudithook(note)
    found_of(measurements(Request(tmp_path, pmpd=tmp_path), "fig3"))
    listening = False
    assert opened == set(settings_of(Request(tmp_path, pmpd=tmp_path), "fig3")["run_sha256"])


@pytest.mark.parametrize("name", ["comparisons.csv", "manifest.json"])
def test_a_run_that_lacks_a_file_is_refused(tmp_path: Path, name: str) -> None:
    write_run(tmp_path, {"a": "holds"})
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"holds no {name}; give the results of bittaper study pmpd"):
        settings_of(Request(tmp_path, pmpd=tmp_path), "fig3")


def test_a_run_without_the_result_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, {"a": "holds"})
    with pytest.raises(InputError, match="holds no table9"):
        measurements(Request(tmp_path, pmpd=tmp_path), "table9")


def test_table_3_follows_from_tables_7_and_8_but_for_one_entry(tmp_path: Path) -> None:
    found = gpu.compute_layers(Request(tmp_path))
    assert found.facts["entries"] == 32
    assert found.facts["agree_within_0.01"] == 31
    agree, differ, *_ = (one for one in found.comparisons if one.headline)
    assert (agree.n, differ.n) == (31, 1)
    assert agree.ours is not None
    assert agree.ours < 0.0101
    assert differ.ours == pytest.approx(5 / 3.34 - 1.40)


def test_table_6_is_predicted_on_the_a40_only(tmp_path: Path) -> None:
    found = gpu.compute_end_to_end(Request(tmp_path))
    predicted = [one for one in found.comparisons if one.case != CASE]
    assert len(predicted) == 8
    for one in predicted:
        assert one.difference is not None
        if one.case.startswith("A40"):
            assert abs(one.difference / one.paper) < 0.025


@pytest.mark.slow
def test_fig_5_has_all_18_labels_in_both_modes(tmp_path: Path) -> None:
    found = figure5.compute(Request(tmp_path))
    labels = [one for one in found.comparisons if not one.headline]
    assert len(labels) == 2 * 18
    ideal, real = found.tables["modes"]
    assert (ideal["n"], real["n"]) == (18, 18)
    assert ideal["rms_error"] < 0.01
    # What does not shrink with the bits makes every speed-up smaller.
    assert real["largest_error"] < 0


@pytest.mark.slow
def test_table_5_simulates_what_it_quotes(tmp_path: Path) -> None:
    rows = table5.compute(Request(tmp_path)).tables["runs"]
    assert len(rows) == 2 * 3 * 2 * 2 * 4
    by_key = {(row["model"], row["task"], row["npu"], row["mode"], row["schedule"]): row for row in rows}
    for (*key, schedule), row in by_key.items():
        assert (row["quality"] is None) == (schedule == "p16:16")
        if schedule not in {"p16:16", "p2:2"}:
            assert row["decode_tokens_per_s"] > by_key[(*key, "p16:16")]["decode_tokens_per_s"]
    where = ("longchat-13b", "dialogsum", "pmpd-16k", "realistic")
    assert by_key[(*where, "p3:2")]["decode_tokens_per_s"] == by_key[(*where, "p2:2")]["decode_tokens_per_s"]
    assert by_key[(*where, "p3:2")]["ttft_s"] >= by_key[(*where, "p2:2")]["ttft_s"]


def test_the_figure_of_table_3_shows_its_32_entries_and_no_summary_on_their_axis(tmp_path: Path) -> None:
    write_result(tmp_path, gpu.TABLE3, {}, gpu.compute_layers(Request(tmp_path)), seconds=0, cpu_seconds=0)
    gpu.TABLE3.draw(tmp_path, "table-3")
    drawing = (tmp_path / "table-3.svg").read_text()
    assert sum(drawing.count(f"{name}, ") for name in ("RTX 4090", "A40")) >= 32
    assert "entries that" not in drawing


def test_the_first_sample_of_a_result_and_model_is_unfolded() -> None:
    row = {"metric": "rouge_l", "method": "2 bits", "score": 1.0, "marked": "t", "prompt": "p"}
    cases = [("Fig. 2", "a", "gain"), ("Fig. 2", "a", "loss"), ("A.8", "a", "other gain"), ("Fig. 2", "b", "gain")]
    rows = [{**row, "result": result, "model": model, "chosen": chosen} for result, model, chosen in cases]
    assert [table.collapsed for table in sample_tables(rows)] == [False, True, False, False]


def test_the_speeds_that_the_text_exceeds_stand_beside_the_least_of_ours() -> None:
    speeds = [
        {"mode": mode, "model": model, "decode_tokens_per_s": speed}
        for mode in figure5.MODES.values()
        for model, speed in (("vicuna-7b", 14.0), ("vicuna-7b", 19.0), ("phi-1.5", 47.7), ("mobilellama-1.4b", 65.0))
    ]
    found = {(one.case, one.paper): (one.ours, one.n, one.difference) for one in figure5._speed_headlines(speeds)}
    assert found == {
        (f"{model}, {mode}", bound): (least, 2, None)
        for model, bound, least in (("vicuna-7b", 15.0, 14.0), ("mobile-grade models", 50.0, 47.7))
        for mode in ("pmpd-analytic", "realistic")
    }
