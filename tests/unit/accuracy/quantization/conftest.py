"""Tiny random models, saved as transformers saves real ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

if not torch.cuda.is_available():
    # Kernels run in Triton's CPU interpreter where there is no GPU.
    os.environ["TRITON_INTERPRET"] = "1"

WORDS = ["<unk>", "<s>", "</s>", *(f"word{index}" for index in range(61))]

# One small configuration per decoder family; odd sizes on purpose.
FAMILIES: dict[str, dict[str, object]] = {
    "llama": {"num_key_value_heads": 1, "intermediate_size": 50},
    "mistral": {"num_key_value_heads": 1, "intermediate_size": 50},
    "qwen2": {"num_key_value_heads": 1, "intermediate_size": 50},
    "qwen3": {"num_key_value_heads": 1, "intermediate_size": 50, "head_dim": 14},
    "phi": {"intermediate_size": 50, "partial_rotary_factor": 1.0},
    "phi3": {"num_key_value_heads": 1, "intermediate_size": 50},
    "stablelm": {"num_key_value_heads": 1, "intermediate_size": 50, "partial_rotary_factor": 1.0},
    "gemma": {"num_key_value_heads": 1, "intermediate_size": 50, "head_dim": 14},
    "gemma2": {"num_key_value_heads": 1, "intermediate_size": 50, "head_dim": 14},
    "gemma3_text": {"num_key_value_heads": 1, "intermediate_size": 50, "head_dim": 14},
    "gpt_neox": {"intermediate_size": 50, "rotary_pct": 1.0},
    "opt": {"ffn_dim": 50, "word_embed_proj_dim": 36},
}


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make (once per name) the folder of a tiny random model of a family, with a word tokenizer."""
    made: dict[str, Path] = {}

    def make(family: str = "llama") -> Path:
        if family not in made:
            made[family] = _save(family, tmp_path_factory.mktemp(f"tiny-{family}"))
        return made[family]

    return make


def _save(family: str, folder: Path) -> Path:
    config = AutoConfig.for_model(
        family,
        vocab_size=len(WORDS),
        hidden_size=36,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
        **FAMILIES[family],
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        # transformers starts biases at zero and weights so small that every output looks alike.
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
            # Numbers that width 16 keeps exactly.
            parameter.copy_(parameter.half())
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(folder)
    return folder
