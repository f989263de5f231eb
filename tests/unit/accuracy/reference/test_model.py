"""The shipped weights: size, and quality on a few validation prompts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from transformers import AutoModelForCausalLM, AutoTokenizer

from accuracy.reference import MAX_NEW_TOKENS, MODEL_FOLDER, encode_prompt, examples

ROUGE_L_FLOOR = 0.85


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(MODEL_FOLDER, dtype=torch.float32).eval()


def test_model_and_tokenizer_fit_the_size_promised(model: Any) -> None:
    assert 1e6 <= model.num_parameters() <= 5e6
    assert sum(file.stat().st_size for file in MODEL_FOLDER.iterdir()) <= 12e6


def test_quantised_rows_are_long_and_a_multiple_of_32(model: Any) -> None:
    # A row of K weights carries 2**b fp16 centroids: at 4 bits and K = 192 that is 1.3 bits per weight.
    linears = [part for name, part in model.named_modules() if isinstance(part, torch.nn.Linear) and "layers" in name]
    assert linears
    assert all(linear.in_features % 32 == 0 and linear.in_features >= 192 for linear in linears)


@pytest.mark.slow
def test_translations_of_validation_prompts_stay_above_the_recorded_floor(model: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL_FOLDER)
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    scores = []
    for example in examples("val", 16):
        prompt = torch.tensor([encode_prompt(tokenizer, example.prompt)])
        with torch.inference_mode():
            ids = model.generate(prompt, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)[0, prompt.shape[1] :]
        assert ids[-1] == tokenizer.eos_token_id
        written = tokenizer.decode(ids, skip_special_tokens=True)
        scores.append(scorer.score(example.reference, written)["rougeL"].fmeasure)
    assert sum(scores) / len(scores) > ROUGE_L_FLOOR
