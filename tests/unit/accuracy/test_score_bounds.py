from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accuracy.decoding import Response
from accuracy.metrics import METRICS, Reference, bleu_statistics, get_metric
from accuracy.search.score_bounds import BEST_AT_REFERENCE, BLEU_SMOOTHS, BestPossible, best_corpus_bleu

# Few different words, so that n-grams of every order match often; some texts hold no word at all.
texts = st.lists(st.sampled_from(["a", "b", "c", "dog", ".", ","]), max_size=9).map(" ".join)


def response(text: str) -> Response:
    tokens = tuple(map(ord, text)) or (0,)
    return Response("p", 3, tokens, text, 4, (4,) * (len(tokens) - 1), "eos")


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([*BEST_AT_REFERENCE, *BLEU_SMOOTHS]),
    st.lists(st.tuples(texts, texts), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_no_completion_scores_above_the_bound(name, pairs, random):
    metric = get_metric(name)
    answers = [response(answer) for answer, _ in pairs]
    references = [Reference(gold, response(gold)) for _, gold in pairs]
    order = list(range(len(pairs)))
    random.shuffle(order)
    done = order[: random.randint(0, len(pairs))]
    statistics = metric.statistics_many(answers, references)
    final = float(metric.aggregate(statistics.sum(0), len(pairs)))
    best = BestPossible(metric, references)
    assert best.known
    assert final <= best.score(statistics[done], done) + 1e-9


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(texts, texts), max_size=5), st.lists(st.tuples(texts, texts), max_size=5), st.booleans())
def test_corpus_bleu_of_any_rest_is_within_its_bound(reached, rest, smoothed):
    metric = get_metric("sacrebleu" if smoothed else "bleu")

    def sums(pairs):
        return np.sum([np.zeros(10), *(bleu_statistics(*pair) for pair in pairs)], axis=0)

    ideal = sums([(gold, gold) for _, gold in rest])
    bound = best_corpus_bleu(sums(reached), ideal, smoothed=smoothed)
    assert float(metric.aggregate(sums([*reached, *rest]), 1)) <= bound + 1e-9


def test_the_bound_is_reached_by_answers_that_equal_their_references():
    metric = get_metric("bleu")
    gold = ["the dog runs to the house", "a cat sleeps on the old red sofa"]
    answers = [response("the dog runs to a house today"), response(gold[1])]
    references = [Reference(text, None) for text in gold]
    statistics = metric.statistics_many(answers, references)
    best = BestPossible(metric, references)
    assert best.score(statistics[:1], [0]) == pytest.approx(float(metric.aggregate(statistics.sum(0), 2)))
    assert best.score(statistics[:0], []) == pytest.approx(100)


def test_a_reference_too_short_for_an_order_still_leaves_room_where_it_is_smoothed():
    # Nothing of four words so far nor in the references: a longer answer gets half a match of order 4.
    rest = np.array(bleu_statistics("a b c", "a b c"))
    longer = np.array(bleu_statistics("a b c d", "a b c"))
    score = float(get_metric("sacrebleu").aggregate(longer, 1))
    assert 0 < score <= best_corpus_bleu(np.zeros(10), rest, smoothed=True)
    assert best_corpus_bleu(np.zeros(10), rest, smoothed=False) == 0.0


def test_metrics_of_which_nothing_is_known_have_no_bound():
    unknown = METRICS.names()
    assert {"bertscore", "fidelity_bertscore"} <= set(unknown) - {*BEST_AT_REFERENCE, *BLEU_SMOOTHS}
    metric = get_metric("rouge_l")
    other = type(metric)(**{**vars(metric), "name": "somebody's"})
    assert not BestPossible(other, [Reference("a", None)]).known
