from __future__ import annotations

import pytest

from accuracy.quantization import NestedSettings
from accuracy.quantization.sparse import TOLERANCE_BITS, average_bits
from studies.quantization_quality.variants import (
    WIDTHS,
    dense_average,
    grid_average,
    group_size_for,
    make_variants,
)

SHAPES = [(256, 256), (512, 256), (256, 512)]


def test_every_quantiser_is_measured_at_every_width_it_is_asked_for():
    variants, skipped = make_variants(SHAPES)
    assert not skipped
    measured = {}
    for variant in variants:
        measured.setdefault(variant.name, set()).update(variant.widths)
    for name in ("nested", "nested-fisher", "nested-hessian", "rtn", "gptq"):
        assert measured[name] == set(WIDTHS), name
    for name in ("nested-g64", "nested-fisher-g64", "nested-hessian-g64", "rtn-g64", "gptq-g64"):
        assert measured[name] == {2, 3, 4}, name
    assert measured["dns"] == measured["dns-fisher"] == measured["dns-hessian"] == {2, 3, 4, 5, 6, 7}
    # One store a width, measured or not, is what the nested store's bytes are compared with.
    assert sorted(v.method.widths[0] for v in variants if v.name == "direct") == list(WIDTHS)
    assert len({variant.label for variant in variants}) == len(variants)


def test_bits_per_weight_are_those_of_the_method_itself():
    square = [(64, 128)]
    # Planes of 128 columns fill their words; a row's codebook of 2**b fp16 entries is shared by 128 weights.
    assert dense_average(square, 3) == pytest.approx(3 + 8 * 16 / 128)
    assert dense_average(square, 2, 32) == pytest.approx(2 + 4 * 4 * 16 / 128)
    # A uniform grid takes 16 bits of step and b of zero instead.
    assert grid_average(square, 3) == pytest.approx(3 + (16 + 3) / 128)
    assert grid_average(square, 3, 32) == pytest.approx(3 + 4 * (16 + 3) / 128)
    # Rows of 33 columns are padded to 64.
    assert grid_average([(5, 33)], 2) == pytest.approx((2 * 64 + 18) / 33)


def test_dense_and_sparse_stores_average_what_their_neighbour_does():
    for variant in make_variants(SHAPES)[0]:
        if not variant.matched_to:
            continue
        method = variant.method
        assert isinstance(method, NestedSettings)
        (bits,) = variant.widths
        stored = average_bits(SHAPES, bits, method.outlier_share)
        assert stored == pytest.approx(variant.bits_per_weight[bits], abs=TOLERANCE_BITS)
        targets = {
            **{f"nested {width}": dense_average(SHAPES, width) for width in range(3, 9)},
            "gptq-g64 3": grid_average(SHAPES, 3, 64),
            "2.39 and codebooks": dense_average(SHAPES, 2) + 0.39,
        }
        assert stored == pytest.approx(targets[variant.matched_to], abs=TOLERANCE_BITS)


def test_an_average_below_the_row_pointers_is_left_out_and_said():
    variants, skipped = make_variants([(172, 64), (64, 64)])
    assert any(line.startswith("dns 2 as 2.39 and codebooks: average bits = 3.39: must be 3.5") for line in skipped)
    assert not [variant for variant in variants if variant.matched_to.startswith("2.39")]


def test_groups_are_smaller_than_the_rows():
    assert group_size_for([(8, 192), (8, 384)]) == 64
    assert group_size_for([(8, 64), (8, 172)]) == 32
