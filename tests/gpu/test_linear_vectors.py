"""Products of one to three hundred vectors on a GPU: every kernel and every tile of vectors."""

from __future__ import annotations

import pytest
import torch

from kernel_problems import SEED, TOLERANCE, random_problem, relative_error
from kernels import linear

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def test_every_number_of_vectors_up_to_three_hundred_is_within_rounding() -> None:
    whole = random_problem(300, 200, 1024, 4)
    expected = whole.product
    for M in (*range(1, 18), 31, 32, 33, 48, 63, 64, 65, 100, 128, 129, 299, 300):
        error = relative_error(linear(whole.x[:M], whole.packed, 4, whole.bias), expected[:M])
        assert error < TOLERANCE, f"M = {M}: relative error {error} (seed {SEED})"
