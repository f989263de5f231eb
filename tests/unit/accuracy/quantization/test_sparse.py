from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from accuracy.model import decoder_linears, load_model
from accuracy.quantization.nested import NestedMatrix
from accuracy.quantization.rtn import RtnSettings
from accuracy.quantization.sparse import (
    TOLERANCE_BITS,
    average_bits,
    dense_bits,
    outlier_share_for,
    sparse_bits,
    sparse_part,
    split_outliers,
)
from accuracy.quantization.storage import nested_tensors
from hwsim.shapes import load_shape
from hwsim.trace import InputError


def random_weight(N: int, K: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((N, K)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.floats(0, 1), st.booleans(), st.integers(0, 2**31))
def test_outliers_are_exactly_as_many_as_asked_and_no_smaller_than_the_rest(
    N: int, K: int, share: float, sensitive: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # Few distinct values, so that ties are the rule.
    weight = rng.integers(-4, 5, (N, K)).astype(np.float32)
    statistic = rng.integers(0, 3, (N, K)).astype(np.float32) if sensitive else None
    mask = split_outliers(weight, share, statistic)
    assert mask.sum() == round(share * weight.size)
    score = np.abs(weight) if statistic is None else statistic * weight**2
    if 0 < mask.sum() < N * K:
        assert score[mask].min() >= score[~mask].max()
        # Ties go to the first in row order.
        tied = score == score[mask].min()
        kept = mask[tied]
        assert (np.diff(kept.astype(int)) <= 0).all()


def test_sensitivity_chooses_other_outliers_than_magnitude() -> None:
    weight = np.array([[4.0, -3.0, 1.0], [0.0, 2.0, -1.0]], dtype=np.float32)
    statistic = np.array([[0.1, 1.0, 8.0], [9.0, 1.0, 9.5]], dtype=np.float32)
    assert split_outliers(weight, 2 / 6).tolist() == [[True, True, False], [False, False, False]]
    # F w^2 = 1.6, 9, 8 / 0, 4, 9.5
    assert split_outliers(weight, 2 / 6, statistic).tolist() == [[False, True, False], [False, False, True]]


def test_sparse_part_by_hand() -> None:
    weight = np.array([[1.0, 9.0, -7.0], [0.0, 1.0, 0.0], [5.0, 0.0, 1.0]], dtype=np.float32)
    dense = np.array([[1.0, 2.0, -2.0], [0.0, 1.0, 0.0], [1.5, 0.0, 1.0]], dtype=np.float16)
    part = sparse_part(weight, np.abs(weight) > 4, dense)
    assert part.rows.tolist() == [0, 2, 2, 3]
    assert part.cols.tolist() == [1, 2, 0]
    assert part.vals.tolist() == [7.0, -5.0, 3.5]
    assert (part.rows.dtype, part.cols.dtype, part.vals.dtype) == (np.int32, np.int32, np.float16)


def test_difference_beyond_fp16_is_cut_to_a_finite_number() -> None:
    weight = np.full((1, 1), 65504.0, dtype=np.float32)
    part = sparse_part(weight, weight > 0, -weight)
    assert part.vals.tolist() == [65504.0]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.integers(1, 80), st.integers(1, 8), st.floats(0, 0.3), st.integers(0, 2**31))
def test_outliers_come_back_within_fp16_rounding_of_the_difference(
    N: int, K: int, bits: int, share: float, seed: int
) -> None:
    weight = random_weight(N, K, seed).astype(np.float16).astype(np.float32)
    mask = split_outliers(weight, share)
    dense = RtnSettings(bits).quantize_matrix(np.where(mask, 0, weight))
    whole = NestedMatrix(dense.indices, dense.luts, None, sparse_part(weight, mask, dense.dequantize(bits)))
    restored = whole.dequantize(bits)
    difference = np.abs(weight - dense.dequantize(bits))
    assert (
        np.abs(restored - weight)[mask] <= difference[mask] * 2.0**-11 + 2.0**-25 + 1e-6 * np.abs(weight[mask])
    ).all()
    assert np.array_equal(restored[~mask], dense.dequantize(bits)[~mask])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 7),
    st.integers(1, 130),
    st.integers(1, 8),
    st.one_of(st.none(), st.integers(1, 150)),
    st.floats(0, 0.5),
)
def test_accounted_bits_are_the_bytes_that_a_store_holds(
    N: int, K: int, bits: int, group_size: int | None, share: float
) -> None:
    weight = random_weight(N, K)
    mask = split_outliers(weight, share)
    dense = RtnSettings(bits, group_size=group_size).quantize_matrix(weight)
    matrix = NestedMatrix(dense.indices, dense.luts, group_size, sparse_part(weight, mask, dense.dequantize(bits)))
    stored = 8 * sum(tensor.nbytes for tensor in nested_tensors("layer", matrix).values())
    assert dense_bits((N, K), bits, group_size) + sparse_bits(N, int(mask.sum())) == stored
    assert average_bits([(N, K)], bits, share, group_size) == stored / (N * K) == matrix.bits_per_weight(bits)


def test_bits_by_hand() -> None:
    # 33 columns fill two words; two groups of at most 32 columns.
    assert dense_bits((3, 33), 2, 32) == 3 * (2 * 2 * 32 + 2 * 4 * 16)
    assert sparse_bits(3, 5) == 5 * 48 + 4 * 32


@pytest.mark.parametrize(("bits", "requested"), [(2, 2.39), (2, 2.68), (3, 3.37), (3, 3.71), (4, 4.5)])
@pytest.mark.parametrize("model", ["vicuna-7b", "mobilellama-1.4b"])
def test_share_stores_the_papers_average_widths(model: str, bits: int, requested: float) -> None:
    shape = load_shape(model)
    shapes = [(N, K) for _, N, K in shape.block_linears()] * shape.layers
    share = outlier_share_for(requested, shapes, bits)
    assert abs(average_bits(shapes, bits, share) - requested) < 1e-4
    weights = sum(N * K for N, K in shapes)
    fixed = sum(dense_bits(matrix, bits) + sparse_bits(matrix[0], 0) for matrix in shapes) / weights
    assert share == pytest.approx((requested - fixed) / 48)


@pytest.mark.parametrize("name", ["stories260K", "m30k-fren-2M"])
def test_share_found_for_a_real_model_is_what_its_matrices_store(shared_data: Path, name: str) -> None:
    linears = decoder_linears(load_model(shared_data / "models" / name).model)
    shapes = [(linear.out_features, linear.in_features) for linear in linears.values()]
    bits = 2
    requested = average_bits(shapes, bits, 0) + 0.39
    share = outlier_share_for(requested, shapes, bits)
    stored = 0
    for linear in linears.values():
        weight = linear.weight.detach().numpy()
        mask = split_outliers(weight, share)
        dense = RtnSettings(bits).quantize_matrix(np.where(mask, 0, weight))
        matrix = NestedMatrix(dense.indices, dense.luts, None, sparse_part(weight, mask, dense.dequantize(bits)))
        stored += 8 * sum(tensor.nbytes for tensor in nested_tensors("layer", matrix).values())
    assert abs(stored / sum(N * K for N, K in shapes) - requested) <= TOLERANCE_BITS


@pytest.mark.parametrize(
    ("requested", "bits", "shapes", "named"),
    [
        (1.9, 2, [(64, 64)], r"average bits = 1\.9: must be 3\.5078\.\.51\.5078"),
        (60.0, 2, [(64, 64)], r"average bits = 60\.0: must be"),
        (2.5, 9, [(64, 64)], r"bits = 9: must be 1\.\.8"),
        (4.02, 2, [(36, 36)], r"average bits = 4\.02: must be"),
        (6.46, 2, [(36, 36)], r"give 6\.4\d+, further than 0\.005; .* request 6\.4\d+"),
    ],
)
def test_average_that_cannot_be_stored_is_refused(
    requested: float, bits: int, shapes: list[tuple[int, int]], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        outlier_share_for(requested, shapes, bits)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_share_out_of_bounds_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="outlier share = "):
        split_outliers(np.zeros((2, 2), dtype=np.float32), share)
