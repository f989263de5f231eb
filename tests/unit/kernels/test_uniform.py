from __future__ import annotations

import pytest
import torch

from kernels import KernelError, SparsePart, naive, pack, pack_planes, pack_uniform
from kernels.uniform import MAX_ZERO, grid_of, grid_points

# A GPU machine may have nothing but torch, triton and pytest.
hypothesis = pytest.importorskip("hypothesis")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies


def random_grid(N: int, groups: int, bits: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Steps of any magnitude, subnormal ones and 0 included, whose points stay finite; zeros among the codes."""
    largest = torch.tensor(65504.0 / (1 << bits)).half().view(torch.int16)
    step = torch.randint(0, int(largest), (N, groups), generator=generator).short().view(torch.float16)
    return step, torch.randint(0, 1 << bits, (N, groups), generator=generator).half()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 8), st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**31))
def test_grid_of_points_gives_the_same_points(bits: int, N: int, groups: int, seed: int) -> None:
    step, zero = random_grid(N, groups, bits, torch.Generator().manual_seed(seed))
    lut = grid_points(step, zero, 1 << bits)
    found = grid_of(lut)
    assert found is not None
    assert torch.equal(grid_points(found.step, found.zero, 1 << bits).view(torch.int16), lut.view(torch.int16))
    positive = step > 0
    assert torch.equal(found.step[positive], step[positive])
    assert torch.equal(found.zero[positive], zero[positive])


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 8), st.integers(0, 2**31))
def test_one_entry_one_bit_off_is_no_grid(bits: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    step, zero = random_grid(3, 2, bits, generator)
    lut = grid_points(step.clamp(min=0.01), zero, 1 << bits)
    flat = lut.view(torch.int16).flatten()
    flat[int(torch.randint(0, len(flat), (1,), generator=generator))] ^= 1
    assert grid_of(lut) is None


def entries(*values: float) -> torch.Tensor:
    return torch.tensor([[values]]).half()


def test_points_by_hand() -> None:
    assert grid_points(torch.tensor([[0.5]]).half(), torch.tensor([[1.0]]).half(), 4).tolist() == [[[-0.5, 0, 0.5, 1]]]
    found = grid_of(entries(-0.5, 0, 0.5, 1))
    assert found is not None
    assert (found.step.item(), found.zero.item()) == (0.5, 1)


def test_zero_row_is_a_grid_of_step_zero() -> None:
    found = grid_of(entries(0, 0, 0, 0))
    assert found is not None
    assert (found.step.item(), found.zero.item()) == (0, 0)


@pytest.mark.parametrize(
    "lut",
    [
        entries(1, 0, -1, -2),
        entries(-0.0, 1, 2, 3),
        entries(1, 2, 3, 4),
        entries(0, 1, 2, 3.002),
        entries(0, 30000, 60000, 65504),
        entries(0, float("nan"), float("nan"), float("nan")),
        entries(0, 0, 0, -0.0),
        # Rounded multiples of a seventh are not the multiples of a rounded seventh.
        entries(*(q / 7 for q in range(8))),
        torch.cat([entries(0, 1, 2, 3), entries(0, 1, 2, 4)]),
        torch.zeros(0, 1, 4).half(),
    ],
)
def test_other_codebooks_are_no_grids(lut: torch.Tensor) -> None:
    assert grid_of(lut) is None


def test_grids_of_a_store_are_found_when_packing() -> None:
    """Codebooks as round-to-nearest stores them: float32 points, rounded to fp16 at the end."""
    step, zero = torch.tensor([[0.0123], [0.7], [2.0**-24]]).half(), torch.tensor([[3.0], [0.0], [15.0]])
    lut = ((torch.arange(16.0) - zero[..., None]) * step.float()[..., None]).half()
    planes = pack_planes(torch.randint(0, 16, (3, 70)).to(torch.uint8), 4)
    packed = pack(planes, {3: torch.randn(3, 1, 8).half(), 4: lut}, 70)
    assert list(packed.grids) == [4]
    assert torch.equal(packed.grids[4].step, step)
    assert torch.equal(packed.grids[4].zero, zero.half())


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(("K", "group_size"), [(1, None), (123, None), (300, 128), (70, 32)])
def test_packed_codes_stand_for_the_grid_points(bits: int, K: int, group_size: int | None) -> None:
    generator = torch.Generator().manual_seed(bits)
    N, groups = 5, -(-K // (group_size or K))
    codes = torch.randint(0, 1 << bits, (N, K), generator=generator).to(torch.uint8)
    step = torch.rand(N, groups, generator=generator).half()
    zero = torch.randint(-MAX_ZERO, MAX_ZERO + 1, (N, groups), generator=generator).half()
    part = SparsePart.from_csr(torch.tensor([0, 1, 1, 1, 1, 1]).int(), torch.tensor([0]).int(), step[0, :1], K)
    packed = pack_uniform(codes, step, zero, bits, group_size, sparse=part)
    expected = naive.grid_weights(codes, step, zero, group_size).double()
    expected[0, 0] += step[0, 0].double()
    assert torch.equal(naive.dense_weight(packed, bits), expected)
    assert packed.decoder(bits) == ("lookup" if bits == 1 or group_size == 32 else "grid")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"codes": torch.zeros(2, 40)}, r"codes torch\.float32 \(2, 40\): must be torch\.uint8"),
        ({"codes": torch.zeros(40, dtype=torch.uint8)}, "codes .* must be"),
        ({"codes": torch.full((2, 40), 8, dtype=torch.uint8)}, "index 8 does not fit in 3 bits"),
        ({"step": torch.ones(2, 2).half()}, r"step torch\.float16 \(2, 2\): must be torch\.float16 \(2, 1\)"),
        ({"zero": torch.ones(2, 1)}, r"zero torch\.float32"),
        ({"step": -torch.ones(2, 1).half()}, "step holds numbers that are negative"),
        ({"step": torch.full((2, 1), float("inf")).half()}, "step holds numbers that are .* not finite"),
        ({"zero": torch.full((2, 1), 0.5).half()}, "zero holds numbers that are not whole"),
        ({"zero": torch.full((2, 1), 1026.0).half()}, "beyond 1024"),
        ({"zero": torch.full((2, 1), float("nan")).half()}, "zero holds"),
    ],
)
def test_grid_that_cannot_be_decoded_is_refused(changed: dict[str, torch.Tensor], message: str) -> None:
    fitting = {
        "codes": torch.zeros(2, 40, dtype=torch.uint8),
        "step": torch.ones(2, 1).half(),
        "zero": torch.zeros(2, 1).half(),
    }
    with pytest.raises(KernelError, match=message):
        pack_uniform(**(fitting | changed), bits=3)
