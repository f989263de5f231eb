from __future__ import annotations

import pytest
import torch

from accuracy.decoding import Decoder, Prompt, Sampling
from accuracy.decoding.generate_plugin import generate_with_schedule, scheduled
from accuracy.schedulers import StaticScheduler, StepScheduler
from hwsim.trace import InputError, Schedule

from .conftest import EOS, FakeSwitch

PROMPTS = [Prompt(f"p{n}", tuple(range(5, 5 + n)), 20) for n in (1, 4, 9, 6)]
FALLING = Schedule.from_pairs(4, [(0, 4), (5, 3), (9, 2)])


class ByLength(StaticScheduler):
    """Plans from the prefill: short prompts are decoded at 3 bits, long ones at 2; keeps what it saw."""

    captured_blocks = frozenset({1})

    def __init__(self, bound: int = 5) -> None:
        super().__init__(Schedule.uniform(4))
        self.bound, self.seen = bound, {}

    @property
    def schedule(self):
        return None

    @property
    def label(self):
        return "by-length"

    def widths(self):
        return frozenset({2, 3, 4})

    def plan(self, prefill):
        states = [
            prefill.logits,
            prefill.kv_cache.keys(-1),
            prefill.kv_cache.values(0),
            prefill.activations[1],
        ]
        self.seen[prefill.prompt_id] = prefill.prompt_tokens, prefill.max_new_tokens, [one.clone() for one in states]
        return Schedule.from_pairs(4, [(0, 4), (3, 3 if prefill.prompt_tokens < self.bound else 2)])


class Unsure(StepScheduler):
    """High where the last token was unlikely; keeps what it was asked."""

    name, label, prefill_weight_bits = "unsure", "unsure", 4

    def __init__(self) -> None:
        self.asked = []

    def identity(self):
        return {"scheduler": self.name}

    def widths(self):
        return frozenset({4, 2})

    def plan(self, prefill):
        self.asked = []
        return Schedule.uniform(4)

    def next_bits(self, step, logits, kv_cache):
        bits = 2 if float(logits.softmax(-1).max()) > 0.4 else 4
        self.asked.append((step, bits, kv_cache.keys(0).shape[1], float(kv_cache.keys(-1).sum())))
        return bits


def left_padded(prompts: list[Prompt]) -> dict[str, torch.Tensor]:
    longest = max(len(prompt.token_ids) for prompt in prompts)
    padding = [longest - len(prompt.token_ids) for prompt in prompts]
    rows = [[0] * pad + list(prompt.token_ids) for pad, prompt in zip(padding, prompts, strict=True)]
    mask = [[0] * pad + [1] * (longest - pad) for pad in padding]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}


def plugged(lm, prompts, schedule, switch, **options) -> list[tuple[int, ...]]:
    """The responses of ``generate``, what follows an EOS left out."""
    batch = left_padded(prompts)
    options = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0} | options
    names = [prompt.id for prompt in prompts]
    out = generate_with_schedule(lm, **batch, schedule=schedule, switch=switch, prompt_ids=names, **options)
    responses = out[:, batch["input_ids"].shape[1] :].tolist()
    return [tuple(row[: row.index(EOS) + 1] if EOS in row else row) for row in responses]


@pytest.mark.parametrize("sampling", [None, Sampling(seed=1), Sampling(0.7, top_k=20, top_p=0.9, seed=2)])
@pytest.mark.parametrize("together", [False, True])
def test_it_gives_the_tokens_of_our_own_loop(tiny, sampling, together):
    switch = FakeSwitch(tiny.model)
    groups = [PROMPTS] if together else [[prompt] for prompt in PROMPTS]
    for group in groups:
        own = Decoder(tiny, switch).decode(group, StaticScheduler(FALLING), len(group), sampling=sampling)
        options = {} if sampling is None else {"sampling": sampling}
        assert plugged(tiny, group, FALLING, switch, **options) == [response.tokens for response in own]


def test_a_scheduler_that_plans_sees_what_our_own_loop_shows_it(tiny):
    switch = FakeSwitch(tiny.model)
    for prompt in PROMPTS:
        inside, own = ByLength(), ByLength()
        (response,) = Decoder(tiny, switch).decode([prompt], own)
        assert plugged(tiny, [prompt], inside, switch) == [response.tokens]
        (*numbers, states), (*expected_numbers, expected) = inside.seen[prompt.id], own.seen[prompt.id]
        assert numbers == expected_numbers == [len(prompt.token_ids), 20]
        assert all(torch.equal(one, other) for one, other in zip(states, expected, strict=True))


def test_a_padded_batch_is_planned_without_its_padding(tiny):
    switch, inside, own = FakeSwitch(tiny.model), ByLength(bound=99), ByLength(bound=99)
    responses = Decoder(tiny, switch).decode(PROMPTS, own, len(PROMPTS))
    assert plugged(tiny, PROMPTS, inside, switch) == [response.tokens for response in responses]
    for prompt in PROMPTS:
        assert inside.seen[prompt.id][0] == len(prompt.token_ids)
        for one, other in zip(inside.seen[prompt.id][2], own.seen[prompt.id][2], strict=True):
            assert one.shape == other.shape
            torch.testing.assert_close(one, other)


def test_a_step_scheduler_is_asked_as_in_our_own_loop(tiny):
    switch = FakeSwitch(tiny.model)
    widths = set()
    for prompt in PROMPTS:
        inside, own = Unsure(), Unsure()
        (response,) = Decoder(tiny, switch).decode([prompt], own)
        assert plugged(tiny, [prompt], inside, switch) == [response.tokens]
        assert inside.asked == own.asked
        assert tuple(bits for _, bits, *_ in inside.asked) == response.decode_weight_bits
        widths.update(response.decode_weight_bits)
    assert widths == {2, 4}


def test_every_generate_inside_the_block_starts_anew_and_none_after_it(tiny):
    switch = FakeSwitch(tiny.model)
    own = Decoder(tiny, switch).decode(PROMPTS, StaticScheduler(FALLING))
    with scheduled(tiny, FALLING, switch=switch):
        found = [
            tiny.model.generate(torch.tensor([prompt.token_ids]), max_new_tokens=20, do_sample=False, pad_token_id=0)
            for prompt in PROMPTS
        ]
    for prompt, tokens, response in zip(PROMPTS, found, own, strict=True):
        assert tuple(tokens[0, len(prompt.token_ids) :].tolist()) == response.tokens
    before = len(switch.applied)
    tiny.model.generate(torch.tensor([[5, 6]]), max_new_tokens=9, do_sample=False, pad_token_id=0)
    assert len(switch.applied) == before


def test_a_failing_pass_leaves_no_hook(tiny):
    batch = left_padded(PROMPTS)
    with pytest.raises(InputError):
        generate_with_schedule(tiny, **batch, schedule=ByLength(), switch=FakeSwitch(tiny.model), max_new_tokens=9)
    with pytest.raises(IndexError), scheduled(tiny, ByLength(), switch=FakeSwitch(tiny.model), max_new_tokens=9):
        tiny.model.generate(torch.tensor([[999]]), max_new_tokens=9)
    for module in tiny.model.modules():
        assert not module._forward_pre_hooks
        assert not module._forward_hooks


def test_transformers_own_minimum_leaves_the_eos_out(tiny):
    switch = FakeSwitch(tiny.model)
    prompt = next(
        prompt
        for prompt in PROMPTS
        if len(Decoder(tiny, switch).decode([prompt], StaticScheduler(FALLING))[0].tokens) < 15
    )
    longer = Prompt(prompt.id, prompt.token_ids, 20, min_new_tokens=15)
    (response,) = Decoder(tiny, switch).decode([longer], StaticScheduler(FALLING))
    assert plugged(tiny, [prompt], FALLING, switch, min_new_tokens=14) == [response.tokens]


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        (Schedule.uniform(5), {}, "schedule p5:5: weight_bits = 5: not stored; stored widths: 2, 3, 4, 16"),
        (FALLING, {"num_beams": 4}, "num_beams = 4: a schedule needs decoding token by token"),
        (FALLING, {"use_mtp": True}, "use_mtp = True: a schedule needs"),
        (FALLING, {"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens = 3: a schedule needs"),
        (FALLING, {"prefill_chunk_size": 2}, "prefill_chunk_size = 2: a schedule needs"),
        (FALLING, {"use_cache": False}, "use_cache = False: a schedule needs"),
        (FALLING, {"prompt_ids": ["a"]}, "prompt_ids: 1 for 4 prompts; give one for each"),
        (FALLING, {"sampling": Sampling(), "do_sample": True}, "do_sample = True: sampling is given"),
        (FALLING, {"sampling": Sampling(), "num_return_sequences": 2}, "num_return_sequences = 2: sampling is given"),
        (ByLength(), {"max_new_tokens": None}, "max_new_tokens: missing; scheduler by-length plans from it"),
        (ByLength(), {}, "plans p4:4>3@3 for prompt 0 and p4:4>2@3 for prompt 2 of one batch"),
        (Unsure(), {}, "scheduler unsure: decides step by step for one prompt, and the batch has 4"),
    ],
)
def test_what_cannot_run_under_a_schedule_is_refused_in_one_line(tiny, schedule, options, message):
    with pytest.raises(InputError) as caught:
        generate_with_schedule(
            tiny,
            **left_padded(PROMPTS),
            schedule=schedule,
            switch=FakeSwitch(tiny.model),
            **{"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0, **options},
        )
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_assistants_hidden_from_the_options_are_noticed(tiny):
    tiny.model.generation_config.prompt_lookup_num_tokens = 3
    repeating = torch.tensor([[5, 6, 7, 5, 6, 7, 5, 6, 7, 5]])
    under_schedule = scheduled(tiny, FALLING, switch=FakeSwitch(tiny.model))
    with pytest.raises(InputError, match="needs decoding token by token, without assistants"), under_schedule:
        tiny.model.generate(repeating, max_new_tokens=9, do_sample=False, pad_token_id=0)
