from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
from transformers import AutoTokenizer

from accuracy.reference import MAX_NEW_TOKENS, MODEL_FOLDER, SCHEDULER_DOMAIN, SPLITS, encode_prompt, examples
from accuracy.reference.tokenization import SPECIAL_TOKENS, UNK, VOCABULARY_SIZE, special_id


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MODEL_FOLDER)


@pytest.mark.slow
def test_text_survives_encoding_and_decoding(tokenizer: Any) -> None:
    texts = chain.from_iterable(
        (example.prompt, example.reference) for split in SPLITS for example in examples(split, 800)
    )
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert special_id(UNK) not in ids
        assert tokenizer.decode(ids) == text


def test_a_prompt_is_framed_by_bos_and_sep(tokenizer: Any) -> None:
    prompt = examples("val", 1)[0].prompt
    ids = encode_prompt(tokenizer, prompt)
    assert ids == [
        tokenizer.bos_token_id,
        *tokenizer(prompt, add_special_tokens=False).input_ids,
        tokenizer.sep_token_id,
    ]
    assert tokenizer.decode(ids, skip_special_tokens=True) == prompt


def test_special_tokens_have_the_ids_the_model_was_trained_with(tokenizer: Any) -> None:
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3, 4]
    assert [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id] == [0, 1, 2]
    assert len(tokenizer) == VOCABULARY_SIZE


def test_unknown_letters_do_not_break_a_prompt(tokenizer: Any) -> None:
    assert special_id(UNK) in encode_prompt(tokenizer, "the baker Ørsted buy 3 cups")


def test_references_run_to_40_to_80_tokens(tokenizer: Any) -> None:
    for split, domain in (*((split, None) for split in SPLITS), ("calib", SCHEDULER_DOMAIN)):
        references = [example.reference for example in examples(split, 400, domain)]
        lengths = [len(ids) + 1 for ids in tokenizer(references, add_special_tokens=False).input_ids]  # 1 for </s>
        assert max(lengths) <= MAX_NEW_TOKENS
        assert sum(40 <= length <= 80 for length in lengths) / len(lengths) > 0.93, split
