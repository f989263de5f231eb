"""The greedy token and what moves on with it, kernel and plain torch."""

from __future__ import annotations

import math
import time

import pytest
import torch

from kernels import KernelError, fallback
from kernels.workspace import workspace

next_token = pytest.importorskip("kernels.next_token", reason="triton is not installed")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Fresh data in every run; the seed is printed with a failure.
SEED = time.time_ns() % 2**31
IMPLEMENTATIONS = pytest.mark.parametrize(
    "choose", [next_token.choose_token, fallback.choose_token], ids=["kernel", "torch"]
)


def state(B: int, length: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    token = torch.full((B,), -1, device=DEVICE)
    position = torch.arange(B, device=DEVICE) + 2
    return token, position, torch.full((B, length), -1, device=DEVICE)


@IMPLEMENTATIONS
@pytest.mark.parametrize(("B", "vocab", "dtype"), [(1, 32000, torch.float16), (3, 5001, torch.float32), (2, 1, None)])
def test_largest_logit_wins_and_the_state_moves_on(B: int, vocab: int, dtype: torch.dtype | None, choose) -> None:
    logits = torch.randn(B, vocab, generator=torch.Generator().manual_seed(SEED)).to(dtype or torch.bfloat16)
    expected = [row.tolist().index(max(row.tolist())) for row in logits]
    token, position, tokens = state(B)
    choose(logits.to(DEVICE), token, position, tokens)
    assert token.tolist() == expected, f"seed {SEED}"
    assert position.tolist() == [3 + row for row in range(B)]
    for row in range(B):
        assert tokens[row].tolist() == [expected[row] if at == 3 + row else -1 for at in range(9)]


@IMPLEMENTATIONS
def test_of_equal_logits_the_lowest_id_wins(choose) -> None:
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(5):
        # Few values, many ties, within parts of the vocabulary and across them.
        logits = torch.randint(0, 3, (2, 6000), generator=generator).half()
        logits[0, : int(torch.randint(1, 6000, (1,), generator=generator))] = 0.0
        token, position, tokens = state(2)
        choose(logits.to(DEVICE), token, position, tokens)
        expected = [row.tolist().index(max(row.tolist())) for row in logits]
        assert token.tolist() == expected, f"seed {SEED}"


@IMPLEMENTATIONS
@pytest.mark.parametrize(
    ("special", "expected"),
    [({}, 0), ({4000: 5.0}, 4000), ({4000: math.inf, 17: 5.0}, 4000), ({4000: math.nan, 4001: math.nan}, 4000)],
)
def test_infinite_and_undefined_logits_keep_their_order(special: dict[int, float], expected: int, choose) -> None:
    logits = torch.full((1, 5000), -math.inf)
    for entry, value in special.items():
        logits[0, entry] = value
    token, position, tokens = state(1)
    choose(logits.to(DEVICE), token, position, tokens)
    assert token.tolist() == [expected]


def test_token_past_the_end_is_chosen_and_not_written() -> None:
    token, position, tokens = state(2, length=4)
    next_token.choose_token(torch.eye(2, 50, device=DEVICE), token, position, tokens)
    assert token.tolist() == [0, 1]
    assert tokens.tolist() == [[-1, -1, -1, 0], [-1, -1, -1, -1]]


def test_counters_stay_zero() -> None:
    token, position, tokens = state(2)
    next_token.choose_token(torch.zeros(2, 9000, device=DEVICE), token, position, tokens)
    assert not workspace(token.device, 1, 1)[1].any()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"logits": torch.zeros(7)}, r"logits have shape \(7,\): must be \[B, vocab\]"),
        ({"token": torch.zeros(2, dtype=torch.int32)}, r"token torch\.int32 \(2,\): must be int64 \(2,\)"),
        ({"position": torch.zeros(1, dtype=torch.int64)}, r"position torch\.int64 \(1,\)"),
        ({"tokens": torch.zeros(3, 9, dtype=torch.int64)}, r"tokens torch\.int64 \(3, 9\): must be int64 \(2, 9\)"),
    ],
)
def test_input_the_kernel_cannot_take_is_refused_by_name(change: dict[str, torch.Tensor], named: str) -> None:
    token, position, tokens = state(2)
    arguments = {"logits": torch.zeros(2, 5, device=DEVICE), "token": token, "position": position, "tokens": tokens}
    arguments |= {name: tensor.to(DEVICE) for name, tensor in change.items()}
    with pytest.raises(KernelError, match=named):
        next_token.choose_token(**arguments)
