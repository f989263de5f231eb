"""The reference task's tokenizer: how it is made, and the token form of a prompt."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accuracy.reference.names import SYLLABLE_MARK
from hwsim.trace import write_json, write_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, BOS, EOS, SEP, UNK = "<pad>", "<s>", "</s>", "<sep>", "<unk>"
SPECIAL_TOKENS = (PAD, BOS, EOS, SEP, UNK)
"""Special tokens in the order of their ids, which start at 0."""
VOCABULARY_SIZE = 1280


def special_id(token: str) -> int:
    """Return the id of a special token."""
    return SPECIAL_TOKENS.index(token)


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """Encode a prompt in the form the model was trained on: ``<s> prompt <sep>``.

    The model then writes the translation and ``</s>``. The template is part of tokenizer.json, so that
    ``tokenizer(prompt).input_ids`` of any Hugging Face program is the same.
    """
    ids: list[int] = tokenizer(prompt)["input_ids"]
    return ids


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Train a BPE tokenizer on text, with the prompt template built in."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Split(SYLLABLE_MARK, "merged_with_next")]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY_SIZE, special_tokens=list(SPECIAL_TOKENS), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {SEP}", special_tokens=[(BOS, special_id(BOS)), (SEP, special_id(SEP))]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and a tokenizer_config.json that `AutoTokenizer` of transformers 5 loads."""
    text = json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, indent=1)
    write_text(folder / "tokenizer.json", text + "\n")
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": PAD,
            "unk_token": UNK,
            "sep_token": SEP,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 512,
        },
    )
