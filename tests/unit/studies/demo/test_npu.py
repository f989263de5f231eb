from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from hwsim import load_npu, simulate
from hwsim.trace import InputError
from studies.demo import render
from studies.demo.choices import Choices
from studies.demo.conversation import Conversation, Engine, Turn
from studies.demo.figures import png, response_timeline, step_timeline
from studies.demo.npu import replay, reply_trace


@pytest.fixture(scope="module")
def turn(model):
    conversation = Conversation(Engine(model))
    choices = Choices(widths=(4, 2), switch_step=3, max_new_tokens=9, rival="High")
    (*_, turns) = conversation.ask(next(iter(model.references)), choices)
    return turns[-1]


def test_the_npu_runs_the_widths_that_were_decoded(model, turn):
    replays = replay(model, turn, "pmpd-4k")
    for one, reply in zip(replays.replays, turn.replies, strict=True):
        trace = reply_trace(model, reply)
        assert tuple(trace.sequences[0].expand()) == reply.decode_weight_bits
        assert one.result.mean_decode_bits == reply.mean_decode_bits
        events = simulate(load_npu("pmpd-4k"), model.lm.shape, trace)
        assert (one.result.cycles, one.result.energy_j) == (events.cycles, events.energy_j)
        assert one.energy_per_token_j == events.energy_j / 9
        assert one.bytes_per_token == events.dram_bytes / 9
    mixed, high = replays.replays
    assert mixed.result.decode_tokens_per_s > high.result.decode_tokens_per_s
    assert not replays.mismatch


def test_the_table_shows_both_and_says_that_they_are_simulated(model, turn):
    replays = replay(model, turn, "pmpd-4k")
    page = render.replay_table(replays)
    mixed, high = (one.result.decode_tokens_per_s for one in replays.replays)
    assert "Simulated on pmpd-4k, not measured" in page
    assert f"<td>{mixed:,.0f}</td><td>{high:,.0f}</td><td>{mixed / high:.2f}&times;</td>" in page


def test_another_models_shape_is_labelled_as_one(model, turn):
    replays = replay(model, turn, "pmpd-16k", "vicuna-7b")
    assert replays.mismatch
    assert "on the shape of vicuna-7b: its speed, not its text" in render.replay_table(replays)


def test_a_width_that_the_npu_lacks_is_refused_in_words(model, turn, tmp_path):
    npu = load_npu("pmpd-4k", {"matrix.weight_widths": [4, 16], "matrix.lookups_per_cycle": {4: 4096}})
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(npu.model_dump(mode="json")))
    with pytest.raises(InputError, match="weight_bits = 2"):
        replay(model, turn, file)


def one_token(turn) -> Turn:
    reply = turn.replies[0]
    return Turn("a", (replace(reply, tokens=reply.tokens[:1], state="stopped"),))


def test_a_reply_of_one_token_has_no_decoding_speed(model, turn):
    replays = replay(model, one_token(turn), "pmpd-4k")
    assert replays.replays[0].result.decode_tokens_per_s is None
    assert "&ndash;" in render.replay_table(replays)


@pytest.mark.slow
def test_a_reply_of_one_token_has_no_step_to_draw(model, turn):
    replays = replay(model, one_token(turn), "pmpd-4k")
    assert step_timeline(replays) is None
    assert png(response_timeline(replays)).startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_figures_show_every_width_and_reply(model, turn):
    replays = replay(model, turn, "pmpd-4k")
    figure = response_timeline(replays)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["PMPD, Static", "High"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["2 bit", "4 bit", "prefill"]
    ends = {bar.get_x() + bar.get_width() for bar in axes.patches}
    assert max(ends) == pytest.approx(max(one.result.e2e_s for one in replays.replays) * 1e6, rel=1e-6)
    assert step_timeline(replays) is not None
