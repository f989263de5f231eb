from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from accuracy.linear import set_weight_bits
from accuracy.model import decoder_linears, load_model
from accuracy.quantization import NestedSettings, feedback, load_store, quantize, quantize_matrix
from accuracy.quantization.gptq import GptqSettings
from accuracy.quantization.nested import NestedMatrix
from hwsim.trace import InputError

Matrix = NDArray[np.float32]


def random_weight(N: int, K: int, seed: int) -> Matrix:
    return np.random.default_rng(seed).standard_normal((N, K)).astype(np.float32)


def correlated_hessian(K: int, seed: int) -> Matrix:
    """Of inputs that share a few directions and differ in scale, as activations do."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((4 * K, max(1, K // 4))) @ rng.standard_normal((max(1, K // 4), K))
    inputs = (shared + 0.3 * rng.standard_normal((4 * K, K))) * rng.uniform(0.1, 3, K)
    return (inputs.T @ inputs).astype(np.float32)


def output_error(weight: Matrix, matrix: NestedMatrix, bits: int, hessian: Matrix) -> float:
    """tr(E H E^T)."""
    error = weight.astype(np.float64) - matrix.dequantize(bits)
    return float(((error @ hessian) * error).sum())


def assert_every_code_is_the_cheapest(
    weight: Matrix, hessian: Matrix, clustered: NestedMatrix, matrix: NestedMatrix
) -> None:
    """Replay GPTQ's updates for each width on its own, in float64, taking the codes that were chosen.

    Each code must cost no more than any other that the codebooks offer, up to rounding: a tie, which float32 may break
    differently, is no difference.
    """
    N, K = weight.shape
    low, high = min(matrix.luts), max(matrix.luts)
    inverse = np.linalg.inv(hessian + 0.01 * np.diag(hessian).mean() * np.eye(K))
    rest = {bits: weight.astype(np.float64) for bits in matrix.luts}
    dequantized = {bits: matrix.dequantize(bits).astype(np.float64) for bits in matrix.luts}
    added = np.zeros((N, K))
    fixed = np.zeros((N, K), dtype=bool)
    if matrix.sparse is not None:
        row = np.repeat(np.arange(N), np.diff(matrix.sparse.rows))
        added[row, matrix.sparse.cols] = matrix.sparse.vals
        fixed[row, matrix.sparse.cols] = True
    assert np.array_equal(matrix.indices[fixed], clustered.indices[fixed])
    for column in np.argsort(-np.diag(hessian), kind="stable"):
        group = column // (matrix.group_size or K)
        cost, taken, scale = np.zeros((N, 1 << high)), np.zeros(N), 0.0
        for bits, lut in matrix.luts.items():
            share = 4.0 ** ((bits - low) / max(1, high - low))
            points = lut[:, group].astype(np.float64).repeat(1 << (high - bits), axis=1)
            cost += share * np.square(rest[bits][:, [column]] - added[:, [column]] - points)
            taken += share * np.square(rest[bits][:, column] - dequantized[bits][:, column])
            scale += share * np.square(rest[bits][:, column]).max()
        free = ~fixed[:, column]
        assert (taken <= cost.min(axis=1) + 1e-4 * scale)[free].all()
        for bits in matrix.luts:
            repair = (rest[bits][:, column] - dequantized[bits][:, column]) / inverse[column, column]
            rest[bits] -= np.outer(repair, inverse[column])
        inverse -= np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
        # Chosen columns are out of the game; zero rows keep the elimination from touching them again.
        inverse[column], inverse[:, column], inverse[column, column] = 0, 0, 1


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 24),
    st.integers(1, 3),
    st.integers(0, 3),
    st.one_of(st.none(), st.integers(1, 30)),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([(1, 1), (5, 40), (128, 1 << 23)]),
    st.integers(0, 2**31),
)
def test_every_code_is_the_cheapest_over_all_widths_after_repair(
    N: int,
    K: int,
    min_bits: int,
    more: int,
    group_size: int | None,
    share: float,
    sizes: tuple[int, int],
    seed: int,
) -> None:
    weight, hessian = random_weight(N, K, seed), correlated_hessian(K, seed)
    method = NestedSettings(min_bits, min_bits + more, group_size, outlier_share=share)
    clustered = quantize_matrix(weight, method)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feedback, "BLOCK_COLUMNS", sizes[0])
        patch.setattr(feedback, "_CHUNK_WEIGHTS", sizes[1])
        matrix = feedback.with_feedback(clustered, weight, hessian)
    assert all(np.array_equal(matrix.luts[bits], clustered.luts[bits]) for bits in clustered.luts)
    assert_every_code_is_the_cheapest(weight, hessian, clustered, matrix)


def test_inputs_without_correlation_leave_the_nearest_centroid() -> None:
    weight = random_weight(6, 300, 0)
    method = NestedSettings(3, 3, sensitivity="hessian")
    matrix = method.quantize_matrix(weight, np.eye(300, dtype=np.float32))
    distance = np.abs(weight[..., None] - matrix.luts[3].astype(np.float32))
    assert np.array_equal(np.abs(weight - matrix.dequantize(3)), distance.min(axis=-1))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("group_size", [None, 64])
def test_output_error_is_below_that_of_clustering_at_every_width(group_size: int | None, seed: int) -> None:
    weight, hessian = random_weight(24, 192, seed), correlated_hessian(192, seed)
    clustered = quantize_matrix(weight, NestedSettings(2, 4, group_size))
    matrix = quantize_matrix(weight, NestedSettings(2, 4, group_size, sensitivity="hessian"), hessian)
    for bits in (2, 3, 4):
        assert output_error(weight, matrix, bits, hessian) < output_error(weight, clustered, bits, hessian)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_one_width_beats_gptq_on_normal_weights(bits: int) -> None:
    weight, hessian = random_weight(24, 192, 7), correlated_hessian(192, 7)
    matrix = NestedSettings(bits, bits, sensitivity="hessian").quantize_matrix(weight, hessian)
    uniform = GptqSettings(bits).quantize_matrix(weight, hessian)
    assert output_error(weight, matrix, bits, hessian) < output_error(weight, uniform, bits, hessian)


def test_outliers_lower_the_output_error_further() -> None:
    weight, hessian = random_weight(24, 192, 1) ** 3, correlated_hessian(192, 1)
    method = NestedSettings(2, 2, sensitivity="hessian")
    sparse = NestedSettings(2, 2, sensitivity="hessian", outlier_share=0.02)
    errors = [output_error(weight, one.quantize_matrix(weight, hessian), 2, hessian) for one in (method, sparse)]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("damaged", [np.full((4, 4), np.nan), -np.eye(4), np.eye(3), None])
def test_unusable_hessian_is_refused(damaged: Matrix | None) -> None:
    clustered = quantize_matrix(random_weight(2, 4, 0), NestedSettings(2, 3))
    with pytest.raises(InputError, match="statistic"):
        feedback.with_feedback(clustered, random_weight(2, 4, 0), damaged)


def test_store_of_a_model_beats_clustering_at_every_width_on_the_calibration_text(
    model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = model_folder("llama")
    rng = np.random.default_rng(0)
    texts = [" ".join(f"word{index}" for index in rng.integers(0, 61, 60)) for _ in range(12)]
    source = load_model(folder)
    tokens = torch.cat([source.tokenizer(text, return_tensors="pt").input_ids for text in texts])
    errors: dict[tuple[str, int], float] = {}
    for sensitivity in ("none", "hessian"):
        method = NestedSettings(2, 3, sensitivity=sensitivity)
        quantize(folder, tmp_path / sensitivity, method, calibration=texts, progress=False)
        store = load_store(tmp_path / sensitivity).model
        for bits in (2, 3):
            set_weight_bits(store, bits)
            with torch.no_grad():
                errors[sensitivity, bits] = float((store(tokens).logits - source.model(tokens).logits).norm())
    assert errors["hessian", 2] < errors["none", 2]
    assert errors["hessian", 3] < errors["none", 3]


@pytest.mark.slow
def test_output_error_is_below_that_of_clustering_in_every_layer_of_a_real_model(shared_data: Path) -> None:
    language_model = load_model(shared_data / "models" / "stories260K")
    linears = decoder_linears(language_model.model)
    inputs: dict[str, torch.Tensor] = {}
    for name, linear in linears.items():
        linear.register_forward_pre_hook(lambda _, given, name=name: inputs.update({name: given[0].flatten(0, -2)}))
    text = (shared_data / "text" / "tinyshakespeare" / "input.txt").read_text()[:8000]
    ids = language_model.tokenizer(text, return_tensors="pt").input_ids[0]
    with torch.no_grad():
        language_model.model(torch.stack(ids.split(256)[:-1]))
    assert len(inputs) == 35
    for name, linear in linears.items():
        weight, hessian = linear.weight.detach().numpy(), (inputs[name].T @ inputs[name]).numpy()
        clustered = quantize_matrix(weight, NestedSettings(2, 3))
        matrix = quantize_matrix(weight, NestedSettings(2, 3, sensitivity="hessian"), hessian)
        for bits in (2, 3):
            after, before = (output_error(weight, one, bits, hessian) for one in (matrix, clustered))
            assert after < before, (name, bits)
