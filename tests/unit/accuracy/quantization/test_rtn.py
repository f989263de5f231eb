from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accuracy.model import decoder_linears, load_model
from accuracy.quantization import NestedSettings, quantize_matrix
from accuracy.quantization.rtn import round_to_nearest, rtn_model
from hwsim.trace import InputError


def random_weight(N: int, K: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(N, K, generator=torch.Generator().manual_seed(seed)) * scale


def test_grid_by_hand() -> None:
    weight = torch.tensor([[-1.0, 0.0, 0.9, 2.0], [0.0, 0.0, 0.0, 0.0]])
    matrix = round_to_nearest(weight, 2)
    assert matrix.scale.flatten().tolist() == [1.0, 2.0**-24]
    assert matrix.zero.flatten().tolist() == [1, 0]
    assert matrix.codes.tolist() == [[0, 1, 2, 3], [0, 0, 0, 0]]
    assert matrix.dequantize().tolist() == [[-1.0, 0.0, 1.0, 2.0], [0.0, 0.0, 0.0, 0.0]]


def test_symmetric_grid_by_hand() -> None:
    matrix = round_to_nearest(torch.tensor([[-3.0, -1.0, 0.2, 1.0]]), 2, symmetric=True)
    assert matrix.dequantize().tolist() == [[-4.0, 0.0, 0.0, 0.0]] or matrix.scale.item() == 2.0
    assert matrix.codes.tolist() == [[0, 2, 2, 2]]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 60),
    st.integers(1, 8),
    st.one_of(st.none(), st.integers(1, 70)),
    st.sampled_from([1e-6, 1e-2, 1.0, 1e4]),
    st.integers(0, 2**31),
)
def test_no_weight_is_further_from_its_point_than_half_a_step_and_the_scales_rounding(
    N: int, K: int, bits: int, group_size: int | None, scale: float, seed: int
) -> None:
    weight = random_weight(N, K, seed, scale)
    matrix = round_to_nearest(weight, bits, group_size=group_size)
    group = torch.arange(K) // (group_size or K)
    step = matrix.scale.float()[:, group]
    # The zero point is rounded too (half a step at the ends), and fp16 changes the span by a 2^-11th part, or by
    # half the smallest fp16 number, over at most 2^bits - 1 steps.
    span = ((1 << bits) - 1) * torch.maximum(step * 2.0**-11, torch.tensor(2.0**-25))
    assert ((matrix.dequantize() - weight).abs() <= step * 1.0001 + span).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 8), st.booleans(), st.integers(0, 2**31))
def test_exact_clustering_is_never_worse_than_rounding(bits: int, symmetric: bool, seed: int) -> None:
    weight = random_weight(3, 90, seed)
    rounded = round_to_nearest(weight, bits, symmetric=symmetric).dequantize().double()
    clustered = quantize_matrix(weight.numpy(), NestedSettings(bits, bits)).dequantize(bits).astype(np.float64)
    rounding = ((rounded - weight) ** 2).sum(1).numpy()
    clustering = ((clustered - weight.double().numpy()) ** 2).sum(1)
    # A grid point need not be an fp16 number, a centroid must.
    assert (clustering <= rounding + 90 * (2.0**-11 * 4) ** 2).all()


@pytest.mark.parametrize("symmetric", [False, True])
def test_error_falls_with_the_width(symmetric: bool) -> None:
    weight = random_weight(16, 256, 0)
    errors = [
        float((round_to_nearest(weight, bits, symmetric=symmetric).dequantize() - weight).square().sum())
        for bits in range(2, 9)
    ]
    assert all(after < before for before, after in pairwise(errors))


def test_zero_is_always_a_point() -> None:
    weight = random_weight(8, 64, 1).abs() + 1
    weight[:, 5] = 0
    for symmetric in (False, True):
        assert (round_to_nearest(weight, 3, symmetric=symmetric).dequantize()[:, 5] == 0).all()


def test_stored_bits_count_scale_and_zero() -> None:
    assert round_to_nearest(random_weight(4, 64, 0), 4, group_size=32).bits_per_weight() == 4 + 20 / 32
    assert round_to_nearest(random_weight(4, 40, 0), 3).bits_per_weight() == 3 + 19 / 40


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"bits": 0}, r"bits = 0: must be 1\.\.8"),
        ({"bits": 9}, "bits = 9"),
        ({"bits": 1, "symmetric": True}, r"bits = 1: must be 2\.\.8"),
        ({"bits": 4, "group_size": 0}, "group_size = 0"),
    ],
)
def test_impossible_grid_is_refused(options: dict[str, int], named: str) -> None:
    with pytest.raises(InputError, match=named):
        round_to_nearest(torch.zeros(1, 4), **options)


def test_rounded_model_is_a_copy_that_differs_in_its_blocks_only(model_folder: Callable[..., Path]) -> None:
    source = load_model(model_folder("qwen2"))
    before = {key: value.clone() for key, value in source.model.state_dict().items()}
    rounded = rtn_model(source, 3, group_size=16)
    assert all(torch.equal(before[key], value) for key, value in source.model.state_dict().items())
    linears = decoder_linears(rounded.model)
    for key, value in rounded.model.state_dict().items():
        name, _, part = key.rpartition(".")
        if name in linears and part == "weight":
            assert torch.equal(value, round_to_nearest(before[key], 3, group_size=16).dequantize())
        else:
            assert torch.equal(value, before[key])


def test_weight_that_is_not_finite_is_refused_by_name(model_folder: Callable[..., Path]) -> None:
    source = load_model(model_folder("qwen2"))
    with torch.no_grad():
        source.model.model.layers[0].mlp.up_proj.weight[1, 2] = float("inf")
    with pytest.raises(InputError, match=r"model\.layers\.0\.mlp\.up_proj\.weight"):
        rtn_model(source, 4)
