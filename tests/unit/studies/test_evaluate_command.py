"""``bittaper evaluate --metric perplexity`` at the command line."""

from __future__ import annotations

import json
import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from accuracy.reference import MODEL_FOLDER
from studies import cli

TEXT = "the baker sells bread at the market\nthe teacher buys two loaves\n" * 12


@pytest.fixture(scope="module")
def uniform(tmp_path_factory):
    """A model that gives every token of its vocabulary the same probability, and a text."""
    folder = tmp_path_factory.mktemp("uniform") / "model"
    vocabulary = json.loads((MODEL_FOLDER / "config.json").read_text())["vocab_size"]
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=128,
        )
    )
    with torch.no_grad():
        model.lm_head.weight.zero_()
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((MODEL_FOLDER / name).read_bytes())
    text = folder.parent / "text.txt"
    text.write_text(TEXT)
    return folder, text, vocabulary


def test_json_states_window_stride_and_all_three_normalisations(capsys, uniform):
    model, text, vocabulary = uniform
    argv = ["evaluate", "--model", str(model), "--metric", "perplexity", "--text", str(text)]
    assert cli.main([*argv, "--window", "64", "--stride", "16", "--quiet", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["window_tokens"], found["stride_tokens"]) == (64, 16)
    assert found["windows"] == 1 + math.ceil((found["tokens"] + 1 - 64) / 16)
    assert (found["words"], found["utf8_bytes"]) == (len(TEXT.split()), len(TEXT))
    assert set(found["normalisation"]) == {"perplexity_per_token", "perplexity_per_word", "bits_per_byte", "nll"}
    (width,) = found["widths"]
    assert width["weight_bits"] == 16
    assert width["perplexity_per_token"]["value"] == pytest.approx(vocabulary, rel=1e-5)
    per_word = vocabulary ** (found["tokens"] / len(TEXT.split()))
    assert width["perplexity_per_word"]["value"] == pytest.approx(per_word, rel=1e-4)
    assert width["bits_per_byte"]["value"] == pytest.approx(math.log2(vocabulary) * found["tokens"] / len(TEXT))


def test_the_table_says_how_it_was_normalised(capsys, uniform):
    model, text, vocabulary = uniform
    assert cli.main(["evaluate", "--model", str(model), "--metric", "perplexity", "--text", str(text), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "perplexity per token" in out
    assert f"{vocabulary}.00" in out
    assert f"{len(TEXT.split())} words (as white space parts them), {len(TEXT)} UTF-8 bytes" in out
    assert "windows of 128 tokens, stride 64" in out
