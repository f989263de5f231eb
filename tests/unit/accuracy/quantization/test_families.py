"""Every decoder family with plain linear layers runs from its store; what cannot be quantised is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from accuracy.linear import set_weight_bits, stored_widths
from accuracy.model import decoder_linears, load_model
from accuracy.quantization import NestedSettings, load_store, quantize
from hwsim.trace import InputError

TOKENS = torch.tensor([[1, 5, 9, 33, 60, 7]])
FAMILIES = (
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt_neox",
    "llama",
    "mistral",
    "opt",
    "phi",
    "phi3",
    "qwen2",
    "qwen3",
    "stablelm",
)
TIED = ("gemma", "gemma2", "gemma3_text", "opt")
WITH_BIAS = ("gpt_neox", "opt", "phi", "qwen2")


@torch.no_grad()
def logits(model: Any, bits: int = 16) -> torch.Tensor:
    set_weight_bits(model, bits)
    return model(TOKENS).logits


def generated(model: Any, bits: int = 16) -> torch.Tensor:
    set_weight_bits(model, bits)
    return model.generate(TOKENS, max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_runs_from_its_store(family: str, model_folder: Callable[..., Path], tmp_path: Path) -> None:
    source = load_model(model_folder(family)).model
    quantize(model_folder(family), tmp_path / "store", NestedSettings(2, 8), progress=False)
    ours = load_store(tmp_path / "store").model
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "store")
    expected = logits(source)
    for model in (ours, theirs):
        assert stored_widths(model) == (2, 3, 4, 5, 6, 7, 8, 16)
        assert torch.equal(logits(model, 16), expected)
        errors = {bits: float((logits(model, bits) - expected).norm() / expected.norm()) for bits in (2, 4, 8)}
        assert errors[2] > errors[4] > errors[8]
        # A row has at most 54 weights, so that hardly two of them share one of 256 centroids.
        assert errors[8] < 2e-3
    assert torch.equal(generated(ours, 16), generated(source))
    assert torch.equal(generated(ours, 2), generated(theirs, 2))
    assert (ours.get_input_embeddings().weight is ours.get_output_embeddings().weight) == (family in TIED)
    assert any(linear.bias is not None for linear in decoder_linears(source).values()) == (family in WITH_BIAS)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "phi3", "gpt_neox"])
def test_wide_matrices_approach_the_source_with_every_bit(
    family: str, model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    config = AutoConfig.from_pretrained(model_folder(family))
    config.update({"hidden_size": 600, "intermediate_size": 1102})
    torch.manual_seed(0)
    source = AutoModelForCausalLM.from_config(config)
    source.save_pretrained(tmp_path / "model")
    for file in model_folder(family).glob("tokenizer*"):
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    source = load_model(tmp_path / "model").model
    quantize(tmp_path / "model", tmp_path / "store", progress=False)
    nested = load_store(tmp_path / "store").model
    expected = logits(source)
    errors = {bits: float((logits(nested, bits) - expected).norm() / expected.norm()) for bits in (2, 4, 6, 8, 16)}
    assert all(after < before for before, after in pairwise(errors.values()))
    assert errors[8] < 0.02
    assert errors[16] < 0.001


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("gpt2", r"layer 'transformer\.h\.0\.attn\.c_attn' is a Conv1D"),
        ("mixtral", r"layer 'model\.layers\.0\.mlp\.gate' is a MixtralTopKRouter"),
        ("falcon", r"layer 'transformer\.h\.0\.self_attention\.query_key_value' is a FalconLinear"),
    ],
)
def test_layers_that_are_no_plain_linear_are_refused_by_name(family: str, message: str) -> None:
    config = AutoConfig.for_model(
        family, vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(InputError, match=message + ": only nn.Linear can be quantised"):
        decoder_linears(model)


@pytest.mark.parametrize("family", ["gpt2", "mixtral", "falcon", "bloom"])
def test_unknown_family_is_refused_before_anything_is_read_or_written(family: str, tmp_path: Path) -> None:
    AutoConfig.for_model(family).save_pretrained(tmp_path / "model")
    for use in (load_model, lambda folder: quantize(folder, tmp_path / "store", progress=False)):
        with pytest.raises(InputError, match=f"unknown model_type '{family}'.*known: gemma, ") as caught:
            use(tmp_path / "model")
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_model_without_decoder_blocks_is_refused() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2))
    model.config.num_hidden_layers = 3
    with pytest.raises(InputError, match="LlamaForCausalLM: no list of 3 decoder blocks found"):
        decoder_linears(model)
