from __future__ import annotations

import re
import threading

import pytest
import torch

from hwsim.trace import InputError
from studies.demo.choices import Choices
from studies.demo.conversation import Conversation, Conversations, Engine

SHORT = Choices(widths=(4, 2), switch_step=3, max_new_tokens=8, rival="nothing")


@pytest.fixture
def prompt(model):
    return next(iter(model.references))


def last(conversation, prompt, choices):
    """The turn as it is when the answer has ended."""
    (*_, turns) = conversation.ask(prompt, choices)
    assert turns == conversation.turns
    return turns[-1]


def test_an_answer_grows_token_by_token_at_the_widths_of_its_schedule(engine, gate, prompt):
    asked = Conversation(engine).ask(prompt, SHORT)
    turns = next(asked)
    assert turns[-1].replies[0].tokens == ()
    gate.let(1)
    while not turns[-1].replies[0].tokens:
        turns = next(asked)
    assert len(turns[-1].replies[0].tokens) == 1
    gate.open()
    (*_, turns) = asked
    (reply,) = turns[-1].replies
    assert (reply.state, len(reply.tokens), reply.title) == ("complete", 8, "PMPD, Static")
    assert [token.weight_bits for token in reply.tokens] == [4, 4, 4, 4, 2, 2, 2, 2]
    assert reply.mean_decode_bits == (3 * 4 + 4 * 2) / 7
    times = [token.pass_ns for token in reply.tokens[1:]]
    assert reply.decode_tokens_per_s == pytest.approx(7e9 / sum(times))
    assert reply.prefill_s == reply.tokens[0].pass_ns / 1e9
    assert turns[-1].reference.startswith(reply.text.strip()[:10])


def test_a_rival_answers_the_same_prompt_under_its_own_schedule(engine, prompt):
    turn = last(Conversation(engine), prompt, Choices(widths=(4, 2), max_new_tokens=6, switch_step=2, rival="p3:3>2@2"))
    first, rival = turn.replies
    assert rival.title == "p3:3>2@2"
    assert first.decode_weight_bits == (4, 4, 2, 2, 2)
    assert rival.decode_weight_bits == (3, 3, 2, 2, 2)
    assert rival.prompt_tokens == first.prompt_tokens
    assert not turn.error


def test_stop_keeps_what_was_decoded_and_starts_no_rival(engine, gate, prompt):
    conversation = Conversation(engine)
    asked = conversation.ask(prompt, Choices(widths=(4, 2), max_new_tokens=90, rival="High"))
    next(asked)
    gate.let(2)
    while len(conversation.turns[-1].replies[0].tokens) < 2:
        next(asked)
    conversation.stop()
    gate.open()
    (*_, turns) = asked
    (reply,) = turns[-1].replies
    assert reply.state == "stopped"
    assert len(reply.tokens) == 2
    assert len(last(conversation, prompt, SHORT).replies[0].tokens) == 8
    assert len(conversation.turns) == 2


def test_stop_ends_a_prefill_before_its_first_token(engine, gate, prompt):
    conversation = Conversation(engine)
    asked = conversation.ask(prompt, Choices(max_new_tokens=90, rival="High"))
    next(asked)
    while not engine.model.lm.lock.locked():
        pass
    conversation.stop()
    gate.let(1)
    (*_, turns) = asked
    assert [(reply.state, reply.tokens) for reply in turns[-1].replies] == [("stopped", ())]
    assert not turns[-1].error


def test_clear_while_decoding_leaves_nothing_behind(engine, gate, prompt):
    conversation = Conversation(engine)
    asked = conversation.ask(prompt, Choices(max_new_tokens=90))
    next(asked)
    gate.let(1)
    next(asked)
    conversation.clear()
    gate.open()
    assert list(asked) == []
    assert conversation.turns == ()
    assert len(last(conversation, prompt, SHORT).replies[0].tokens) == 8


def test_two_tabs_take_turns_and_do_not_mix(engine, gate, model):
    tabs = Conversations(engine)
    prompts = list(model.references)[:2]
    results = {}

    def answer(tab: str, prompt: str) -> None:
        results[tab] = [turns[-1].replies for turns in tabs.of(tab).ask(prompt, SHORT) if turns[-1].replies]

    first = threading.Thread(target=answer, args=("a", prompts[0]))
    first.start()
    gate.let(1)
    while not engine.model.lm.lock.locked():
        pass
    second = threading.Thread(target=answer, args=("b", prompts[1]))
    second.start()
    while not tabs.of("b").turns or tabs.of("b").turns[-1].replies[0].state == "starting":
        pass
    assert tabs.of("b").turns[-1].replies[0].state == "waiting"
    gate.open()
    first.join()
    second.join()
    alone = {tab: last(Conversation(engine), prompt, SHORT) for tab, prompt in zip("ab", prompts, strict=True)}
    for tab in "ab":
        assert results[tab][-1][0].text == alone[tab].replies[0].text
    assert results["a"][-1][0].text != results["b"][-1][0].text
    assert len(tabs) == 2


def test_a_tab_that_closes_while_it_decodes_gives_the_model_back(engine, gate, prompt):
    tabs = Conversations(engine)
    asked = tabs.of("a").ask(prompt, Choices(max_new_tokens=400))
    next(asked)
    gate.let(1)
    next(asked)
    tabs.drop("a")
    asked.close()
    gate.let(2)
    assert engine.model.lm.lock.acquire(timeout=60)
    engine.model.lm.lock.release()
    assert tabs.find("a") is None
    assert len(tabs) == 0


def test_a_tab_answers_one_prompt_at_a_time(engine, gate, prompt, monkeypatch):
    monkeypatch.setattr("studies.demo.conversation.WIND_UP_S", 0.01)
    conversation = Conversation(engine)
    asked = conversation.ask(prompt, SHORT)
    next(asked)
    (turns,) = conversation.ask(prompt, SHORT)
    assert turns[-1].error == "this tab is still answering: press Stop first, or wait"
    gate.open()
    assert list(asked)[-1][-1].replies[0].state == "complete"
    assert len(conversation.turns) == 1


@pytest.mark.parametrize(
    ("prompt", "choices", "said"),
    [
        ("  \n", SHORT, "prompt: empty; write something first"),
        ("word " * 600, SHORT, r"\d+ prompt tokens \+ max_new_tokens 8 = \d+: selvic-llama holds at most 512; shorten"),
        ("x" * 1_000_000, SHORT, "prompt: 1,000,000 characters; selvic-llama holds at most 512 tokens"),
        ("you", Choices(max_new_tokens=600), r"\d+ prompt tokens \+ max_new_tokens 600"),
        ("you", Choices(widths=(8, 2)), "weight_bits = 8: not stored; stored widths: 2, 3, 4, 16"),
        ("you", Choices(rival="p4:9"), "schedule 'p4:9'"),
        ("you", Choices(rival="medium"), "schedule 'medium': must look like p4:4>3@40"),
        ("you", Choices(scheduler="Learned"), "scheduler = Learned: the shipped scheduler was trained for another"),
    ],
)
def test_what_cannot_run_is_said_before_anything_is_decoded(engine, prompt, choices, said):
    conversation = Conversation(engine)
    turn = last(conversation, prompt, choices)
    assert turn.replies == ()
    assert re.match(said, turn.error.removeprefix("prompt 'as typed': ").removeprefix("schedule p8:8>2@20: "))
    assert not engine.model.lm.lock.locked()


def test_controls_that_cannot_be_are_said_in_a_turn_that_stays(engine, prompt):
    conversation = Conversation(engine)
    assert last(conversation, prompt, InputError("precision set: empty")).error == "precision set: empty"
    last(conversation, prompt, SHORT)
    assert [turn.error for turn in conversation.turns] == ["precision set: empty", ""]


def lose_device_after(engine, passes: int, error: Exception):
    """From the given pass on, the model raises."""
    left = [passes]

    def hook(*_):
        left[0] -= 1
        if left[0] < 0:
            raise error

    return engine.model.lm.model.register_forward_pre_hook(hook)


def test_a_lost_gpu_ends_the_answer_in_words_and_the_cpu_goes_on(model, store, prompt):
    from accuracy.quantization import load_store
    from studies.demo.model import DemoModel

    engine = Engine(DemoModel.of(load_store(store)), on_cpu=lambda: model)
    engine.device = "NVIDIA H100"
    lose_device_after(engine, 3, torch.AcceleratorError("CUDA error: unspecified launch failure\nmore\nlines"))
    conversation = Conversation(engine)
    turn = last(conversation, prompt, SHORT)
    assert (turn.replies[0].state, len(turn.replies[0].tokens)) == ("failed", 3)
    assert turn.error == (
        "NVIDIA H100 was lost while decoding (CUDA error: unspecified launch failure); the model runs on the CPU from "
        "now on: send the prompt again"
    )
    again = last(conversation, prompt, SHORT)
    assert (again.replies[0].state, again.replies[0].device) == ("complete", "cpu")


def test_a_tab_whose_gpu_another_tab_lost_before_is_told_of_the_gpu(engine):
    error = RuntimeError("CUDA error: unspecified launch failure")  # of what began before the model ran on the CPU
    assert engine.explain(error, "NVIDIA H100") == (
        "NVIDIA H100 was lost while decoding (CUDA error: unspecified launch failure); the model runs on the CPU now: "
        "send the prompt again"
    )


def test_too_little_gpu_memory_names_every_remedy_and_keeps_the_gpu(model, store, prompt):
    from accuracy.quantization import load_store
    from studies.demo.model import DemoModel

    engine = Engine(DemoModel.of(load_store(store)), on_cpu=lambda: model)
    engine.device = "NVIDIA H100"
    handle = lose_device_after(engine, 2, torch.AcceleratorError("CUDA error: out of memory\nmore"))
    turn = last(Conversation(engine), prompt, SHORT)
    handle.remove()
    assert turn.error == (
        "NVIDIA H100 has not enough memory for this prompt and response: lower max new tokens, shorten the prompt, or "
        "start the demo with --device cpu"
    )
    assert engine.device == "NVIDIA H100"
    assert last(Conversation(engine), prompt, SHORT).replies[0].state == "complete"


def test_a_lost_gpu_without_a_way_back_says_how_to_go_on(store, prompt):
    from accuracy.quantization import load_store
    from studies.demo.model import DemoModel

    def gone():
        raise OSError("the disk is gone too")

    engine = Engine(DemoModel.of(load_store(store)), on_cpu=gone)
    engine.device = "NVIDIA H100"
    lose_device_after(engine, 1, RuntimeError("Triton Error [CUDA]: device-side assert triggered"))
    turn = last(Conversation(engine), prompt, SHORT)
    assert turn.error.endswith("start the demo again, with --device cpu to go on without it")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            torch.OutOfMemoryError("tried to allocate"),
            "cpu has not enough memory for this prompt and response: lower max new tokens, shorten the prompt",
        ),
        (ZeroDivisionError("so"), r"decoding ended with an error (ZeroDivisionError: so); what was decoded is kept"),
    ],
)
def test_other_errors_are_one_line_and_leave_the_demo_usable(engine, prompt, error, said):
    handle = lose_device_after(engine, 2, error)
    conversation = Conversation(engine)
    turn = last(conversation, prompt, SHORT)
    handle.remove()
    assert said in turn.error
    assert (turn.replies[0].state, len(turn.replies[0].tokens)) == ("failed", 2)
    assert last(conversation, prompt, SHORT).replies[0].state == "complete"
