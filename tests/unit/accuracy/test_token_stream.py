from __future__ import annotations

import threading

import pytest

from accuracy.decoding import Decoder, Prompt, TokenStream
from accuracy.model import ModelBusyError
from accuracy.schedulers import StaticScheduler, UniformScheduler
from hwsim.trace import InputError, Schedule

from .conftest import FakeSwitch, fixed_decoder, tiny_llama

SCHEDULE = StaticScheduler(Schedule.from_label("p4:4>2@3"))


def test_the_tokens_are_those_of_the_response_with_the_time_of_every_pass():
    lm = tiny_llama()
    decoder = Decoder(lm, FakeSwitch(lm.model))
    prompt = Prompt("a", (3, 4, 5), 12, min_new_tokens=12)
    (response,) = decoder.decode([prompt], SCHEDULE)
    with TokenStream(decoder, prompt, SCHEDULE) as stream:
        tokens = list(stream)
    assert tuple(token.token_id for token in tokens) == response.tokens
    assert tuple(token.weight_bits for token in tokens) == (4, *response.decode_weight_bits)
    assert "".join(token.text for token in tokens).strip() == response.text
    assert all(token.pass_ns > 0 for token in tokens)
    assert stream.ended
    assert stream.take(0) == []


def test_the_pass_times_of_a_stream_are_the_responses_own():
    lm = tiny_llama()
    tokens = []
    decoder = Decoder(lm, FakeSwitch(lm.model))
    (response,) = decoder.decode([Prompt("a", (3, 4), 9, 9)], SCHEDULE, on_token=tokens.append)
    assert [token.pass_ns for token in tokens] == [response.prefill_ns, *response.step_ns]
    batch = []
    decoder.decode([Prompt("a", (3, 4), 5), Prompt("b", (5, 4), 5)], SCHEDULE, 2, on_token=batch.append)
    assert {token.pass_ns for token in batch} == {None}


class Gate:
    """A model that makes one token each time the test lets it."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.asked, self.passes = [], threading.Semaphore(0)
        self.decoder = fixed_decoder(self._next)
        self._fails_at = fails_at

    def _next(self, position: int, bits: int) -> int:
        self.asked.append(position)
        if position == self._fails_at:
            raise RuntimeError("the device is gone")
        assert self.passes.acquire(timeout=20)
        return 5

    def let(self, tokens: int) -> None:
        self.passes.release(tokens)


def test_tokens_arrive_while_the_rest_is_still_to_be_decoded():
    gate = Gate()
    gate.let(2)
    with TokenStream(gate.decoder, Prompt("a", (3, 3), 4), UniformScheduler(3)) as stream:
        assert [next(stream).text, next(stream).text] == ["t5", " t5"]
        assert stream.take(0) == []
        assert not stream.ended
        gate.let(2)
        assert [token.text for token in stream] == [" t5", " t5"]
    assert gate.asked == [2, 3, 4, 5]


def test_stopping_ends_the_run_before_its_next_step_and_keeps_what_was_made():
    gate = Gate()
    gate.let(2)
    stream = TokenStream(gate.decoder, Prompt("a", (3, 3), 30), UniformScheduler(3))
    tokens = [next(stream)]
    stream.stop()
    gate.let(1)
    stream.close()
    tokens += list(stream)
    assert len(tokens) <= len(gate.asked) <= 3
    assert all(token.finish_reason is None for token in tokens)
    with TokenStream(fixed_decoder(lambda *_: 5), Prompt("b", (3,), 2), UniformScheduler(3)) as again:
        assert len(list(again)) == 2


def test_an_error_while_decoding_is_raised_after_the_tokens_before_it():
    gate = Gate(fails_at=3)
    gate.let(9)
    stream = TokenStream(gate.decoder, Prompt("a", (3, 3), 9), UniformScheduler(3))
    assert next(stream).text == "t5"
    with pytest.raises(RuntimeError, match="the device is gone"):
        next(stream)
    assert stream.ended
    late = TokenStream(gate.decoder, Prompt("a", (3, 3), 9), UniformScheduler(3))
    late._thread.join()
    assert [token.text for token in late.take(1)] == ["t5"]
    with pytest.raises(RuntimeError, match="the device is gone"):
        late.take(1)
    assert late.take(1) == []


def test_what_cannot_run_is_refused_before_a_thread_begins():
    before = threading.active_count()
    with pytest.raises(InputError, match="weight_bits = 7: not stored"):
        TokenStream(fixed_decoder(lambda *_: 5), Prompt("a", (3,), 4), UniformScheduler(7))
    assert threading.active_count() == before


def test_streams_of_one_model_take_turns_and_a_waiting_one_can_be_stopped():
    gate = Gate()
    first = TokenStream(gate.decoder, Prompt("a", (3, 3), 3), UniformScheduler(3))
    gate.let(1)
    assert next(first).index == 0
    second = TokenStream(gate.decoder, Prompt("b", (3,), 2), UniformScheduler(4))
    third = TokenStream(gate.decoder, Prompt("c", (3,), 2), UniformScheduler(3))
    assert second.waiting
    assert second.take(0) == []
    third.close()
    assert third.waiting
    assert list(third) == []
    gate.let(2)
    assert [token.text for token in first] == [" t5", " t5"]
    gate.let(2)
    assert [(token.text, token.weight_bits) for token in second] == [("t5", 4), (" t5", 4)]
    assert not second.waiting
    assert gate.asked == [2, 3, 4, 1, 2]


def test_a_stopped_prefill_ends_before_its_next_decoder_block():
    lm = tiny_llama()
    decoder = Decoder(lm, FakeSwitch(lm.model))
    first_block, second_block = lm.model.model.layers
    reached, go_on, ran = threading.Event(), threading.Event(), []

    def hold(*_):
        reached.set()
        assert go_on.wait(20)

    handle = first_block.register_forward_hook(hold)
    second_block.register_forward_hook(lambda *_: ran.append("second block"))
    stream = TokenStream(decoder, Prompt("a", (3, 4, 5), 30), SCHEDULE)
    assert reached.wait(20)
    assert not stream.waiting
    stream.stop()
    go_on.set()
    assert list(stream) == []
    assert ran == []
    handle.remove()
    assert not any(module._forward_pre_hooks for module in lm.model.modules())
    assert not lm.lock.locked()
    assert len(decoder.decode([Prompt("b", (3, 4, 5), 5, 5)], SCHEDULE)[0].tokens) == 5


class Rehearsing(StaticScheduler):
    """Decodes with the very model that it plans for."""

    decoder: Decoder

    def plan(self, prefill):
        self.decoder.decode([Prompt("rehearsal", (3,), 2)], SCHEDULE)
        return super().plan(prefill)


def test_a_scheduler_that_decodes_with_its_own_model_is_an_error_and_not_waited_for():
    lm = tiny_llama()
    scheduler = Rehearsing(SCHEDULE.schedule)
    scheduler.decoder = Decoder(lm, FakeSwitch(lm.model))
    stream = TokenStream(scheduler.decoder, Prompt("a", (3, 4), 3), scheduler)
    with pytest.raises(ModelBusyError, match="is decoding already"):
        stream.take(20)
    assert not lm.lock.locked()


def test_a_stream_is_told_what_its_scheduler_planned():
    lm = tiny_llama()
    with TokenStream(Decoder(lm, FakeSwitch(lm.model)), Prompt("a", (3, 4), 3, 3), SCHEDULE) as stream:
        assert {token.schedule.label() for token in stream} == {"p4:4>2@3"}
