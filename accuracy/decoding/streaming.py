"""Tokens as they are made, with the text that each of them makes final."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hwsim.trace import Schedule

FinishReason = Literal["eos", "length"]
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_LAST_WORD = re.compile(r"\s+\S*$")
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class StreamedToken:
    """One token of one response, at the moment it was made.

    Attributes:
        prompt_id: The prompt that is answered.
        scheduler: Label of the scheduler; a token that several schedulers share is reported once for each.
        schedule: What it planned for the response; one that decides step by step may leave it.
        index: Place in the response, from 0.
        token_id: The token.
        text: What became final with it, special tokens left out; empty while a character is
            unfinished. The texts of a response joined are ``tokenizer.decode(tokens, skip_special_tokens=True)``.
        weight_bits: Width of the pass that made it: the prefill's for token 0, its decode step's otherwise.
        prefill: Whether the prefill made it.
        pass_ns: Measured time of that pass, for token 0 with the scheduler's planning; None in a batch.
        finish_reason: Of the response's last token, ``eos`` or ``length``; None before.
    """

    prompt_id: str
    scheduler: str
    schedule: Schedule
    index: int
    token_id: int
    text: str
    weight_bits: int
    prefill: bool
    pass_ns: int | None
    finish_reason: FinishReason | None


OnToken = Callable[[StreamedToken], None]


def final_text(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The part of an unfinished response's text that no later token can change.

    All tokens are decoded together, since a token alone has lost the space before it (SentencePiece) or is a part of
    a character only. Held back are:

    - replacement characters at the end: bytes of a character whose other bytes are still to come;
    - a run of byte tokens (``<0xE2>``) at the end: one bad byte later makes the whole run unreadable;
    - the last word, where the tokenizer takes spaces away afterwards ("do n't" becomes "don't").
    """
    special = set(tokenizer.all_special_ids)
    # A special token inside a run of bytes is left out before the run is read.
    last = next((token for token in reversed(tokens) if token not in special), None)
    if last is None or _BYTE_TOKEN.fullmatch(str(tokenizer.convert_ids_to_tokens(last))):
        return ""
    text: str = tokenizer.decode(tokens, skip_special_tokens=True).rstrip(_UNFINISHED)
    return _LAST_WORD.sub("", text) if tokenizer.clean_up_tokenization_spaces else text
