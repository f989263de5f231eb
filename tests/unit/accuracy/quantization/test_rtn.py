from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from accuracy.quantization import NestedSettings, quantize_matrix
from accuracy.quantization.rtn import RtnSettings, grid_bits
from hwsim.trace import InputError

FP16_MAX = 65504.0


def random_weight(N: int, K: int, seed: int, scale: float = 1.0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal((N, K)) * scale).astype(np.float32)


def test_grid_by_hand() -> None:
    weight = np.array([[-1.0, 0.0, 0.9, 2.0], [0.0, 0.0, 0.0, 0.0]], dtype=np.float32)
    matrix = RtnSettings(2).quantize_matrix(weight)
    assert matrix.luts[2].tolist() == [[[-1.0, 0.0, 1.0, 2.0]], [[0.0, 2.0**-24, 2.0**-23, 3 * 2.0**-24]]]
    assert matrix.indices.tolist() == [[0, 1, 2, 3], [0, 0, 0, 0]]
    assert matrix.dequantize(2).tolist() == [[-1.0, 0.0, 1.0, 2.0], [0.0, 0.0, 0.0, 0.0]]


def test_symmetric_grid_by_hand() -> None:
    matrix = RtnSettings(2, symmetric=True).quantize_matrix(np.array([[-3.0, -1.0, 0.2, 1.2]], dtype=np.float32))
    assert matrix.luts[2].tolist() == [[[-4.0, -2.0, 0.0, 2.0]]]
    # -3 lies midway between two points; ties go to the even step.
    assert matrix.indices.tolist() == [[0, 2, 2, 3]]


def reference(part: NDArray[np.float32], bits: int, symmetric: bool) -> NDArray[np.float16]:
    """One row on one grid, in float64, from the definition."""
    top = 2**bits - 1
    low, high = min(float(part.min()), 0.0), max(float(part.max()), 0.0)
    if symmetric:
        high = max(high, -low)
        low = -high
    step = float(
        np.float16(np.float32(np.clip((np.float32(high) - np.float32(low)) / np.float32(top), 2.0**-24, 65504)))
    )
    zero = 2 ** (bits - 1) if symmetric else np.clip(np.round(np.float32(-low) / np.float32(step)), 0, top)
    codes = np.clip(np.round(part / np.float32(step)) + zero, 0, top)
    return np.clip((codes - zero) * step, -FP16_MAX, FP16_MAX).astype(np.float16)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 60),
    st.integers(2, 8),
    st.one_of(st.none(), st.integers(1, 70)),
    st.booleans(),
    st.sampled_from([1e-6, 1e-2, 1.0, 1e4]),
    st.integers(0, 2**31),
)
def test_stored_matrix_is_the_definition_row_by_row(
    N: int, K: int, bits: int, group_size: int | None, symmetric: bool, scale: float, seed: int
) -> None:
    weight = random_weight(N, K, seed, scale)
    matrix = RtnSettings(bits, group_size, symmetric).quantize_matrix(weight)
    columns = group_size or K
    for n in range(N):
        expected = [reference(weight[n, k : k + columns], bits, symmetric) for k in range(0, K, columns)]
        assert np.array_equal(matrix.dequantize(bits)[n], np.concatenate(expected))
    assert (np.diff(matrix.luts[bits].astype(np.float32)) >= 0).all()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 60),
    st.integers(1, 8),
    st.one_of(st.none(), st.integers(1, 70)),
    st.sampled_from([1e-6, 1e-2, 1.0, 1e4]),
    st.integers(0, 2**31),
)
def test_no_weight_is_further_from_its_point_than_half_a_step_and_the_roundings(
    N: int, K: int, bits: int, group_size: int | None, scale: float, seed: int
) -> None:
    weight = random_weight(N, K, seed, scale)
    matrix = RtnSettings(bits, group_size=group_size).quantize_matrix(weight)
    group = np.arange(K) // (group_size or K)
    table = matrix.luts[bits].astype(np.float64)
    step = ((table[..., -1] - table[..., 0]) / ((1 << bits) - 1))[:, group]
    # The zero point is rounded too (half a step at the ends), and fp16 changes the span by a 2^-11th part, or by
    # half the smallest fp16 number, over at most 2^bits - 1 steps; then the points are rounded.
    span = (1 << bits) * np.maximum(step * 2.0**-10, 2.0**-24)
    assert (np.abs(matrix.dequantize(bits) - weight) <= step * 1.0001 + span).all()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_largest_fp16_weights_stay_finite(bits: int, symmetric: bool) -> None:
    weight = np.array([[-FP16_MAX, 1.0, FP16_MAX]], dtype=np.float32)
    matrix = RtnSettings(bits, symmetric=symmetric).quantize_matrix(weight)
    assert np.isfinite(matrix.luts[bits]).all()
    assert (np.diff(matrix.luts[bits].astype(np.float32)) >= 0).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 8), st.booleans(), st.integers(0, 2**31))
def test_exact_clustering_is_never_worse_than_rounding(bits: int, symmetric: bool, seed: int) -> None:
    weight = random_weight(3, 90, seed)
    rounded = RtnSettings(bits, symmetric=symmetric).quantize_matrix(weight)
    clustered = quantize_matrix(weight, NestedSettings(bits, bits))
    rounding, clustering = (
        ((m.dequantize(bits) - weight.astype(np.float64)) ** 2).sum(1) for m in (rounded, clustered)
    )
    assert (clustering <= rounding * (1 + 1e-6)).all()


@pytest.mark.parametrize("symmetric", [False, True])
def test_error_falls_with_the_width(symmetric: bool) -> None:
    weight = random_weight(16, 256, 0)
    matrices = {bits: RtnSettings(bits, symmetric=symmetric).quantize_matrix(weight) for bits in range(2, 9)}
    errors = [float(np.square(matrix.dequantize(bits) - weight).sum()) for bits, matrix in matrices.items()]
    assert all(after < before for before, after in pairwise(errors))


@pytest.mark.parametrize("symmetric", [False, True])
def test_zero_is_always_a_point(symmetric: bool) -> None:
    weight = np.abs(random_weight(8, 64, 1)) + 1
    weight[:, 5] = 0
    assert (RtnSettings(3, symmetric=symmetric).quantize_matrix(weight).dequantize(3)[:, 5] == 0).all()


def test_weight_is_left_as_it_was() -> None:
    weight = random_weight(3, 9, 2)
    weight.setflags(write=False)
    RtnSettings(2).quantize_matrix(weight)


def test_bits_on_grids_count_padding_step_and_zero() -> None:
    assert grid_bits((4, 64), 4, group_size=32) == 4 * (4 * 64 + 2 * (16 + 4))
    assert grid_bits((4, 40), 3) == 4 * (3 * 64 + 16 + 3)
    assert grid_bits((4, 40), 3, symmetric=True) == 4 * (3 * 64 + 16)


def test_settings_say_what_is_stored() -> None:
    method = RtnSettings(3, group_size=64)
    assert (method.quantizer, method.widths, method.statistic) == ("rtn", (3,), "none")
    matrix = method.quantize_matrix(random_weight(2, 130, 0))
    assert list(matrix.luts) == [3]
    assert matrix.luts[3].shape == (2, 3, 8)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"bits": 0}, r"bits = 0: must be 1\.\.8"),
        ({"bits": 9}, "bits = 9"),
        ({"bits": 1, "symmetric": True}, r"bits = 1: must be 2\.\.8"),
        ({"bits": 4, "group_size": 0}, "group_size = 0"),
    ],
)
def test_impossible_grid_is_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        RtnSettings(**options)
