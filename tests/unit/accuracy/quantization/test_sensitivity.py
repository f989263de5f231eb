from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from accuracy.model import decoder_linears, load_model
from accuracy.quantization.checkpoint import Checkpoint
from accuracy.quantization.sensitivity import fisher_sensitivity
from hwsim.trace import InputError

TEXTS = ["word1 word2 word3", "word9 word4 word4 word7 word5"]


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "opt", "gemma"])
def test_fisher_sensitivity_is_the_sum_of_squared_gradients_per_text(
    model_folder: Callable[..., Path], family: str
) -> None:
    language_model = load_model(model_folder(family))
    linears = decoder_linears(language_model.model)
    found = fisher_sensitivity(Checkpoint.open(model_folder(family)), TEXTS, progress=False)
    assert list(found) == list(linears)
    expected = {name: torch.zeros_like(value) for name, value in found.items()}
    for text in TEXTS:
        tokens = language_model.tokenizer(text, return_tensors="pt").input_ids
        logits = language_model.model(tokens).logits[0, :-1]
        loss = functional.cross_entropy(logits, tokens[0, 1:])
        gradients = torch.autograd.grad(loss, [linear.weight for linear in linears.values()])
        for name, gradient in zip(linears, gradients, strict=True):
            expected[name] += gradient**2
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name])
        assert value.max() > 0


def test_text_of_one_token_is_refused_by_number(model_folder: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="calibration text 1 has 1 tokens"):
        fisher_sensitivity(Checkpoint.open(model_folder()), [TEXTS[0], "word3"], progress=False)


def test_long_text_is_cut_to_the_context(model_folder: Callable[..., Path]) -> None:
    checkpoint = Checkpoint.open(model_folder("opt"))
    long, cut = " ".join(["word3 word5"] * 100), " ".join(["word3 word5"] * 32)
    found = fisher_sensitivity(checkpoint, [long], progress=False)
    expected = fisher_sensitivity(checkpoint, [cut], progress=False)
    assert all(torch.equal(found[name], expected[name]) for name in found)
