from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from accuracy.linear import stored_widths
from accuracy.model import decoder_linears, load_model
from accuracy.quantization import gptq, load_store, quantize
from accuracy.quantization.gptq import GptqSettings
from accuracy.quantization.nested import NestedMatrix
from accuracy.quantization.rtn import RtnSettings
from accuracy.quantization.storage import nested_tensors
from hwsim.trace import InputError
from kernels import unpack_planes


def random_weight(N: int, K: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((N, K)).astype(np.float32)


def hessian_of(inputs: NDArray[np.floating]) -> NDArray[np.float32]:
    return 2 * (inputs.T @ inputs).astype(np.float32)


def correlated_hessian(K: int, seed: int) -> NDArray[np.float32]:
    """Of inputs that share a few directions and differ in scale, as activations do."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((4 * K, max(1, K // 4))) @ rng.standard_normal((max(1, K // 4), K))
    return hessian_of((shared + 0.3 * rng.standard_normal((4 * K, K))) * rng.uniform(0.1, 3, K))


def output_error(weight: NDArray[np.floating], matrix: NestedMatrix, hessian: NDArray[np.floating]) -> float:
    """tr(E H E^T)."""
    error = weight.astype(np.float64) - matrix.dequantize(max(matrix.luts))
    return float(((error @ hessian) * error).sum())


def assert_follows_the_paper(
    weight: NDArray[np.float32], hessian: NDArray[np.float32], method: GptqSettings, matrix: NestedMatrix
) -> None:
    """Replay the paper's Eqs. 2 and 3 column by column in float64, taking the codes that were chosen.

    Every code must be that of the nearest point to the value the replay has there, up to the points' own rounding to
    fp16; so a tie, which two correct implementations may break differently, is no difference.
    """
    K = weight.shape[1]
    columns = method.group_size or K
    rest = weight.astype(np.float64)
    order = np.argsort(-np.diag(hessian), kind="stable") if method.act_order else np.arange(K)
    damped = hessian + method.damping * np.diag(hessian).mean() * np.eye(K)
    inverse = np.linalg.inv(damped.astype(np.float64))
    dequantized = matrix.dequantize(method.bits).astype(np.float64)
    tables = matrix.luts[method.bits].astype(np.float64)
    for position, column in enumerate(order):
        table = tables[:, column // columns]
        if position % columns == 0 and not method.act_order:
            found = RtnSettings(method.bits, symmetric=method.symmetric).quantize_matrix(
                rest[:, position : position + columns].astype(np.float32)
            )
            step = found.luts[method.bits][:, 0].astype(np.float64)
            # The zero point is whole: at a tie it may fall on either side.
            assert np.abs(table - step).max() <= 1.01 * np.diff(step).max()
            assert np.abs(np.diff(table) - np.diff(step)).max() <= 2.0**-9 * np.abs(step).max()
        distance = np.abs(table - rest[:, [column]])
        chosen = np.abs(dequantized[:, column] - rest[:, column])
        assert (chosen <= distance.min(1) + 1e-3 * np.diff(table).max(1) + 2.0**-10 * np.abs(table).max(1)).all()
        repair = (rest[:, column] - dequantized[:, column]) / inverse[column, column]
        rest -= np.outer(repair, inverse[column])
        inverse -= np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
        # Rounded columns are out of the game; zero rows keep the elimination from touching them again.
        inverse[column], inverse[:, column], inverse[column, column] = 0, 0, 1


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 24),
    st.integers(2, 5),
    st.one_of(st.none(), st.integers(1, 30)),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 5, 128]),
    st.integers(0, 2**31),
)
def test_every_code_is_the_papers(
    N: int, K: int, bits: int, group_size: int | None, symmetric: bool, act_order: bool, block: int, seed: int
) -> None:
    weight, hessian = random_weight(N, K, seed), correlated_hessian(K, seed)
    method = GptqSettings(bits, group_size, symmetric, act_order=act_order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gptq, "BLOCK_COLUMNS", block)
        matrix = method.quantize_matrix(weight, hessian)
    assert_follows_the_paper(weight, hessian, method, matrix)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group_size", [None, 48])
@pytest.mark.parametrize("scale", [1.0, 1e-20, 0.0])
def test_inputs_without_correlation_leave_round_to_nearest(
    group_size: int | None, symmetric: bool, act_order: bool, scale: float
) -> None:
    weight = random_weight(7, 200, 3)
    rounded = RtnSettings(3, group_size, symmetric).quantize_matrix(weight)
    hessian = scale * np.eye(200, dtype=np.float32)
    matrix = GptqSettings(3, group_size, symmetric, act_order=act_order).quantize_matrix(weight, hessian)
    assert np.array_equal(matrix.indices, rounded.indices)
    assert np.array_equal(matrix.luts[3], rounded.luts[3])


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("group_size", [None, 32])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("seed", range(5))
def test_output_error_is_below_round_to_nearest(bits: int, group_size: int | None, act_order: bool, seed: int) -> None:
    weight, hessian = random_weight(24, 96, seed), correlated_hessian(96, seed)
    rounded = RtnSettings(bits, group_size).quantize_matrix(weight)
    matrix = GptqSettings(bits, group_size, act_order=act_order).quantize_matrix(weight, hessian)
    assert output_error(weight, matrix, hessian) < output_error(weight, rounded, hessian)


def layer_hessians(folder: Path, text: str, tokens: int) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Weight and Hessian of every linear layer of a model, over the inputs a text gives them."""
    language_model = load_model(folder)
    linears = decoder_linears(language_model.model)
    hessians = {}

    def record(name: str) -> Any:
        def hook(_: Any, inputs: tuple[torch.Tensor]) -> None:
            flat = inputs[0].flatten(0, -2).double()
            hessians[name] = hessians.get(name, 0) + (flat.T @ flat)

        return hook

    for name, linear in linears.items():
        linear.register_forward_pre_hook(record(name))
    ids = language_model.tokenizer(text, return_tensors="pt").input_ids[0, :tokens]
    with torch.no_grad():
        for chunk in ids.split(min(256, language_model.shape.max_context)):
            language_model.model(chunk[None])
    return {name: (linear.weight.detach().numpy(), hessians[name].float().numpy()) for name, linear in linears.items()}


@pytest.mark.slow
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_output_error_is_below_round_to_nearest_in_every_layer_of_a_real_model(
    shared_data: Path, bits: int, act_order: bool
) -> None:
    text = (shared_data / "text" / "tinyshakespeare" / "input.txt").read_text()[:40000]
    layers = layer_hessians(shared_data / "models" / "stories260K", text, 8192)
    assert len(layers) == 35
    for name, (weight, hessian) in layers.items():
        rounded = RtnSettings(bits).quantize_matrix(weight)
        matrix = GptqSettings(bits, act_order=act_order).quantize_matrix(weight, hessian)
        assert output_error(weight, matrix, hessian) < output_error(weight, rounded, hessian), name


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_store_of_a_model_loads_at_its_one_width_and_beats_rounding_on_the_calibration_text(
    family: str, model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = model_folder(family)
    rng = np.random.default_rng(0)
    texts = [" ".join(f"word{index}" for index in rng.integers(0, 61, 60)) for _ in range(12)]
    source = load_model(folder)
    tokens = torch.cat([source.tokenizer(text, return_tensors="pt").input_ids for text in texts])
    errors = {}
    for name, method in {"gptq": GptqSettings(3), "rtn": RtnSettings(3)}.items():
        quantize(folder, tmp_path / name, method, calibration=texts, progress=False)
        store = load_store(tmp_path / name).model
        assert stored_widths(store) == (3,)
        with torch.no_grad():
            errors[name] = float((store(tokens).logits - source.model(tokens).logits).norm())
    assert errors["gptq"] < errors["rtn"]


@pytest.mark.parametrize("act_order", [False, True])
def test_codes_are_stored_row_by_row(act_order: bool) -> None:
    weight, hessian = random_weight(6, 64, 0), correlated_hessian(64, 0)
    matrix = GptqSettings(3, act_order=act_order).quantize_matrix(weight, hessian)
    assert matrix.indices.flags.c_contiguous
    assert torch.equal(
        unpack_planes(nested_tensors("layer", matrix)["layer.planes"], 3, 64), torch.from_numpy(matrix.indices)
    )


def test_scale_of_the_hessian_does_not_matter() -> None:
    weight, hessian = random_weight(6, 40, 0), correlated_hessian(40, 0)
    small, large = (GptqSettings(3).quantize_matrix(weight, hessian * scale) for scale in (2.0**-20, 2.0**20))
    assert np.array_equal(small.indices, large.indices)


@pytest.mark.parametrize("damping", [0.0, 0.01])
@pytest.mark.parametrize("act_order", [False, True])
def test_column_without_input_is_rounded_on_its_own(damping: float, act_order: bool) -> None:
    weight, hessian = random_weight(5, 20, 1), correlated_hessian(20, 1)
    hessian[7], hessian[:, 7] = 0, 0
    method = GptqSettings(3, damping=damping, act_order=act_order)
    matrix = method.quantize_matrix(weight, hessian)
    rounded = RtnSettings(3).quantize_matrix(weight)
    assert np.array_equal(matrix.indices[:, 7], rounded.indices[:, 7])
    others = np.arange(20) != 7
    alone = method.quantize_matrix(np.ascontiguousarray(weight[:, others]), hessian[np.ix_(others, others)])
    # The column still counts in the span of its row's grid.
    same_grid = (alone.luts[3] == matrix.luts[3]).all(axis=(1, 2))
    assert same_grid.any()
    assert np.array_equal(matrix.indices[same_grid][:, others], alone.indices[same_grid])


def test_fewer_inputs_than_columns_are_enough() -> None:
    weight = random_weight(8, 64, 2)
    hessian = hessian_of(random_weight(3, 64, 5))
    rounded = RtnSettings(3).quantize_matrix(weight)
    for damping in (0.0, 0.01):
        matrix = GptqSettings(3, damping=damping).quantize_matrix(weight, hessian)
        assert output_error(weight, matrix, hessian) < output_error(weight, rounded, hessian)


@pytest.mark.parametrize(
    ("hessian", "named"),
    [
        (None, r"statistic = none: needs the Hessian \[4, 4\]"),
        (np.eye(3, dtype=np.float32), r"statistic = shape \[3, 3\]"),
        (np.full((4, 4), np.nan, dtype=np.float32), "not finite"),
        (-np.eye(4, dtype=np.float32), "no damping up to 1.0"),
        (np.ones((4, 4), dtype=np.float32) - 5 * np.eye(4, dtype=np.float32), "positive definite"),
    ],
)
def test_unusable_hessian_is_refused(hessian: NDArray[np.float32] | None, named: str) -> None:
    with pytest.raises(InputError, match=named):
        GptqSettings(3).quantize_matrix(random_weight(2, 4, 0), hessian)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"bits": 0}, r"bits = 0: must be 1\.\.8"),
        ({"bits": 3, "group_size": -1}, "group_size = -1"),
        ({"bits": 3, "damping": -0.1}, r"damping = -0\.1: must be 0\.\.1"),
        ({"bits": 3, "damping": float("nan")}, "damping = nan"),
    ],
)
def test_impossible_setting_is_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        GptqSettings(**options)


def test_settings_say_what_is_stored_and_needed() -> None:
    method = GptqSettings(3)
    assert (method.quantizer, method.widths, method.statistic) == ("gptq", (3,), "hessian")
