from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from accuracy.decoding import Decoder, Prompt
from accuracy.precision import PrecisionSwitch
from accuracy.schedulers import UniformScheduler

from .conftest import EOS, language_model

SIZES = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "eos_token_id": EOS}
SMALL = {"intermediate_size": 48, "max_position_embeddings": 64, "num_key_value_heads": 4, "bos_token_id": 1}
FAMILIES = {
    "llama": SMALL,
    "mistral": SMALL | {"sliding_window": 8, "num_key_value_heads": 2},
    "qwen2": SMALL,
    "qwen3": SMALL | {"head_dim": 16},
    "gemma2": SMALL | {"head_dim": 8, "sliding_window": 8},
    "phi": SMALL,
    "phi3": SMALL | {"pad_token_id": 0},
    "gpt_neox": SMALL,
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
    "stablelm": SMALL,
    "gpt2": {"max_position_embeddings": 64},
    "gptj": {"rotary_dim": 4},
    "falcon": {},
    "bloom": {},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 3, "max_seq_len": 64},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_our_own_loop_gives_the_tokens_of_generate_alone_and_in_a_padded_batch(family):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES, **FAMILIES[family])).eval()
    with torch.no_grad():
        # As drawn, the weights hardly move the logits, and every family would repeat one token.
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8)
    model.generation_config.eos_token_id = EOS
    lm = language_model(model, 40, 64)
    prompts = [Prompt(f"p{n}", tuple(torch.randint(3, 40, (n,)).tolist()), 24) for n in (3, 12, 7, 1)]
    decoder = Decoder(lm, PrecisionSwitch(model, (16,), lambda model, bits: None))
    alone = [response.tokens for response in decoder.decode(prompts, UniformScheduler(16))]
    assert [response.tokens for response in decoder.decode(prompts, UniformScheduler(16), 4)] == alone
    for prompt, tokens in zip(prompts, alone, strict=True):
        ids = torch.tensor([prompt.token_ids])
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, pad_token_id=0
        )
        assert tuple(expected[0, ids.shape[1] :].tolist()) == tokens
    assert len({token for tokens in alone for token in tokens}) > 2
