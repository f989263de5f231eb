from __future__ import annotations

import math

import numpy as np
import pytest

from studies.quantization_quality.measure import Measured
from studies.quantization_quality.table import fidelity, make_row, pitch

IDENTITY = {"model": "m", "quantizer": "q", "bits": 2}


def measured(nll, texts=("a b c d", "e f"), tokens=((1, 2, 3, 4), (5, 6)), largest=(3.0, 2.0)) -> Measured:
    return Measured(
        nll=nll,
        tokens=[list(ids) for ids in tokens],
        texts=list(texts),
        max_abs_hidden=largest[0],
        max_abs_linear_output=largest[1],
    )


FULL = measured([[6.0, 6], [2.0, 2]])


def test_full_precision_differs_from_itself_by_nothing():
    row = make_row(IDENTITY, FULL, FULL, None)
    assert row["perplexity"] == pytest.approx(math.e)
    for name, value in (("log_perplexity_minus_full", 0), ("rouge_l", 100), ("leading_tokens_percent", 100)):
        assert (row[name], row[f"{name}_low"], row[f"{name}_high"]) == (value, value, value)
    assert (row["answers"], row["answer_tokens"], row["prompts"]) == (2, 8, 2)
    assert row["rouge_l_minus_nested"] is None


def test_a_loss_that_is_everywhere_the_same_per_token_has_no_interval():
    row = make_row(IDENTITY, measured([[9.0, 6], [3.0, 2]]), FULL, measured([[7.5, 6], [2.5, 2]]))
    assert row["log_perplexity_minus_full"] == pytest.approx(0.5)
    assert row["log_perplexity_minus_full_low"] == pytest.approx(0.5)
    assert row["log_perplexity_minus_nested_high"] == pytest.approx(0.25)
    assert row["perplexity"] == pytest.approx(math.exp(1.5))


def test_fidelity_counts_words_in_common_and_leading_tokens():
    found = measured(FULL["nll"], texts=("a b x y", ""), tokens=((1, 2, 9, 4), (6, 5)))
    rouge, leading = fidelity(found, FULL)
    assert np.array_equal(rouge, [[50.0], [0.0]])
    assert np.array_equal(leading, [[50.0], [0.0]])
    empty = measured(FULL["nll"], texts=("a b c d", ""), tokens=((1, 2, 3, 4), (2,)))
    assert fidelity(empty, empty)[0].tolist() == [[100.0], [100.0]]


def test_what_is_not_finite_is_said_and_left_empty():
    row = make_row(IDENTITY, measured([[None, 6], [2.0, 2]], largest=(None, 9.0)), FULL, FULL)
    assert not row["logits_finite"]
    assert not row["within_fp16"]
    assert row["perplexity"] is row["log_perplexity_minus_full"] is row["log_perplexity_minus_nested_low"] is None
    assert row["rouge_l"] == 100
    assert make_row(IDENTITY, measured(FULL["nll"], largest=(65504.0, 1.0)), FULL, None)["within_fp16"]
    assert not make_row(IDENTITY, measured(FULL["nll"], largest=(65505.0, 1.0)), FULL, None)["within_fp16"]


def test_one_nested_store_is_counted_against_the_sum_of_the_others():
    def size(quantizer, widths, planes, codebook, fp16=0):
        parts = {"planes_bytes": planes, "codebook_bytes": codebook, "fp16_bytes": fp16}
        return {"quantizer": quantizer, "widths": widths, "weight_file_bytes": planes + codebook + fp16 + 10, **parts}

    sizes = [
        size("nested", "2..3", 300, 12),
        size("nested", "2..3", 300, 12, fp16=1600),
        size("direct", "2", 200, 4),
        size("direct", "3", 300, 8),
        size("rtn", "2", 200, 4),
    ]
    nested, direct, uniform = pitch("m", sizes, {"2 uniform": 5.5}, weights=800)
    assert (nested["layer_bytes"], nested["weight_file_bytes"]) == (312, 322)
    assert nested["layer_bits_per_weight"] == pytest.approx(8 * 312 / 800)
    assert (direct["what"], direct["layer_bytes"]) == ("2 single-width k-means stores", 512)
    assert (uniform["what"], uniform["layer_bytes"], uniform["source"]) == ("2 uniform", 550, "computed")
