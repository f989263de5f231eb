from __future__ import annotations

import json
from pathlib import Path

from accuracy.model import weights_sha256
from accuracy.reference import MAX_NEW_TOKENS, MODEL_FOLDER, SCHEDULER_DOMAIN, SCHEDULER_FOLDER
from accuracy.scheduler_training.checkpoint import load_checkpoint

REPORT = json.loads((SCHEDULER_FOLDER / "report.json").read_text(encoding="utf-8"))
CARD = (Path(MODEL_FOLDER).parent / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_the_shipped_scheduler_belongs_to_the_shipped_model_and_its_own_domain() -> None:
    config, classifier = load_checkpoint(SCHEDULER_FOLDER)
    assert config.model_sha256 == weights_sha256(MODEL_FOLDER) == REPORT["model_sha256"]
    assert config.store_sha256 == REPORT["store_sha256"]
    assert (config.widths, config.points, config.max_new_tokens) == ((4, 2), 4, MAX_NEW_TOKENS)
    assert SCHEDULER_DOMAIN in config.training_text
    assert config.seed == REPORT["kept_seed"]
    assert sum(weight.numel() for weight in classifier.parameters()) == REPORT["cost"]["parameters"] == 4612
    assert "dirty" not in config.provenance["commit"]


def test_the_model_card_says_what_the_training_measured() -> None:
    comparison = REPORT["comparison"]
    policies = {one["policy"]: one for one in comparison["policies"]}
    assert f"On {comparison['n']} held-out prompts" in CARD
    for name, row in {
        "learned": "learned",
        "random-prior": "random-prior",
        "always class 0": "always 2 bits",
        "always class 3": "always 4 bits",
        "oracle": "oracle (knows the label)",
    }.items():
        values = [policies[name][column]["value"] for column in ("accuracy", "score", "mean_bits")]
        assert f"| {row} | {values[0]:.3f} | {values[1]:.2f} | {values[2]:.3f} |" in CARD
    over = policies["learned"]["over_prior_at_equal_bits"]
    assert f"{over['value']:+.2f} [{over['low']:+.2f}, {over['high']:+.2f}] |" in CARD
