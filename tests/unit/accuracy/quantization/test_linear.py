from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import kernels
from accuracy.linear import (
    AnyPrecisionLinear,
    nested_linears,
    set_weight_bits,
    set_weight_cache,
    stored_widths,
    weight_bytes,
)
from accuracy.model import load_model
from accuracy.quantization import NestedSettings, load_store, quantize
from hwsim.trace import InputError
from kernels.planes import pack_planes


def random_layer(
    K: int = 45, N: int = 7, *, min_bits: int = 2, max_bits: int = 4, **options: object
) -> AnyPrecisionLinear:
    layer = AnyPrecisionLinear(K, N, min_bits=min_bits, max_bits=max_bits, **options)
    generator = torch.Generator().manual_seed(K * N)
    indices = torch.randint(0, 1 << max_bits, (N, K), generator=generator).to(torch.uint8)
    layer.planes.copy_(pack_planes(indices, max_bits))
    for name, buffer in layer.named_buffers():
        if name != "planes":
            buffer.copy_(torch.randn(buffer.shape, generator=generator))
    return layer


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 16])
def test_output_is_the_product_with_the_dequantised_weight(bits: int, cached: bool) -> None:
    layer = random_layer(bias=True, full_precision=True, group_size=20)
    set_weight_cache(layer, cached)
    set_weight_bits(layer, bits)
    x = torch.randn(3, 5, 45)
    expected = x.double() @ layer.dequantize(bits).double().T + layer.bias.double()
    for _ in range(2):
        torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bits", [2, 4, 16])
def test_kernel_and_torch_paths_agree(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    layer = random_layer(bias=True, full_precision=True, dtype=torch.float16)
    set_weight_bits(layer, bits)
    x = torch.randn(2, 3, 45).half()
    expected = layer(x)
    layer.drop_cache()
    launched = []
    launch = kernels.linear
    monkeypatch.setattr("accuracy.linear.obstacle", lambda x: None)
    monkeypatch.setattr("accuracy.linear.kernel_linear", lambda *args: launched.append(args[2]) or launch(*args))
    torch.testing.assert_close(layer(x), expected, rtol=2e-3, atol=2e-2)
    assert launched == ([] if bits == 16 else [bits])


def test_switching_back_and_forth_gives_the_same_output() -> None:
    layer = random_layer()
    x = torch.randn(2, 45)
    first = {}
    for bits in (2, 3, 4, 3, 2, 4):
        set_weight_bits(layer, bits)
        y = layer(x)
        assert torch.equal(first.setdefault(bits, y), y)
    assert not torch.equal(first[2], first[3])


def test_cast_changes_the_arithmetic_but_not_the_stored_numbers() -> None:
    layer = random_layer(bias=True, full_precision=True)
    before = {name: buffer.clone() for name, buffer in layer.named_buffers() if name != "bias"}
    layer(torch.randn(1, 45))
    layer.to(torch.bfloat16)
    for name, buffer in before.items():
        assert layer.get_buffer(name).dtype == buffer.dtype
        assert torch.equal(layer.get_buffer(name), buffer)
    assert layer(torch.randn(1, 45, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert layer.to(torch.float64)(torch.randn(1, 45, dtype=torch.float64)).dtype == torch.float64


def test_loading_other_tensors_drops_the_cached_weights() -> None:
    layer, x = random_layer(), torch.randn(1, 45)
    before = layer(x)
    state = {name: buffer * 2 if name.startswith("lut") else buffer for name, buffer in layer.state_dict().items()}
    layer.load_state_dict(state)
    torch.testing.assert_close(layer(x), 2 * before)


def widths_dequantised(layer: AnyPrecisionLinear, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The widths that calls of the layer dequantise from here on, in order."""
    found: list[int] = []
    dequantize = layer.dequantize
    monkeypatch.setattr(layer, "dequantize", lambda bits, dtype: found.append(bits) or dequantize(bits, dtype))
    return found


def run_at(layer: AnyPrecisionLinear, widths: list[int]) -> None:
    for bits in widths:
        set_weight_bits(layer, bits)
        layer(torch.ones(1, 45))


def test_cache_holds_the_two_widths_used_last(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = random_layer(full_precision=True)
    set_weight_cache(layer, True, max_bytes=0)
    found = widths_dequantised(layer, monkeypatch)
    run_at(layer, [4, 3, 4, 3, 3, 4])
    assert found == [4, 3]
    # 16 takes the place of 3, the one used longest ago; 3 then that of 4.
    run_at(layer, [16, 4, 16, 4, 16, 3, 16, 4])
    assert found == [4, 3, 16, 3, 4]


def test_cache_holds_more_widths_where_all_of_them_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(random_layer(45, 45), random_layer(45, 45))
    width_bytes = 2 * 45 * 45 * 4
    found = widths_dequantised(model[1], monkeypatch)
    for max_bytes, expected in [(3 * width_bytes, [2, 3, 4]), (3 * width_bytes - 1, [2, 3, 4, 2, 3, 4])]:
        set_weight_cache(model, True, max_bytes)
        found.clear()
        run_at(model, [2, 3, 4, 2, 3, 4])
        assert found == expected


def test_bytes_in_memory_are_the_stored_ones_and_the_cached_copies() -> None:
    layer = random_layer(45, 7, full_precision=True, bias=True)
    stored = 4 * (4 * 7 * 2) + 2 * 7 * (4 + 8 + 16) + 2 * 7 * 45 + 4 * 7
    assert weight_bytes(layer) == stored
    set_weight_cache(layer, True, max_bytes=0)
    for copies, bits in enumerate((4, 3, 2)):
        run_at(layer, [bits])
        assert weight_bytes(layer) == stored + 4 * 7 * 45 * min(copies + 1, 2)
    layer.drop_cache()
    # In fp16 the unquantised weight is its own copy.
    set_weight_bits(layer, 16)
    layer.half()(torch.ones(1, 45).half())
    assert weight_bytes(layer) == stored - 2 * 7


def test_without_a_cache_every_call_unpacks_and_nothing_is_kept() -> None:
    layer = random_layer(bias=True, group_size=20, full_precision=True)
    set_weight_cache(layer, False)
    run_at(layer, [2, 16, 3])
    assert not [value for value in vars(layer).values() if isinstance(value, torch.Tensor)]
    assert not layer._dequantized


def test_weights_cached_in_inference_mode_serve_autograd_afterwards() -> None:
    layer = random_layer()
    with torch.inference_mode():
        layer(torch.ones(1, 45))
    x = torch.ones(1, 45, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad[0], layer.dequantize(4, torch.float32).sum(0))


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("block_weights", [1, 300, 1 << 18])
def test_sparse_part_is_added_to_its_rows(cached: bool, block_weights: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.blocked.BLOCK_WEIGHTS", block_weights)
    layer = random_layer(45, 7, sparse_values=4)
    layer.sparse_rows.copy_(torch.tensor([0, 1, 1, 3, 3, 3, 3, 4]))
    layer.sparse_cols.copy_(torch.tensor([44, 0, 7, 2]))
    layer.sparse_vals.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    expected = kernels.dequantize(layer.planes, layer.lut(3), 45).float()
    for row, column, value in [(0, 44, 1.0), (2, 0, 2.0), (2, 7, 3.0), (6, 2, 4.0)]:
        expected[row, column] += value
    assert torch.equal(layer.dequantize(3, torch.float32), expected)
    set_weight_cache(layer, cached)
    set_weight_bits(layer, 3)
    x = torch.randn(2, 3, 45)
    torch.testing.assert_close(layer(x), x @ expected.T, rtol=1e-5, atol=1e-5)


def test_layer_refuses_a_width_that_is_not_stored_and_keeps_its_own() -> None:
    layer = random_layer()
    with pytest.raises(InputError, match=r"weight_bits = 7: not stored; stored widths: 2, 3, 4"):
        layer.weight_bits = 7
    assert layer.weight_bits == 4


def test_width_that_is_not_stored_is_refused_with_the_stored_ones() -> None:
    model = nn.Sequential(random_layer(full_precision=True), random_layer(7, 5, full_precision=True))
    with pytest.raises(InputError, match=r"weight_bits = 5: not stored; stored widths: 2, 3, 4, 16"):
        set_weight_bits(model, 5)
    assert [layer.weight_bits for layer in nested_linears(model)] == [4, 4]


def test_width_stored_in_some_layers_only_switches_none() -> None:
    model = nn.Sequential(random_layer(full_precision=True), random_layer(7, 5))
    assert stored_widths(model) == (2, 3, 4)
    with pytest.raises(InputError, match="weight_bits = 16"):
        set_weight_bits(model, 16)
    assert [layer.weight_bits for layer in nested_linears(model)] == [4, 4]


def test_unquantised_model_has_width_sixteen_only(model_folder: Callable[..., Path]) -> None:
    model = load_model(model_folder()).model
    assert stored_widths(model) == (16,)
    set_weight_bits(model, 16)
    with pytest.raises(InputError, match="weight_bits = 4: not stored; stored widths: 16"):
        set_weight_bits(model, 4)


def test_generate_runs_at_every_width_of_a_store(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    quantize(model_folder(), tmp_path / "s", NestedSettings(2, 4), progress=False)
    model = load_store(tmp_path / "s").model
    for bits in stored_widths(model):
        set_weight_bits(model, bits)
        tokens = model.generate(torch.tensor([[1, 5, 9]]), max_new_tokens=4, do_sample=False, eos_token_id=None)
        assert tokens.shape == (1, 7)
