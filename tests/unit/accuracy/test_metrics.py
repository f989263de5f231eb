from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import corpus_bleu as corpus_bleu_of_nltk
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from accuracy.decoding import Response
from accuracy.metrics import (
    METRICS,
    Reference,
    bleu_signature,
    bleu_statistics,
    corpus_bleu,
    get_metric,
    identical_prefix_tokens,
    rouge_1,
    rouge_2,
    rouge_l,
)
from hwsim.trace import InputError

WORDS = ["the", "running", "runs", "cats", "Cat", "don't", "généralement", "7.5", "-", "flies,", "ponies", "a", "is"]
sentences = st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join)


def response(text: str, tokens=(5, 6, 2)) -> Response:
    return Response("a", 3, tuple(tokens), text, 4, (3,) * (len(tokens) - 1), "eos")


def test_rouge_l_of_known_sentences():
    # Longest common subsequence "the cat the mat": 4 of 6 and 4 of 5 words.
    assert rouge_l("the cat sat on the mat", "the cat is the mat") == pytest.approx(100 * 2 * 4 / 11)
    assert rouge_l("", "the cat") == 0
    assert rouge_l("the cat", "the cat") == 100
    assert rouge_l("he runs", "he running") == 100


@settings(max_examples=100, deadline=None)
@given(sentences | st.text(max_size=40), sentences | st.text(max_size=40))
def test_rouge_equals_the_rouge_score_package(prediction, reference):
    expected = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True).score(reference, prediction)
    assert rouge_1(prediction, reference) == pytest.approx(100 * expected["rouge1"].fmeasure)
    assert rouge_2(prediction, reference) == pytest.approx(100 * expected["rouge2"].fmeasure)
    assert rouge_l(prediction, reference) == pytest.approx(100 * expected["rougeL"].fmeasure)


def test_rouge_equals_the_rouge_score_package_on_real_dialogues(shared_data):
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    lines = (shared_data / "text/dialogsum/dialogsum.dev.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:40]]
    for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
        for prediction in (row["dialogue"], other["summary"]):
            expected = scorer.score(row["summary"], prediction)
            found = [score(prediction, row["summary"]) for score in (rouge_1, rouge_2, rouge_l)]
            assert found == pytest.approx([100 * expected[key].fmeasure for key in ("rouge1", "rouge2", "rougeL")])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(sentences, sentences), min_size=1, max_size=6))
@pytest.mark.parametrize("smooth_method", ["none", "exp"])
def test_corpus_bleu_of_summed_statistics_equals_sacrebleu(smooth_method, pairs):
    predictions, references = zip(*pairs, strict=True)
    expected = BLEU(smooth_method=smooth_method).corpus_score(list(predictions), [list(references)]).score
    sums = np.array([bleu_statistics(*pair) for pair in pairs]).sum(0)
    found = corpus_bleu(sums, len(pairs), smooth_method=smooth_method)
    assert float(found) == pytest.approx(expected, abs=1e-9)


def test_bleu_without_smoothing_equals_nltk_on_real_translations(shared_data):
    folder = shared_data / "text/multi30k"
    lines = (folder / "test_2016_flickr.en").read_text(encoding="utf-8").splitlines()
    # A caption with its last three words gone stands for a translation of it, every tenth for that of its neighbour.
    pairs = [
        (" ".join((lines[index + 1] if index % 10 == 0 else line).split()[:-3]), line)
        for index, line in enumerate(lines[:200])
    ]
    # NLTK counts one n-gram for a text of fewer than n tokens, which sacrebleu does not.
    pairs = [pair for pair in pairs if len(pair[0].split()) >= 4]
    assert len(pairs) > 150
    tokens = [[Tokenizer13a()(text).split() for text in pair] for pair in pairs]
    expected = corpus_bleu_of_nltk([[reference] for _, reference in tokens], [prediction for prediction, _ in tokens])
    sums = np.array([bleu_statistics(*pair) for pair in pairs]).sum(0)
    assert float(corpus_bleu(sums, len(pairs))) == pytest.approx(100 * expected)
    assert float(corpus_bleu(sums, len(pairs), smooth_method="exp")) == pytest.approx(100 * expected)


def test_only_smoothing_tells_sacrebleu_from_bleu():
    # 3 of 4 words and 1 of 3 pairs match, no triple: sacrebleu counts 1/2 of 2 triples, 1/4 of 1 quadruple.
    pair = "the cat sat there", "the cat there is"
    sums = np.array(bleu_statistics(*pair))
    assert float(get_metric("bleu").aggregate(sums, 1)) == 0
    smoothed = 100 * (3 / 4 * 1 / 3 * (1 / 2) / 2 * (1 / 4) / 1) ** (1 / 4)
    assert float(get_metric("sacrebleu").aggregate(sums, 1)) == pytest.approx(smoothed)


def test_corpus_bleu_scores_many_resamples_at_once():
    rows = np.array([bleu_statistics("the cat sat on a mat", "the cat sat on the mat"), bleu_statistics("no", "yes")])
    scores = corpus_bleu(np.stack([rows[0], rows[1], rows.sum(0)]), 2)
    assert scores.shape == (3,)
    assert scores[1] == 0
    assert 0 < scores[2] < scores[0] < 100


def test_descriptions_carry_the_signature():
    assert "tok:13a|smooth:exp" in get_metric("sacrebleu").description
    assert "tok:13a|smooth:none" in get_metric("bleu").description
    assert bleu_signature("exp") in get_metric("sacrebleu").description


def test_identical_prefix_counts_leading_equal_tokens():
    assert identical_prefix_tokens([1, 2, 3], [1, 2, 3]) == 3
    assert identical_prefix_tokens([1, 2], [1, 2, 3]) == 2
    assert identical_prefix_tokens([9, 2, 3], [1, 2, 3]) == 0
    assert identical_prefix_tokens([], [1]) == 0


@given(st.text(max_size=20))
def test_the_full_precision_output_is_perfectly_faithful_to_itself_even_without_a_word(text):
    full = response(text)
    for name in ("fidelity_rouge_1", "fidelity_rouge_2", "fidelity_rouge_l"):
        assert get_metric(name).statistics(full, Reference("gold", full)) == (100.0,)
        assert get_metric(name).statistics(response(text + "a"), Reference("gold", response(""))) == (0.0,)


def test_scores_of_one_response_by_hand():
    reference = Reference("the cat sat on the mat", response("the cat sat here", (5, 6, 7, 2)))
    scored = response("the cat sat there", (5, 6, 8, 2))
    expected = {
        "rouge_1": 60.0,  # 3 of 4 and 3 of 6 words
        "rouge_2": 50.0,  # 2 of 3 and 2 of 5 pairs
        "rouge_l": 60.0,
        "fidelity_rouge_1": 75.0,
        "fidelity_rouge_2": 100 * 2 / 3,
        "fidelity_rouge_l": 75.0,
        "identical_prefix_tokens": 2.0,
        "bleu": 0.0,
        "sacrebleu": BLEU().corpus_score([scored.text], [[reference.gold]]).score,
    }
    assert set(expected) == {name for name in METRICS.names() if "bertscore" not in name}
    for name, value in expected.items():
        metric = get_metric(name)
        statistics = np.array(metric.statistics(scored, reference), dtype=float)
        assert float(metric.aggregate(statistics, 1)) == pytest.approx(value), name
        assert metric.identity() == {"name": name}
        many = metric.statistics_many([scored, reference.full_precision], [reference, reference])
        assert many[0].tolist() == statistics.tolist()
        assert many.shape == (2, len(statistics))


def test_unknown_metrics_suggest_the_nearest():
    with pytest.raises(InputError, match=r"unknown metric 'rougeL'; did you mean 'rouge_l'\?"):
        get_metric("rougeL")
