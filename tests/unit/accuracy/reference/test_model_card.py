"""The model card says what the kept checks of the shipped weights measured, to the last digit shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from accuracy.model import weights_sha256
from accuracy.reference import MODEL_FOLDER, SCHEDULER_FOLDER, TASK_VERSION
from accuracy.scheduler_training.checkpoint import load_checkpoint

FOLDER = MODEL_FOLDER.parent
CARD = " ".join((FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8").replace("**", "").split())
CHECK, SCHEDULER = (
    json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")) for name in ("check-test", "check-scheduler-test")
)


def in_words(interval: dict[str, float]) -> str:
    return f"{interval['value']:+.2f} [{interval['low']:+.2f}, {interval['high']:+.2f}]"


def difference(ours: str, theirs: str, metric: str = "bleu") -> dict[str, float]:
    (found,) = (
        one["difference"]
        for one in CHECK["comparisons"]
        if (one["ours"], one["theirs"], one["metric"]) == (ours, theirs, metric)
    )
    return found


@pytest.mark.parametrize("result", [CHECK, SCHEDULER], ids=["check", "scheduler"])
def test_a_kept_check_is_of_the_shipped_weights_and_of_a_clean_commit(result: dict[str, Any]) -> None:
    config, _ = load_checkpoint(SCHEDULER_FOLDER)
    assert result["model_sha256"] == weights_sha256(MODEL_FOLDER)
    # One store, the one that the shipped scheduler belongs to.
    assert result["store_sha256"] == config.store_sha256
    assert (result["task_version"], result["split"], result["n"]) == (TASK_VERSION, "test", 320)
    assert "dirty" not in result["provenance"]["commit"] and result["provenance"]["commit"] != "unknown"
    assert f"test split, n = {result['n']}" in CARD.lower()


def test_the_widths_called_lossless_are() -> None:
    def lossless(metric: str) -> list[int]:
        full = {one["schedule"]: one[metric]["value"] for one in CHECK["scores"]}["16"]
        return [bits for bits in (8, 6, 5, 4, 3, 2) if difference(str(bits), "16", metric)["low"] > -full / 100]

    assert lossless("rouge_l") == CHECK["lossless_widths"] == [8, 6, 5, 4, 3]
    assert lossless("bleu") == [8, 6, 5, 4]
    assert "8, 6, 5 and 4 bits; 3 bits on Rouge-L but not on BLEU. 2 bits are clearly worse." in CARD


@pytest.mark.parametrize(("high", "low"), [(3, 2), (4, 2), (4, 3)])
def test_what_the_precision_of_the_prefill_does(high: int, low: int) -> None:
    gain = difference(f"prefill {high} decode {low}", str(low))
    loss = difference(f"prefill {low} decode {high}", str(high))
    unit = " bits" if (high, low) == (3, 2) else ""
    assert f"{high} before {low}{unit} {in_words(gain)}" in CARD
    assert f"{-loss['value']:.2f} ({low} before {high})" in CARD
    # "More than that of decoding": a precise prefill alone beats precise decoding alone.
    scores = {one["schedule"]: one["bleu"]["value"] for one in CHECK["scores"]}
    assert scores[f"prefill {high} decode {low}"] > scores[f"prefill {low} decode {high}"]
    assert gain["low"] > 0 > loss["high"]


@pytest.mark.parametrize("pair", ["3/2", "4/3", "4/2"])
def test_high_bits_first_or_last_makes_no_difference_that_is_resolved(pair: str) -> None:
    found = difference(f"first-half {pair}", f"last-half {pair}")
    assert f"{pair} {in_words(found)}" in CARD
    assert found["low"] < 0 < found["high"]


def test_what_the_learned_scheduler_is_worth_on_the_reported_domains() -> None:
    policies = {one["policy"]: one for one in SCHEDULER["policies"]}
    rows = {
        "learned": "learned",
        "random-prior": "random-prior",
        "always class 0": "always 2 bits",
        "always class 3": "always 4 bits",
        "oracle": "oracle (knows which is good enough)",
    }
    for name, row in rows.items():
        score, bits = policies[name]["score"], policies[name]["mean_bits"]["value"]
        over = policies[name]["over_prior_at_equal_bits"]
        last = f"{in_words(over)} |" if name == "learned" else "|"
        assert f"| {row} | {score['value']:.2f} [{score['low']:.2f}, {score['high']:.2f}] | {bits:.3f} | {last}" in CARD
    assert policies["learned"]["over_prior_at_equal_bits"]["low"] < 0  # "that is not shown"
    assert f"2 bits throughout for {SCHEDULER['chosen_counts'][0]} of the {SCHEDULER['n']} prompts" in CARD
    assert SCHEDULER["schedules"] == ["p4:2", "p4:4>2@32", "p4:4>2@63", "p4:4"]
