"""Small models for the decoding tests: random Llamas with a fake width switch, and models of fixed logits."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from accuracy.decoding import Decoder
from accuracy.model import LanguageModel
from accuracy.precision import PrecisionSwitch
from hwsim.trace import shape_from_config

EOS = 2
WIDTHS = (2, 3, 4, 16)


class LetterTokenizer:
    """Token i is the word ``t<i>``; ids below 3 are special."""

    clean_up_tokenization_spaces = False
    all_special_ids = (0, 1, 2)

    def convert_ids_to_tokens(self, i):
        return f"t{i}"

    def decode(self, ids, skip_special_tokens=False):
        return " ".join(f"t{i}" for i in ids if i > 2 or not skip_special_tokens)

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [1] * add_special_tokens + [int(word[1:]) for word in text.split()]}


def language_model(model: nn.Module, vocab: int, context: int) -> LanguageModel:
    config = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "vocab_size": vocab,
        "max_position_embeddings": context,
    }
    return LanguageModel(
        model=model,
        tokenizer=LetterTokenizer(),
        shape=shape_from_config(config, "tiny"),
        name="tiny",
        config_sha256="0" * 64,
        model_sha256="1" * 64,
        store_sha256="2" * 64,
    )


def tiny_llama(seed: int = 0, vocab: int = 61, context: int = 96) -> LanguageModel:
    """A random Llama whose greedy responses vary and sometimes end with EOS."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        eos_token_id=EOS,
        bos_token_id=1,
        pad_token_id=None,
        initializer_range=0.6,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight[EOS] *= 1.2
    return language_model(model, vocab, context)


class FakeSwitch(PrecisionSwitch):
    """Plays quantisation by adding a noise of 2^-bits to the weights; counts how often it is applied."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, WIDTHS, self._noise)
        self.applied: list[int] = []
        generator = torch.Generator().manual_seed(7)
        self._clean = {
            name: (weight.detach().clone(), torch.randn(weight.shape, generator=generator))
            for name, weight in model.named_parameters()
            if "layers" in name and weight.dim() == 2
        }

    def _noise(self, model: nn.Module, bits: int) -> None:
        self.applied.append(bits)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name in self._clean:
                    clean, noise = self._clean[name]
                    weight.copy_(clean + noise * (0.0 if bits == 16 else 0.8 * 2.0**-bits))


class FixedLogits(nn.Module):
    """Says the next token as a function of the position to be filled and the width in use."""

    def __init__(self, next_token, vocab: int = 16, eos: int | list[int] | None = EOS) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.layers = nn.ModuleList([nn.Identity()])
        self.config = SimpleNamespace(num_hidden_layers=1)
        self.generation_config = GenerationConfig(eos_token_id=eos)
        self.next_token, self.vocab, self.bits = next_token, vocab, 16

    def forward(self, input_ids, position_ids, past_key_values, **_):
        batch, length = input_ids.shape
        states = self.layers[0](torch.full((batch, 1, length, 1), float(self.bits)))
        past_key_values.update(states, states, 0)
        logits = torch.zeros(batch, 1, self.vocab)
        for row in range(batch):
            logits[row, 0, self.next_token(int(position_ids[row, -1]) + 1, self.bits)] = 1.0
        return CausalLMOutputWithPast(logits=logits)


def fixed_decoder(next_token, context: int = 64, eos: int | list[int] | None = EOS) -> Decoder:
    model = FixedLogits(next_token, eos=eos)
    switch = PrecisionSwitch(model, WIDTHS, lambda fake, bits: setattr(fake, "bits", bits))
    return Decoder(language_model(model, model.vocab, context), switch)


@pytest.fixture
def tiny() -> LanguageModel:
    return tiny_llama()
