from __future__ import annotations

from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsim.trace import Schedule
from studies.demo import render
from studies.demo.conversation import Reply, Turn

from .conftest import token

HOSTILE = [
    "<script>document.title='x'</script>",
    "<img src=x onerror=\"document.title='x'\">",
    "'\"><b onmouseover=alert(1)>",
    "${document.title='x'} {{value}} `${1}`",
    "</div></section><iframe src=//example.org>",
    "&lt;script&gt;",
]


class Seen(HTMLParser):
    """The tags, attribute names and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def reply(*texts: str, state="complete", label="p4:4>2@1", learned=False):
    schedule = Schedule.from_label(label)
    widths = [schedule.prefill_weight_bits, *schedule.expand(max(len(texts) - 1, 0))]
    tokens = tuple(token(text, index=i, bits=widths[i], schedule=schedule) for i, text in enumerate(texts))
    if tokens and state == "complete":
        tokens[-1].finish_reason = "eos"
    scheduler = SimpleNamespace(schedule=None if learned else schedule)
    return Reply("PMPD", scheduler, 7, 96, "cpu", tokens, state)


@pytest.mark.parametrize("text", HOSTILE)
def test_markup_is_shown_and_never_becomes_markup(text):
    calm = Seen(render.transcript([Turn("a", (reply("b"),), "c", "d")], "cpu"))
    turn = Turn(text, (reply(text),), text, text)
    page = render.transcript([turn], text)
    seen = Seen(page)
    assert seen.text.count(text) >= 4
    assert seen.tags == calm.tags
    assert seen.attributes == calm.attributes
    assert not set("${}`") & set(page)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="<>&'\"/ab=${}`;#\n", max_size=30))
def test_whatever_the_text_only_text_comes_out(text):
    page = f"<p>{render.escape(text)}</p>"
    assert Seen(page).tags == {"p"}
    assert Seen(page).text == text
    assert not set("<>\"'${}`") & set(render.escape(text))


def test_runs_of_one_width_are_labelled_and_every_token_tells_its_bits_and_time():
    page = render.transcript([Turn("a", (reply("one", " two", " three"),))], "cpu")
    assert page.count('class="bt-run bt-w4"') == page.count('class="bt-run bt-w2"') == 1
    assert '<sup aria-label="4 bits:">4</sup>' in page
    for title in ("prefill, 4 bits, 2 ms", "decode step 0, 4 bits, 2 ms", "decode step 1, 2 bits, 2 ms"):
        assert f'title="{title}"' in page


def test_speed_and_bits_are_shown_as_measured():
    text = Seen(render.transcript([Turn("a", (reply("one", " two", " three"),))], "Some CPU")).text
    for part in ("500.0 tokens/s", "measured on Some CPU", "3.00", "over 2 decode steps", "of at most 96; complete"):
        assert part in text
    early = Seen(render.transcript([Turn("a", (reply(state="waiting"),))], "Some CPU")).text
    assert "–" in early
    assert "waiting for another tab" in early


@pytest.mark.parametrize(
    ("label", "learned", "state", "said"),
    [
        ("p4:4>2@1", False, "complete", "Decoded at 4 bits, switched to 2 at decode step 1."),
        ("p4:4>3@1>2@2", False, "complete", "switched to 3 at decode step 1, then to 2 at decode step 2."),
        ("p4:4>3@1>2@9", False, "decoding", "switched to 3 at decode step 1; will switch to 2 at decode step 9."),
        ("p4:4>2@9", False, "stopped", "Decoded at 4 bits; ended before it switched to 2 at decode step 9."),
        ("p4:4>2@1", True, "complete", "switched to 2 at decode step 1. Chosen for this prompt."),
        ("p4:2", True, "complete", "Decoded at 2 bits. Chosen for this prompt."),
    ],
)
def test_where_the_width_switched_is_said_as_it_ran(label, learned, state, said):
    answer = reply("one", " two", " three", " four", label=label, learned=learned, state=state)
    text = Seen(render.transcript([Turn("a", (answer,))], "cpu")).text
    assert said in text
    assert f"PMPD {label}" in text


def test_a_choice_that_is_still_to_be_made_is_named_so():
    text = Seen(render.transcript([Turn("a", (reply(learned=True, state="waiting"),))], "cpu")).text
    assert "chosen for each prompt" in text
    assert "Decoded at" not in text


def test_one_width_throughout_is_told_by_the_title_alone():
    assert "bt-switch" not in render.transcript([Turn("a", (reply("one", " two", label="p4:4"),))], "cpu")


def test_a_finished_answer_is_held_against_the_right_one():
    right = render.transcript([Turn("a", (reply("one", " two"),), "one two")], "cpu")
    assert "As the correct translation." in right
    wrong = render.transcript([Turn("a", (reply("one", " two"),), "one deux trois")], "cpu")
    assert "Leaves the correct translation at word 2 of 3." in wrong
    stopped = render.transcript([Turn("a", (reply("one", state="stopped"),), "one two")], "cpu")
    assert "correct translation." not in stopped


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ((), "Answering."),
        (("starting",), "Answering."),
        (("decoding",), "Answering."),
        (("waiting",), "The model is answering another tab"),
        (("complete", "waiting"), "The model is answering another tab"),
        (("complete", "decoding"), "Answering."),
    ],
)
def test_why_nothing_can_be_sent_is_said_of_the_newest_turn(states, said):
    older, newest = (
        Turn("a", (reply("b", state="waiting"),)),
        Turn("c", tuple(reply("d", state=state) for state in states)),
    )
    seen = Seen(render.busy([older, newest])).text
    assert seen.startswith(said)
    assert "Send is off until" in seen and "Stop" in seen
