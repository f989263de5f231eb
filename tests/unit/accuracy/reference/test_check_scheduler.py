"""What the check of the shipped scheduler measures, on a few validation prompts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from accuracy.quantization import load_store, quantize
from accuracy.reference import MODEL_FOLDER, examples
from accuracy.reference import check_scheduler as module
from accuracy.reference.check import Check
from accuracy.scheduler_training.comparison import ORACLE, PRIOR, always
from accuracy.schedulers.static import StaticScheduler
from hwsim.trace import Schedule

N = 6


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    store = quantize(MODEL_FOLDER, tmp_path_factory.mktemp("check") / "store", progress=False)
    return load_store(store.folder)


def test_the_learned_row_is_what_decoding_by_its_choices_gives(lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    class Kept(Check):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            runs.append(self)

    monkeypatch.setattr(module, "Check", Kept)
    result = module.check_scheduler(lm, examples("val", N))
    rows = {one["policy"]: one for one in result["policies"]}
    (run,) = runs
    responses = run.responses["learned"]
    scores = [module.get_metric("rouge_l").statistics(*pair)[0] for pair in _pairs(responses, examples("val", N))]
    bits = [width for response in responses for width in response.decode_weight_bits]
    assert rows["learned"]["score"]["value"] == pytest.approx(sum(scores) / N)
    assert rows["learned"]["mean_bits"]["value"] == pytest.approx(sum(bits) / len(bits))
    assert rows["learned"]["score"]["n"] == N == sum(result["chosen_counts"])
    assert list(rows) == ["learned", PRIOR, "random-uniform", *map(always, range(4)), ORACLE]
    assert result["schedules"] == ["p4:2", "p4:4>2@32", "p4:4>2@63", "p4:4"]


def _pairs(responses: Any, chosen: Any) -> Any:
    from accuracy.metrics import Reference

    return [(one, Reference(example.reference, None)) for one, example in zip(responses, chosen, strict=True)]


def test_the_label_is_the_class_of_fewest_bits_that_is_as_good_as_the_last(lm: Any) -> None:
    run = Check(lm, examples("val", N), 32)
    labels = ("p4:2", "p4:4")
    run.decode(
        "two", run.prompts, {always(i): StaticScheduler(Schedule.from_label(label)) for i, label in enumerate(labels)}
    )
    outcomes = module.outcomes_of(run, 2)
    wanted = [0 if low >= high else 1 for low, high in outcomes.scores]
    assert list(outcomes.labels) == wanted
    steps = [len(response.decode_weight_bits) for response in run.responses[always(0)]]
    assert outcomes.decode_steps[:, 0].tolist() == steps
    assert np.array_equal(outcomes.decode_bits[:, 0], 2 * outcomes.decode_steps[:, 0])
    assert np.array_equal(outcomes.decode_bits[:, 1], 4 * outcomes.decode_steps[:, 1])


def test_the_result_says_what_it_was_measured_on(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "check.json"
    module.main(["--split", "val", "--prompts", "4", "--out", str(out)])
    result = json.loads(out.read_text())
    assert (result["split"], result["n"], result["task"]) == ("val", 4, "selvic")
    assert result["provenance"]["device"] == "cpu" and result["provenance"]["threads"] == "1"
    assert f"written to {out}" in capsys.readouterr().out
