from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from accuracy.decoding import Response
from accuracy.metrics import (
    METRICS,
    Reference,
    bleu_signature,
    bleu_statistics,
    corpus_bleu,
    get_metric,
    identical_prefix_tokens,
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
def test_rouge_l_equals_the_rouge_score_package(prediction, reference):
    expected = RougeScorer(["rougeL"], use_stemmer=True).score(reference, prediction)["rougeL"].fmeasure
    assert rouge_l(prediction, reference) == pytest.approx(100 * expected)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(sentences, sentences), min_size=1, max_size=6))
def test_corpus_bleu_of_summed_statistics_equals_sacrebleu(pairs):
    predictions, references = zip(*pairs, strict=True)
    expected = BLEU().corpus_score(list(predictions), [list(references)]).score
    sums = np.array([bleu_statistics(*pair) for pair in pairs]).sum(0)
    assert float(corpus_bleu(sums, len(pairs))) == pytest.approx(expected, abs=1e-9)


def test_corpus_bleu_scores_many_resamples_at_once():
    rows = np.array([bleu_statistics("the cat sat on a mat", "the cat sat on the mat"), bleu_statistics("no", "yes")])
    scores = corpus_bleu(np.stack([rows[0], rows[1], rows.sum(0)]), 2)
    assert scores.shape == (3,)
    assert scores[1] == 0
    assert 0 < scores[2] < scores[0] < 100


def test_the_signature_names_tokenizer_and_smoothing():
    assert "tok:13a" in bleu_signature()
    assert "smooth:exp" in bleu_signature()


def test_identical_prefix_counts_leading_equal_tokens():
    assert identical_prefix_tokens([1, 2, 3], [1, 2, 3]) == 3
    assert identical_prefix_tokens([1, 2], [1, 2, 3]) == 2
    assert identical_prefix_tokens([9, 2, 3], [1, 2, 3]) == 0
    assert identical_prefix_tokens([], [1]) == 0


def test_the_full_precision_output_is_perfectly_faithful_to_itself_even_when_empty():
    for text in ("the cat", ""):
        full = response(text)
        assert METRICS["fidelity_rouge_l"].statistics(full, Reference("gold", full)) == (100.0,)
    assert METRICS["fidelity_rouge_l"].statistics(response("a"), Reference("gold", response(""))) == (0.0,)


def test_scores_of_one_response_by_hand():
    reference = Reference("the cat sat on the mat", response("the cat sat here", (5, 6, 7, 2)))
    scored = response("the cat sat there", (5, 6, 8, 2))
    expected = {
        "rouge_l": 60.0,  # 3 of 4 and 3 of 6 words
        "fidelity_rouge_l": 75.0,
        "identical_prefix_tokens": 2.0,
        "bleu": BLEU().corpus_score([scored.text], [[reference.gold]]).score,
    }
    for name, metric in METRICS.items():
        statistics = np.array(metric.statistics(scored, reference), dtype=float)
        assert float(metric.aggregate(statistics, 1)) == pytest.approx(expected[name]), name


def test_unknown_metrics_suggest_the_nearest():
    with pytest.raises(InputError, match=r"unknown metric 'rougeL'; did you mean 'rouge_l'\?"):
        get_metric("rougeL")
