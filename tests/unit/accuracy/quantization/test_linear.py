from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

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


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Kernels run, in Triton's interpreter; the widths they are launched with, in order."""
    pytest.importorskip("triton")
    found: list[int] = []
    launch = kernels.linear
    monkeypatch.setattr("accuracy.linear.obstacle", lambda x: None)
    monkeypatch.setattr("accuracy.linear.device_obstacle", lambda device: None)
    monkeypatch.setattr("accuracy.linear.kernel_linear", lambda *args: found.append(args[2]) or launch(*args))
    return found


def with_sparse_part(layer: AnyPrecisionLinear) -> AnyPrecisionLinear:
    """Four outliers in rows 0, 2 and 6."""
    layer.sparse_rows.copy_(torch.tensor([0, 1, 1, 3, 3, 3, 3, 4]))
    layer.sparse_cols.copy_(torch.tensor([44, 0, 7, 2]))
    layer.sparse_vals.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    return layer


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("vectors", [6, 12, 70])
@pytest.mark.parametrize("bits", [2, 4, 16])
def test_kernel_and_torch_paths_agree(bits: int, vectors: int, dtype: torch.dtype, launches: list[int]) -> None:
    options = {"bias": True, "full_precision": True, "sparse_values": 4, "dtype": dtype}
    layer = with_sparse_part(random_layer(45, 7, **options))
    set_weight_bits(layer, bits)
    x = torch.randn(2, vectors // 2, 45).to(dtype)
    weight = layer.dequantize(bits).double()
    expected = x.double() @ weight.T + layer.bias.double()
    tolerance = 2e-3 if dtype == torch.float16 else 2e-2
    for _ in range(2):
        y = layer(x)
        assert y.dtype == dtype
        assert float((y - expected).abs().max()) < tolerance * float(expected.abs().max())
    assert launches == ([] if bits == 16 else [bits, bits])


def test_one_packing_serves_every_width_and_is_dropped_with_the_weights(launches: list[int]) -> None:
    layer = random_layer(45, 7, bias=True, dtype=torch.float16)
    packed = layer._packed_weight()
    for bits in (4, 2, 3):
        set_weight_bits(layer, bits)
        layer(torch.randn(3, 45).half())
    assert launches == [4, 2, 3]
    assert layer._packed_weight() is packed
    # A row of 45 columns takes a block of 16 bytes; codebooks of all widths are split into bytes.
    byte_tables = 2 * 7 * (4 + 8 + 16)
    stored = sum(buffer.nbytes for buffer in layer.buffers())
    assert weight_bytes(layer) == stored + 4 * 7 * 16 + byte_tables
    layer.load_state_dict(layer.state_dict())
    assert layer._packed_weight() is not packed


def test_prepare_packs_where_kernels_run_and_only_there(launches: list[int]) -> None:
    layer = random_layer(45, 7)
    layer.prepare()
    packed = layer._packed
    assert packed is not None
    layer(torch.randn(1, 45).half())
    assert layer._packed is packed


def test_prepare_does_nothing_on_a_cpu() -> None:
    layer = random_layer(45, 7)
    layer.prepare()
    assert layer._packed is None


def test_weights_packed_in_inference_mode_serve_other_modes(launches: list[int]) -> None:
    layer = random_layer(45, 7)
    with torch.inference_mode():
        layer.prepare()
    assert not any(tensor.is_inference() for tensor in layer.derived_tensors())


class NoHostRead(TorchDispatchMode):
    """Fails where a value is read back, for which a GPU would have to be waited for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket._qualified_op_name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal"):
            raise AssertionError(f"{func} reads a value back")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("vectors", [1, 12, 70])
def test_call_by_a_kernel_reads_no_value_back(vectors: int, launches: list[int]) -> None:
    layer = with_sparse_part(random_layer(45, 7, sparse_values=4, bias=True))
    x = torch.randn(vectors, 45).half()
    with pytest.raises(AssertionError, match="reads a value back"), NoHostRead():
        layer._sparse_part()
    layer.prepare()
    with NoHostRead():
        for bits in (4, 2):
            set_weight_bits(layer, bits)
            layer(x)


def test_packing_during_a_capture_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = random_layer(45, 7)
    monkeypatch.setitem(layer._buffers, "planes", SimpleNamespace(is_cuda=True))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(InputError, match=r"not packed yet: call prepare\(\) before capturing"):
        layer._packed_weight()


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
    layer = with_sparse_part(random_layer(45, 7, sparse_values=4))
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
