from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from accuracy.decoding import Decoder, Prompt, Sampling
from accuracy.decoding.streaming import final_text
from accuracy.model import load_tokenizer
from accuracy.reference import MODEL_FOLDER
from accuracy.schedulers import StaticScheduler, UniformScheduler
from hwsim.trace import Schedule

from .conftest import EOS, FakeSwitch, fixed_decoder

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """Words with the space before them, and bytes for everything else, as in Llama 2."""
    words = ["<s>", "</s>", "<unk>", *BYTES, "▁Hel", "lo", "▁", "▁world", "▁▁", "é", "\n"]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def byte_level() -> PreTrainedTokenizerFast:
    """One token a byte, as the smallest GPT-2."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate([*alphabet, "Ġthe", "Ġworld"])}, []))
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def cleaning() -> PreTrainedTokenizerFast:
    """Whole words, whose spaces before punctuation are taken away afterwards."""
    words = ["[UNK]", "do", "n't", ".", ",", "'", "s", "you", "##ing", "'re"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=True)


TOKENIZERS = {
    "sentencepiece": sentencepiece_like(),
    "byte-level": byte_level(),
    "cleaning": cleaning(),
    "shipped": load_tokenizer(str(MODEL_FOLDER), "shipped"),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_final_text_is_never_taken_back(kind, data):
    tokenizer = TOKENIZERS[kind]
    tokens = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), min_size=1, max_size=12))
    whole = tokenizer.decode(tokens, skip_special_tokens=True)
    for count in range(1, len(tokens)):
        assert whole.startswith(final_text(tokenizer, tokens[:count]))


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=8), kind=st.sampled_from(["sentencepiece", "byte-level"]))
def test_characters_come_whole(text, kind):
    tokenizer = TOKENIZERS[kind]
    if kind == "sentencepiece":
        tokens = [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in text.encode()]
    else:
        tokens = tokenizer.convert_tokens_to_ids(_letters(text))
    for count in range(1, len(tokens) + 1):
        assert text.startswith(final_text(tokenizer, tokens[:count]))


def _letters(text: str) -> list[str]:
    """The letters that stand for a text's bytes in a byte-level vocabulary."""
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return [letter for piece, _ in pieces for letter in piece]


@pytest.mark.parametrize(
    ("kind", "words", "expected"),
    [
        (
            "byte-level",
            ["Ġthe", "Ġ", "â", "Ĥ", "¬", "Ġworld"],
            [" the", " the ", " the ", " the ", " the €", " the € world"],
        ),
        (
            "sentencepiece",
            ["▁Hel", "lo", "<0xE2>", "<0x82>", "<0xAC>", "▁world"],
            ["Hel", "Hello", "", "", "", "Hello€ world"],
        ),
        ("sentencepiece", ["▁Hel", "<0xE2>", "</s>", "<0x82>", "lo"], ["Hel", "", "", "", "Hel��lo"]),
        ("cleaning", ["do", "n't", ".", "you"], ["do", "don't", "don't.", "don't."]),
    ],
)
def test_final_text_worked_out_by_hand(kind, words, expected):
    tokenizer = TOKENIZERS[kind]
    tokens = tokenizer.convert_tokens_to_ids(words)
    found = [final_text(tokenizer, tokens[: i + 1]) for i in range(len(tokens))]
    assert found == expected


def collect(decoder, prompts, schedulers, **options):
    """Stream a grid; the tokens by (scheduler, prompt), and the grid."""
    streams = {}
    grid = decoder.decode_grid(
        prompts,
        schedulers,
        on_token=lambda token: streams.setdefault((token.scheduler, token.prompt_id), []).append(token),
        **options,
    )
    return streams, grid


GRID = [
    StaticScheduler(Schedule.from_pairs(prefill, pairs))
    for prefill, pairs in ((4, [(0, 4), (3, 3)]), (4, [(0, 4), (3, 2)]), (4, [(0, 4)]), (16, [(0, 3), (2, 2)]))
]


@pytest.mark.parametrize("sampling", [None, Sampling(seed=4)])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_stream_of_every_response_is_the_response(tiny, batch_size, sampling):
    prompts = [Prompt(f"p{n}", tuple(range(3, 4 + n)), 12) for n in range(5)]
    decoder = Decoder(tiny, FakeSwitch(tiny.model))
    streams, grid = collect(decoder, prompts, GRID, batch_size=batch_size, sampling=sampling)
    silent = decoder.decode_grid(prompts, GRID, batch_size, sampling=sampling)
    for scheduler, responses, unheard in zip(GRID, grid.responses, silent.responses, strict=True):
        for response, other in zip(responses, unheard, strict=True):
            assert response.tokens == other.tokens
            stream = streams.pop((scheduler.label, response.prompt_id))
            assert [token.index for token in stream] == list(range(len(response.tokens)))
            assert tuple(token.token_id for token in stream) == response.tokens
            assert [token.prefill for token in stream] == [True] + [False] * len(response.decode_weight_bits)
            bits = [response.prefill_weight_bits, *response.decode_weight_bits]
            assert [token.weight_bits for token in stream] == bits
            assert [token.finish_reason for token in stream] == [None] * (len(stream) - 1) + [response.finish_reason]
            assert "".join(token.text for token in stream) == tiny.tokenizer.decode(response.tokens, True)
    assert not streams


def test_each_token_is_reported_before_the_next_step_runs():
    seen = []
    decoder = fixed_decoder(lambda position, bits: seen.append(position) or 5)
    decoder.decode([Prompt("a", (3, 3), 3)], UniformScheduler(3), on_token=lambda token: seen.append(token.text))
    assert seen == [2, "t5", 3, " t5", 4, " t5"]


def test_a_callback_that_raises_ends_the_run_and_leaves_the_decoder_usable(tiny):
    class StopError(Exception):
        pass

    def stop(token):
        if token.index == 4:
            raise StopError

    prompts = [Prompt("a", (3, 4, 5), 12, min_new_tokens=12), Prompt("b", (3,), 12, min_new_tokens=12)]
    decoder = Decoder(tiny, FakeSwitch(tiny.model))
    before = decoder.decode_grid(prompts, GRID)
    with pytest.raises(StopError):
        decoder.decode_grid(prompts, GRID, on_token=stop)
    assert decoder.decode_grid(prompts, GRID) == before


def test_an_eos_has_no_text_and_its_reason():
    tokens = []
    decoder = fixed_decoder(lambda position, bits: EOS if position == 3 else 5)
    decoder.decode([Prompt("a", (3, 3), 9)], UniformScheduler(3), on_token=tokens.append)
    assert [(token.text, token.finish_reason) for token in tokens] == [("t5", None), ("", "eos")]
