"""Attention of one new token over a static cache, kernel and plain torch, against float64."""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch import Tensor

from kernels import KernelError, fallback
from kernels.rotary import RotaryTable
from kernels.workspace import workspace

attention = pytest.importorskip("kernels.attention", reason="triton is not installed")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Fresh data in every run; the seed is printed with a failure.
SEED = time.time_ns() % 2**31
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


class Case:
    """Random queries, keys and values; the cache is NaN from each sequence's position on, as are its neighbours."""

    def __init__(self, B, heads, kv_heads, D, rotary_dim, capacity, positions, dtype=torch.float16):
        generator = torch.Generator().manual_seed(SEED)
        self.B, self.heads, self.kv_heads, self.D = B, heads, kv_heads, D
        self.rotary = RotaryTable.from_base(rotary_dim, capacity)
        self.qkv = torch.randn(B, (heads + 2 * kv_heads) * D, generator=generator).to(dtype)
        guarded = torch.randn(2, B + 2, kv_heads, capacity, D, generator=generator).to(dtype)
        guarded[:, 0] = guarded[:, -1] = math.nan
        for sequence, position in enumerate(positions):
            guarded[:, sequence + 1, :, position:] = math.nan
        self.expected, self.new_keys, self.new_values = self._reference(guarded, positions)
        self.cache = guarded.to(DEVICE)
        self.keys, self.values = self.cache[0, 1:-1], self.cache[1, 1:-1]
        self.qkv, self.position = self.qkv.to(DEVICE), torch.tensor(positions, device=DEVICE)
        self.rotary = RotaryTable(self.rotary.cos.to(DEVICE), self.rotary.sin.to(DEVICE))
        self.tolerance = TOLERANCE[dtype]

    def _reference(self, guarded: Tensor, positions) -> tuple[Tensor, Tensor, Tensor]:
        """Everything in float64, from the new key and value as the cache will keep them."""
        out, new_keys, new_values = [], [], []
        for sequence, position in enumerate(positions):
            by_head = self.qkv[sequence].view(-1, self.D)
            half = self.rotary.rotary_dim // 2
            cos, sin = (table[position].double() for table in (self.rotary.cos, self.rotary.sin))
            turned = by_head.double()
            first, second = turned[:, :half], turned[:, half : 2 * half]
            turned = torch.cat((first * cos - second * sin, second * cos + first * sin, turned[:, 2 * half :]), 1)
            turned = turned.to(self.qkv.dtype)
            query, key = turned[: self.heads], turned[self.heads : self.heads + self.kv_heads]
            value = by_head[self.heads + self.kv_heads :]
            for head in range(self.heads):
                shared = head // (self.heads // self.kv_heads)
                past_keys, past_values = guarded[:, sequence + 1, shared, :position].double()
                keys = torch.cat((past_keys, key[shared].double()[None]))
                values = torch.cat((past_values, value[shared].double()[None]))
                weights = (keys @ query[head].double() / math.sqrt(self.D)).softmax(0)
                out.append(weights @ values)
            new_keys.append(key)
            new_values.append(value)
        return torch.stack(out).view(self.B, -1), torch.stack(new_keys), torch.stack(new_values)

    def arguments(self) -> tuple[Tensor, Tensor, Tensor, Tensor, RotaryTable]:
        return self.qkv, self.keys, self.values, self.position, self.rotary

    def check(self, out: Tensor) -> None:
        error = float((out.double().cpu() - self.expected).abs().max() / self.expected.abs().max())
        assert error < self.tolerance, f"relative error {error} (seed {SEED})"


# (B, heads, kv_heads, head_dim, rotary_dim, capacity, positions)
CASES = {
    "llama": (1, 2, 2, 128, 128, 150, (149,)),
    "grouped": (2, 8, 2, 64, 64, 40, (39, 7)),
    "odd-group": (1, 7, 1, 16, 16, 300, (229,)),
    "odd-head": (1, 3, 3, 80, 20, 130, (70,)),
    "no-rotary": (3, 2, 1, 96, 0, 33, (0, 32, 16)),
    "first-token": (1, 4, 4, 8, 4, 1, (0,)),
}


@pytest.mark.parametrize("attend", [attention.attend, fallback.attend], ids=["kernel", "torch"])
@pytest.mark.parametrize("name", CASES)
def test_result_is_that_of_float64_and_nothing_leaks_from_past_the_length(name: str, attend) -> None:
    case = Case(*CASES[name])
    before = case.cache.clone()
    case.check(attend(*case.arguments()))
    for kept, new in ((case.keys, case.new_keys), (case.values, case.new_values)):
        for sequence, position in enumerate(case.position.tolist()):
            found = kept[sequence, :, position].cpu()
            # The kernel may fuse multiplication and addition: one rounding of the dtype.
            torch.testing.assert_close(found, new[sequence], rtol=1e-3, atol=1e-3, msg=f"seed {SEED}")
    after = case.cache.clone()
    for sequence, position in enumerate(case.position.tolist()):
        after[:, sequence + 1, :, position] = before[:, sequence + 1, :, position]
    assert torch.equal(after.nan_to_num(9.0), before.nan_to_num(9.0)), "something else in the cache was written"


@pytest.mark.parametrize("attend", [attention.attend, fallback.attend], ids=["kernel", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes_keep_their_own_precision(dtype: torch.dtype, attend) -> None:
    case = Case(*CASES["odd-head"], dtype=dtype)
    case.check(attend(*case.arguments()))


@pytest.mark.parametrize("splits", [1, 2, 8])
def test_any_split_of_the_context_gives_the_result(splits: int) -> None:
    case = Case(*CASES["grouped"])
    out = torch.full_like(case.qkv[:, : case.heads * case.D], math.nan)
    returned = attention.attend(*case.arguments(), out=out, splits=splits)
    assert returned.data_ptr() == out.data_ptr()
    case.check(out)


@pytest.mark.full
@pytest.mark.parametrize("heads_and_dim", [(4, 64), (8, 80), (5, 96), (4, 112), (2, 128), (3, 40)])
@pytest.mark.parametrize("position", [0, 1, 62, 63, 64, 65, 511, 513])
@pytest.mark.parametrize("splits", [1, 4, None])
def test_every_length_around_the_tiles_gives_the_result(heads_and_dim, position: int, splits: int | None) -> None:
    heads, D = heads_and_dim
    for kv_heads in {1, heads}:
        case = Case(1, heads, kv_heads, D, 2 * (D // 4), 520, (position,))
        case.check(attention.attend(*case.arguments(), splits=splits))


def test_same_input_gives_the_same_bits_and_counters_stay_zero() -> None:
    case = Case(*CASES["odd-group"])
    first = attention.attend(*case.arguments())
    assert torch.equal(first, attention.attend(*case.arguments()))
    assert not workspace(case.qkv.device, 1, 1)[1].any()


def test_first_token_attends_to_itself_alone() -> None:
    case = Case(*CASES["first-token"])
    out = attention.attend(*case.arguments())
    assert torch.equal(out, case.qkv[:, -case.kv_heads * case.D :])


@pytest.mark.parametrize("attend", [attention.attend, fallback.attend], ids=["kernel", "torch"])
def test_scores_far_apart_neither_overflow_nor_vanish(attend) -> None:
    case = Case(1, 1, 1, 8, 0, 70, (69,), torch.float32)
    case.keys[0, 0, :69] *= 1e4
    case.qkv *= 100
    best = (case.keys[0, 0, :69].double() @ case.qkv[0, :8].double()).argmax()
    assert case.keys[0, 0, best].double() @ case.qkv[0, :8].double() > 0
    torch.testing.assert_close(attend(*case.arguments())[0], case.values[0, 0, best])


def test_a_full_cache_is_not_written_past_its_end() -> None:
    case = Case(1, 2, 2, 16, 0, 20, (19,))
    case.position += 1
    before = case.cache.clone()
    attention.attend(*case.arguments())
    assert torch.equal(case.cache.nan_to_num(9.0), before.nan_to_num(9.0))


def test_parts_are_a_power_of_two_that_one_program_can_join() -> None:
    for heads, kv_heads, D in ((32, 32, 128), (32, 8, 128), (32, 32, 80), (71, 1, 64), (14, 2, 64), (1, 1, 256)):
        for capacity in (1, 64, 4096, 131072):
            for B in (1, 8):
                found = attention.kernel_constants(B, heads, kv_heads, D, 0, capacity)
                splits = found["SPLITS"]
                assert splits & (splits - 1) == 0
                assert splits <= found["TOKENS"] or splits == 1
                assert (splits - 1) * found["TOKENS"] < capacity


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"qkv": lambda case: case.qkv[:, :-1].contiguous()}, r"qkv has shape \(2, 767\)"),
        ({"qkv": lambda case: case.qkv.float()}, r"qkv, keys, values are torch\.float32, torch\.float16"),
        ({"keys": lambda case: case.keys.transpose(2, 3)}, r"keys have shape .* contiguous"),
        ({"values": lambda case: case.values[:, :1].contiguous()}, r"values have shape \(2, 1, 40, 64\)"),
        ({"position": lambda case: case.position.int()}, r"position torch\.int32 \(2,\): must be int64 \[2\]"),
        ({"rotary": lambda case: RotaryTable.from_base(66, 40)}, "rotary tables turn 66 columns"),
        ({"out": lambda case: case.qkv}, r"out torch\.float16 \(2, 768\): must be"),
        ({"splits": lambda case: 3}, "splits = 3: must be a power of two"),
    ],
)
def test_input_the_kernel_cannot_take_is_refused_by_name(change, named: str) -> None:
    case = Case(*CASES["grouped"])
    names = ("qkv", "keys", "values", "position", "rotary")
    arguments = dict(zip(names, case.arguments(), strict=True))
    arguments |= {name: make(case) for name, make in change.items()}
    with pytest.raises(KernelError, match=named):
        attention.attend(**arguments)
