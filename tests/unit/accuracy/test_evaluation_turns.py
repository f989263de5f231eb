"""Conversations: every scheduler reads its own answers, and a question's turns are resampled together."""

from __future__ import annotations

import json

import pytest

from accuracy.decoding import Decoder, Prompt
from accuracy.evaluation import evaluate, read_per_prompt, response_tokens, trace_file_name
from accuracy.metrics import rouge_l
from accuracy.schedulers import StaticScheduler
from accuracy.statistics import bootstrap, paired_difference
from accuracy.tasks import Example, Task
from hwsim.trace import InputError, Schedule, read_trace

from .conftest import FakeSwitch, tiny_llama

FULL, FOUR, TWO = Schedule.uniform(16), Schedule.uniform(4), Schedule.uniform(2)
QUESTIONS = 8


class Interview(Task):
    """Two questions; the second prompt is the first, its answer, and one more word."""

    name, version, max_new_tokens, turns = "interview", "1", 7, 2
    metrics = ("fidelity_rouge_l",)
    has_references = False

    def _stream(self, split):
        for number in range(QUESTIONS):
            words = " ".join(f"t{3 + (7 * number + place) % 50}" for place in range(2 + number % 3))
            yield Example(f"q{number}", words, None, "maths" if number % 2 else "writing")

    def next_prompt(self, example, answers):
        (answer,) = answers
        return f"{example.prompt} {answer} t9"


def run(out, schedulers, context=96, **options):
    lm = tiny_llama(context=context)
    options = {"split": "test", "out": out, "batch_size": 4, "progress": False, **options}
    return evaluate(lm, Interview(), schedulers, switch=FakeSwitch(lm.model), **options)


def rows(out):
    return [json.loads(line) for line in (out / "per_prompt.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("interview")
    return out, run(out, [FOUR, TWO])


def test_each_scheduler_reads_its_own_first_answer(finished):
    out, _ = finished
    lm = tiny_llama()
    decoder = Decoder(lm, FakeSwitch(lm.model))
    task = Interview()
    for schedule in (FOUR, TWO):
        mine = [row for row in rows(out) if row["scheduler"] == schedule.label()]
        assert [(row["example"], row["turn"], row["id"]) for row in mine] == [
            (f"q{number}", turn, f"q{number}#{turn}") for number in range(QUESTIONS) for turn in (1, 2)
        ]
        for turn in (1, 2):
            said = {row["example"]: row["text"] for row in mine if row["turn"] == 1}
            texts = [
                example.prompt if turn == 1 else task.next_prompt(example, [said[example.id]])
                for example in task.examples("test")
            ]
            prompts = [
                Prompt(f"q{number}", tuple(task.encode(lm.tokenizer, text)), 7) for number, text in enumerate(texts)
            ]
            alone = decoder.decode(prompts, StaticScheduler(schedule), batch_size=4)
            assert [row["text"] for row in mine if row["turn"] == turn] == [one.text for one in alone]


def test_the_reference_of_the_second_turn_is_full_precision_s_own_conversation(finished, tmp_path):
    out, _ = finished
    (record,) = run(tmp_path, [FULL])
    assert record.value == 100.0
    full = {row["id"]: row["text"] for row in rows(tmp_path)}
    for row in rows(out):
        same = row["text"] == full[row["id"]]  # two empty answers agree, which plain Rouge does not say
        wanted = 100.0 if same else rouge_l(row["text"], full[row["id"]])
        assert row["statistics"]["fidelity_rouge_l"] == [pytest.approx(wanted)]


def test_intervals_resample_questions_with_all_their_turns(finished):
    out, records = finished
    measured = read_per_prompt(out)
    groups = [f"q{number}" for number in range(QUESTIONS) for _ in range(2)]
    assert measured.examples == groups
    for record in records:
        statistics = measured.statistics[record.scheduler_label]["fidelity_rouge_l"]
        interval = bootstrap(statistics, groups=groups, seed=0)
        assert (record.n, len(statistics)) == (QUESTIONS, 2 * QUESTIONS)
        assert (record.value, record.ci_low, record.ci_high) == (interval.value, interval.low, interval.high)
    four, two = (measured.statistics[name]["fidelity_rouge_l"] for name in ("p4:4", "p2:2"))
    difference = measured.difference("p2:2", "p4:4", "fidelity_rouge_l", seed=3)
    assert difference == paired_difference(two, four, groups=groups, seed=3)
    assert difference.value < 0


def test_a_trace_holds_every_turn_under_an_id_of_its_own(finished):
    out, _ = finished
    trace = read_trace(out / trace_file_name("p4:4"))
    assert [sequence.id for sequence in trace.sequences] == [
        f"q{n}#{turn}" for n in range(QUESTIONS) for turn in (1, 2)
    ]
    first, second = trace.sequences[:2]
    assert second.prompt_tokens > first.prompt_tokens
    categories = {row["example"]: row["category"] for row in rows(out)}
    assert (categories["q0"], categories["q1"]) == ("writing", "maths")


def test_schedulers_whose_conversations_are_equal_share_the_second_turn_too(tmp_path, monkeypatch):
    calls = []
    decode = Decoder.decode_batch

    def counted(self, prompts, schedulers, **options):
        calls.append((prompts[0].id[-2:], len(prompts), len(schedulers)))
        return decode(self, prompts, schedulers, **options)

    monkeypatch.setattr(Decoder, "decode_batch", counted)
    late = Schedule.from_pairs(4, [(0, 4), (50, 2)])  # no response gets that far
    run(tmp_path, [FOUR, late, TWO], metrics=["fidelity_rouge_l"])
    assert [call for call in calls if call[0] == "#1"] == [("#1", 4, 4)] * 2  # full precision is the reference
    assert sorted(call for call in calls if call[0] == "#2") == [("#2", 4, 1)] * 4 + [("#2", 4, 2)] * 2


def test_a_conversation_that_might_outgrow_the_context_is_refused_before_anything_runs(tmp_path):
    longest = 1 + 4 + 1  # with <s>, four words and the last one
    need = longest + 7 + 7
    run(tmp_path / "fits", [FOUR], context=need, metrics=["fidelity_rouge_l"])
    with pytest.raises(InputError, match=rf"prompt 'q2#2': .* = {need}: tiny holds at most {need - 1}"):
        run(tmp_path / "out", [FOUR], context=need - 1)
    assert not (tmp_path / "out").exists()


def test_lengths_are_measured_and_forced_turn_by_turn(tmp_path):
    lm = tiny_llama()
    switch = FakeSwitch(lm.model)
    options = {"split": "test", "batch_size": 4, "progress": False}
    lengths = response_tokens(lm, Interview(), FOUR, cache=tmp_path / "lengths.jsonl", switch=switch, **options)
    assert len(lengths) == 2 * QUESTIONS
    run(tmp_path / "free", [FOUR])
    assert lengths == {row["id"]: row["generated_tokens"] for row in rows(tmp_path / "free")}
    run(tmp_path / "forced", [FOUR, TWO], forced_tokens=lengths)
    assert all(row["generated_tokens"] == lengths[row["id"]] for row in rows(tmp_path / "forced"))
    steps = json.loads((tmp_path / "forced" / "manifest.json").read_text())
    assert steps["decode_steps"] == 2 * sum(length - 1 for length in lengths.values())
