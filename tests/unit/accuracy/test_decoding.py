from __future__ import annotations

import dataclasses
import threading
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accuracy.decoding import Decoder, Prompt, batches
from accuracy.decoding.generate_plugin import generate_with_schedule, scheduled
from accuracy.model import ModelBusyError
from accuracy.schedulers import StaticScheduler, StepScheduler, UniformScheduler
from hwsim.trace import InputError, Schedule

from .conftest import EOS, WIDTHS, FakeSwitch, fixed_decoder, tiny_llama


def prompts(*lengths: int, bound: int = 20, seed: int = 0) -> list[Prompt]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Prompt(f"p{i}", tuple(torch.randint(3, 61, (n,), generator=generator).tolist()), bound)
        for i, n in enumerate(lengths)
    ]


def schedules(*pairs) -> list[StaticScheduler]:
    return [StaticScheduler(Schedule.from_pairs(prefill, list(decode))) for prefill, decode in pairs]


GRID = schedules(
    (4, [(0, 3)]),
    (4, [(0, 4), (5, 3)]),
    (4, [(0, 4), (5, 2)]),
    (4, [(0, 4), (9, 3), (12, 2)]),
    (4, [(0, 4)]),
    (16, [(0, 16)]),
    (3, [(0, 2), (4, 4), (8, 2)]),
    (3, [(0, 2)]),
)


def token_at_width(position: int, bits: int) -> int:
    return {2: 4, 3: 5, 4: 6, 16: 7}[bits]


def test_a_model_that_never_stops_gives_exactly_the_bound():
    (response,) = fixed_decoder(lambda position, bits: 5).decode([Prompt("a", (3, 3), 7)], UniformScheduler(3))
    assert response.tokens == (5,) * 7
    assert response.finish_reason == "length"
    assert response.decode_weight_bits == (3,) * 6


def test_a_model_that_always_stops_gives_one_token_and_no_decode_step():
    (response,) = fixed_decoder(lambda position, bits: EOS).decode([Prompt("a", (3, 3), 7)], UniformScheduler(3))
    assert (response.tokens, response.decode_weight_bits, response.finish_reason) == ((EOS,), (), "eos")
    assert response.text == ""


def test_a_model_that_stops_sometimes_counts_the_eos():
    decoder = fixed_decoder(lambda position, bits: EOS if position == 6 else 5)
    (response,) = decoder.decode([Prompt("a", (3, 3), 20)], UniformScheduler(3))
    assert response.tokens == (5, 5, 5, 5, EOS)
    assert (len(response.decode_weight_bits), response.finish_reason) == (4, "eos")


def test_an_eos_on_the_last_allowed_token_is_an_eos():
    decoder = fixed_decoder(lambda position, bits: EOS if position == 6 else 5)
    (response,) = decoder.decode([Prompt("a", (3, 3), 5)], UniformScheduler(3))
    assert (len(response.tokens), response.finish_reason) == (5, "eos")


def test_token_0_comes_from_the_prefill_width_and_each_step_from_its_own():
    schedule = Schedule.from_pairs(16, [(0, 4), (2, 3), (3, 2)])
    (response,) = fixed_decoder(token_at_width).decode([Prompt("a", (3,), 6)], StaticScheduler(schedule))
    assert response.tokens == (7, 6, 6, 5, 4, 4)
    assert response.decode_weight_bits == (4, 4, 3, 2, 2)
    assert response.prefill_weight_bits == 16


def test_eos_waits_for_the_minimum_length():
    decoder = fixed_decoder(lambda position, bits: EOS)
    (response,) = decoder.decode([Prompt("a", (3,), 6, min_new_tokens=4)], UniformScheduler(3))
    assert response.tokens == (0, 0, 0, EOS)


def test_every_eos_of_a_model_ends_a_response():
    decoder = fixed_decoder(lambda position, bits: {3: 5, 4: 9}.get(position, 7), eos=[EOS, 9, 5])
    batch = [Prompt("a", (3,), 8), Prompt("b", (3,) * 4, 8), Prompt("c", (3,) * 5, 8)]
    found = decoder.decode(batch, UniformScheduler(3), batch_size=3)
    assert [response.tokens for response in found] == [(7, 7, 5), (9,), (7,) * 8]
    assert [response.finish_reason for response in found] == ["eos", "eos", "length"]


def test_no_eos_of_several_comes_before_the_minimum_length():
    decoder = fixed_decoder(lambda position, bits: 9, eos=[EOS, 9])
    batch = [Prompt("a", (3,), 6, min_new_tokens=4), Prompt("b", (3,), 6), Prompt("c", (3,), 6, min_new_tokens=6)]
    found = decoder.decode(batch, UniformScheduler(3), batch_size=3)
    assert [response.tokens for response in found] == [(0, 0, 0, 9), (9,), (0, 0, 0, 0, 0, 9)]


def test_a_model_without_eos_runs_to_the_bound():
    (response,) = fixed_decoder(lambda position, bits: EOS, eos=None).decode(
        [Prompt("a", (3,), 5)], UniformScheduler(3)
    )
    assert (response.tokens, response.finish_reason) == ((EOS,) * 5, "length")


@pytest.mark.parametrize(("token", "reason"), [(5, "length"), (EOS, "eos")])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_bound_of_one_token_needs_the_prefill_only(token, reason, batch_size):
    batch = [Prompt("a", (3,), 1), Prompt("b", (3, 3), 1)]
    grid = fixed_decoder(lambda position, bits: token).decode_grid(batch, GRID[1:3], batch_size)
    for response in (response for responses in grid.responses for response in responses):
        assert (response.tokens, response.decode_weight_bits, response.finish_reason) == ((token,), (), reason)
    assert (grid.steps, grid.steps_run, grid.steps_saved) == (0, 0, 0.0)


@settings(max_examples=25, deadline=None)
@given(
    bounds=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=1, max_size=5),
    batch_size=st.integers(1, 5),
)
def test_responses_keep_between_minimum_and_bound_and_end_as_they_say(bounds, batch_size):
    lm = tiny_llama()
    batch = [
        dataclasses.replace(prompt, max_new_tokens=bound, min_new_tokens=min(minimum, bound))
        for prompt, (bound, minimum) in zip(prompts(*(3 + i for i in range(len(bounds)))), bounds, strict=True)
    ]
    found = Decoder(lm, FakeSwitch(lm.model)).decode(batch, GRID[1], batch_size)
    for prompt, response in zip(batch, found, strict=True):
        assert prompt.min_new_tokens <= len(response.tokens) <= prompt.max_new_tokens
        assert EOS not in response.tokens[:-1]
        ended = response.tokens[-1] == EOS
        assert response.finish_reason == ("eos" if ended else "length")
        assert ended or len(response.tokens) == prompt.max_new_tokens


def test_a_prompt_and_its_response_may_fill_the_context_exactly(tiny):
    context = tiny.shape.max_context
    batch = [Prompt("a", (3,) * (context - 5), 5, 5), Prompt("b", (4, 5), 5, 5)]
    decoder = Decoder(tiny, FakeSwitch(tiny.model))
    long, short = decoder.decode(batch, GRID[1], batch_size=2)
    assert (len(long.tokens), len(short.tokens)) == (5, 5)
    assert long.tokens == decoder.decode(batch[:1], GRID[1])[0].tokens


def test_rows_of_one_batch_stop_and_are_bounded_each_on_their_own():
    decoder = fixed_decoder(lambda position, bits: EOS if position == 6 else 5)
    batch = [Prompt("a", (3,), 20), Prompt("b", (3, 3, 3), 20), Prompt("c", (3, 3), 3), Prompt("d", (3,) * 7, 4)]
    found = decoder.decode(batch, UniformScheduler(2), batch_size=4)
    assert [len(response.tokens) for response in found] == [6, 4, 3, 4]
    assert [response.finish_reason for response in found] == ["eos", "eos", "length", "length"]


def test_the_precision_is_set_only_when_it_changes(tiny):
    switch = FakeSwitch(tiny.model)
    Decoder(tiny, switch).decode(
        [dataclasses.replace(prompts(5)[0], min_new_tokens=20)],
        StaticScheduler(Schedule.from_pairs(4, [(0, 4), (3, 3), (6, 2)])),
    )
    assert switch.applied == [4, 3, 2]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_sharing_prefixes_changes_no_response(tiny, batch_size):
    asked = prompts(3, 9, 4, 7, 12, 5, 5, 6)
    decoder = Decoder(tiny, FakeSwitch(tiny.model))
    shared = decoder.decode_grid(asked, GRID, batch_size)
    naive = [decoder.decode_grid(asked, [scheduler], batch_size) for scheduler in GRID]
    assert [untimed(row) for row in shared.responses] == [untimed(grid.responses[0]) for grid in naive]
    assert shared.steps == sum(grid.steps_run for grid in naive)
    assert shared.steps_run < shared.steps


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 1000),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    wanted=st.lists(
        st.tuples(
            st.sampled_from(WIDTHS),
            st.lists(st.tuples(st.integers(0, 8), st.sampled_from(WIDTHS)), max_size=3).map(
                lambda pairs: [(0, 4), *pairs]
            ),
        ),
        min_size=1,
        max_size=5,
    ),
    batch_size=st.integers(1, 6),
)
def test_any_grid_equals_its_schedules_one_by_one(seed, lengths, wanted, batch_size):
    lm = tiny_llama(seed)
    asked = prompts(*lengths, bound=10, seed=seed)
    decoder = Decoder(lm, FakeSwitch(lm.model))
    shared = decoder.decode_grid(asked, schedules(*wanted), batch_size)
    for scheduler, row in zip(schedules(*wanted), shared.responses, strict=True):
        assert untimed(row) == untimed(decoder.decode_grid(asked, [scheduler], batch_size).responses[0])
        for response in row:
            steps = len(response.tokens) - 1
            assert list(response.decode_weight_bits) == scheduler.schedule.expand(steps)


def test_the_steps_saved_are_those_of_the_shared_prefix():
    decoder = fixed_decoder(lambda position, bits: 5)
    wanted = schedules((4, [(0, 4), (6, 3)]), (4, [(0, 4), (6, 2)]))
    grid = decoder.decode_grid([Prompt("a", (3,), 11), Prompt("b", (3, 3), 11)], wanted)
    assert (grid.steps, grid.steps_run) == (2 * 2 * 10, 2 * (6 + 4 + 4))
    assert grid.steps_saved == pytest.approx(0.3)


def test_batches_agree_with_single_prompts_up_to_near_ties(tiny):
    asked = prompts(*range(1, 25), bound=30)
    decoder = Decoder(tiny, FakeSwitch(tiny.model))
    single = decoder.decode(asked, GRID[1], batch_size=1)
    batched = decoder.decode(asked, GRID[1], batch_size=8)
    assert {response.finish_reason for response in single} == {"eos", "length"}
    for prompt, one, many in zip(asked, single, batched, strict=True):
        if one.tokens == many.tokens:
            continue
        common = next(i for i, (a, b) in enumerate(zip(one.tokens, many.tokens, strict=False)) if a != b)
        assert margin(tiny, prompt, one.tokens[:common], GRID[1].schedule) < 1e-4


def margin(lm, prompt: Prompt, tokens: tuple[int, ...], schedule: Schedule) -> float:
    """Gap between the two best logits after ``tokens``, computed at batch 1."""
    seen = generate_with_schedule(
        lm,
        torch.tensor([prompt.token_ids]),
        schedule,
        FakeSwitch(lm.model),
        max_new_tokens=len(tokens) + 1,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    best = seen.logits[len(tokens)][0].topk(2).values
    return float(best[0] - best[1])


def test_generate_with_the_plug_in_gives_the_same_tokens_at_batch_1(tiny):
    switch = FakeSwitch(tiny.model)
    decoder = Decoder(tiny, switch)
    for prompt in prompts(1, 4, 9, 17):
        for scheduler in GRID:
            (own,) = decoder.decode([prompt], scheduler)
            plugged = generate_with_schedule(
                tiny, torch.tensor([prompt.token_ids]), scheduler.schedule, switch, max_new_tokens=20, do_sample=False
            )
            assert tuple(plugged[0, len(prompt.token_ids) :].tolist()) == own.tokens


def test_the_plug_in_refuses_what_does_not_decode_token_by_token(tiny):
    with pytest.raises(InputError, match="num_beams = 4"):
        generate_with_schedule(tiny, torch.tensor([[3]]), Schedule.uniform(3), FakeSwitch(tiny.model), num_beams=4)


def test_times_are_measured_for_single_prompts_only(tiny):
    decoder = Decoder(tiny, FakeSwitch(tiny.model))
    for response in decoder.decode(prompts(3, 5), GRID[0], batch_size=1):
        assert response.prefill_ns > 0
        assert len(response.step_ns) == len(response.tokens) - 1
        assert all(ns > 0 for ns in response.step_ns)
    for response in decoder.decode(prompts(3, 5), GRID[0], batch_size=2):
        assert response.prefill_ns is None
        assert response.step_ns is None


def test_a_planning_scheduler_sees_each_prompts_own_cache_without_padding():
    seen = {}

    class ByLength(StaticScheduler):
        def widths(self):
            return frozenset({4, 3, 2})

        def plan(self, prefill):
            seen[prefill.prompt_id] = prefill.kv_cache.keys(-1).shape, float(prefill.kv_cache.values(0).mean())
            return Schedule.from_pairs(4, [(0, 3 if prefill.prompt_tokens < 3 else 2)])

    batch = [Prompt("a", (3,), 4), Prompt("b", (3, 3, 3), 4), Prompt("c", (3, 3), 4)]
    found = fixed_decoder(token_at_width).decode(batch, ByLength(Schedule.uniform(4)), batch_size=3)
    assert seen == {"a": ((1, 1, 1), 4.0), "b": ((1, 3, 1), 4.0), "c": ((1, 2, 1), 4.0)}
    assert [response.tokens for response in found] == [(6, 5, 5, 5), (6, 4, 4, 4), (6, 5, 5, 5)]
    assert [response.decode_weight_bits for response in found] == [(3,) * 3, (2,) * 3, (3,) * 3]


class Alternating(StepScheduler):
    """High after a prefill, then the other width at every step; keeps state for one prompt."""

    name, label, prefill_weight_bits = "alternating", "alternating", 4

    def identity(self):
        return {"scheduler": self.name}

    def widths(self):
        return frozenset({4, 3})

    def plan(self, prefill):
        self.steps = []
        return Schedule.uniform(4)

    def next_bits(self, step, logits, kv_cache):
        self.steps.append((step, int(logits.argmax()), kv_cache.keys(0).shape[1]))
        return 3 if step % 2 else 4


def test_a_step_scheduler_decides_in_order_one_prompt_at_a_time():
    scheduler = Alternating()
    batch = [Prompt("a", (3, 3), 5), Prompt("b", (3, 3), 4)]
    found = fixed_decoder(token_at_width).decode(batch, scheduler, batch_size=2)
    assert [response.decode_weight_bits for response in found] == [(4, 3, 4, 3), (4, 3, 4)]
    assert [response.tokens for response in found] == [(6, 6, 5, 6, 5), (6, 6, 5, 6)]
    assert scheduler.steps == [(0, 6, 2), (1, 6, 3), (2, 5, 4)]


def test_batches_group_similar_lengths_and_lose_nothing():
    asked = prompts(5, 1, 9, 2, 7)
    grouped = batches(asked, 2)
    assert sorted(prompt.id for batch in grouped for prompt in batch) == sorted(prompt.id for prompt in asked)
    flat = [len(prompt.token_ids) for batch in grouped for prompt in batch]
    assert all(a >= b for a, b in pairwise(flat))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([Prompt("a", (), 4)], "prompt 'a': empty; a prompt needs at least 1 token"),
        ([Prompt("a", (3,) * 60, 5)], "60 prompt tokens + max_new_tokens 5 = 65: tiny holds at most 64"),
        ([Prompt("a", (3,), 0)], "prompt 'a': max_new_tokens = 0: must be >= 1"),
        ([Prompt("a", (3,), 4, 5)], "min_new_tokens = 5: must be 0..4"),
        ([Prompt("a", (3,), 4), Prompt("a", (4,), 4)], "prompt 'a': the id appears twice"),
    ],
)
def test_a_prompt_that_cannot_run_is_refused_in_one_line(asked, message):
    with pytest.raises(InputError) as caught:
        fixed_decoder(token_at_width).decode(asked, UniformScheduler(3))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_prompt_that_just_fits_runs():
    (response,) = fixed_decoder(lambda position, bits: 5).decode([Prompt("a", (3,) * 60, 4)], UniformScheduler(3))
    assert len(response.tokens) == 4


def test_a_width_that_is_not_stored_is_refused_before_anything_runs():
    with pytest.raises(InputError, match=r"schedule p4:5: weight_bits = 5: not stored; stored widths: 2, 3, 4, 16"):
        fixed_decoder(token_at_width).decode([Prompt("a", (3,), 4)], UniformScheduler(5, 4))


def test_a_batch_size_below_1_is_refused():
    with pytest.raises(InputError, match="batch_size = 0"):
        fixed_decoder(token_at_width).decode([Prompt("a", (3,), 4)], UniformScheduler(3), batch_size=0)


def test_a_plan_for_another_prefill_is_refused():
    class Liar(StaticScheduler):
        def plan(self, prefill):
            return Schedule.uniform(2)

    with pytest.raises(InputError, match="planned prefill_weight_bits = 2 after a prefill at 4"):
        fixed_decoder(token_at_width).decode([Prompt("a", (3,), 4)], Liar(Schedule.uniform(4)))


def untimed(responses):
    return [dataclasses.replace(response, prefill_ns=None, step_ns=None) for response in responses]


def test_a_second_run_of_a_model_is_refused_while_it_decodes_and_the_first_one_is_not_disturbed(tiny):
    switch = FakeSwitch(tiny.model)
    prompt, low = Prompt("a", (3, 4, 5), 12, 12), UniformScheduler(2)
    (alone,) = Decoder(tiny, switch).decode([prompt], low)
    reached, go_on, found = threading.Event(), threading.Event(), []

    def hold(token):
        if token.index == 3:
            reached.set()
            assert go_on.wait(20)

    thread = threading.Thread(target=lambda: found.extend(Decoder(tiny, switch).decode([prompt], low, on_token=hold)))
    thread.start()
    assert reached.wait(20)
    before = list(switch.applied)
    second = Decoder(tiny, switch)
    plugged = scheduled(tiny, UniformScheduler(4), switch=switch)
    try:
        for run in (lambda: second.decode([prompt], UniformScheduler(4)), plugged.__enter__):
            with pytest.raises(ModelBusyError, match="tiny: is decoding already, and has one width at a time; wait"):
                run()
        assert switch.applied == before
    finally:
        go_on.set()
        thread.join()
    assert [response.tokens for response in found] == [alone.tokens]
    assert second.decode([prompt], low)[0].tokens == alone.tokens


def test_a_run_inside_a_run_is_refused_and_leaves_the_model_free(tiny):
    decoder = Decoder(tiny, FakeSwitch(tiny.model))
    prompt = Prompt("a", (3, 4), 5, 5)
    with pytest.raises(ModelBusyError):
        decoder.decode([prompt], UniformScheduler(4), on_token=lambda _: decoder.decode([prompt], UniformScheduler(2)))
    assert len(decoder.decode([prompt], UniformScheduler(2))[0].tokens) == 5


def test_a_call_before_every_block_changes_nothing(tiny):
    decoder, calls = Decoder(tiny, FakeSwitch(tiny.model)), []
    prompt = Prompt("a", (3, 4, 5), 6, 6)
    (plain,) = decoder.decode([prompt], UniformScheduler(3))
    grid = decoder.decode_batch([prompt], [UniformScheduler(3)], on_block=lambda: calls.append(1))
    ((called,),) = grid.responses
    assert called.tokens == plain.tokens
    assert len(calls) == 2 * 6  # two blocks, one prefill and five decode steps
