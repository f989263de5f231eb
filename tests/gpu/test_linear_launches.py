"""Repeated, concurrent and captured launches on a GPU, large shapes, and a GPU that is not the current one."""

from __future__ import annotations

import pytest
import torch

from kernel_problems import SEED, TOLERANCE, random_problem, relative_error
from kernels import linear, swiglu_linear

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
# GEMV, fused GEMM, and dequantised for cuBLAS.
VECTORS = (1, 20, 130)


@pytest.mark.parametrize("M", VECTORS)
def test_a_hundred_launches_give_the_same_bits(M: int) -> None:
    problem = random_problem(M, 256, 4096, 4)
    first = linear(problem.x, problem.packed, 4, problem.bias)
    assert relative_error(first, problem.product) < TOLERANCE
    for _ in range(100):
        assert torch.equal(linear(problem.x, problem.packed, 4, problem.bias), first), f"seed {SEED}"


@pytest.mark.parametrize("M", VECTORS[:2])
def test_two_streams_at_once_give_the_same_bits(M: int) -> None:
    problems = [random_problem(M, 256, 4096, width) for width in (3, 4)]
    expected = [linear(problem.x, problem.packed, problem.width) for problem in problems]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    found: list[list[torch.Tensor]] = [[], []]
    for _ in range(100):
        for problem, stream, results in zip(problems, streams, found, strict=True):
            with torch.cuda.stream(stream):
                results.append(linear(problem.x, problem.packed, problem.width))
    torch.cuda.synchronize()
    for results, wanted in zip(found, expected, strict=True):
        assert all(torch.equal(y, wanted) for y in results), f"seed {SEED}"


@pytest.mark.parametrize("M", VECTORS)
def test_captured_graph_replays_on_new_activations(M: int) -> None:
    problem = random_problem(M, 128, 2048, 3, sparse=True)
    x = problem.x.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        return linear(x, problem.packed, 3, problem.bias), swiglu_linear(x, problem.packed, 3)

    with torch.cuda.stream(stream):
        step()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        y, activated = step()
    weight = problem.weight.double() + problem.sparse.double()
    for _ in range(3):
        x.normal_()
        y.fill_(float("nan"))
        activated.fill_(float("nan"))
        graph.replay()
        product = x.double() @ weight.t()
        assert relative_error(y, product + problem.bias.double()) < TOLERANCE, f"seed {SEED}"
        expected = torch.nn.functional.silu(product[:, 0::2]) * product[:, 1::2]
        assert relative_error(activated, expected) < 2 * TOLERANCE, f"seed {SEED}"


@pytest.mark.parametrize("M", VECTORS)
def test_no_call_waits_for_the_device(M: int) -> None:
    problem = random_problem(M, 128, 2048, 3, sparse=True)
    linear(problem.x, problem.packed, 3, problem.bias)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        linear(problem.x, problem.packed, 3, problem.bias)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_large_shape_is_within_rounding() -> None:
    for M in (1, 8, 64, 300):
        problem = random_problem(M, 14336, 4096, 4)
        y = linear(problem.x, problem.packed, 4, problem.bias)
        # A sample of rows: the whole in float64 takes half a gigabyte, and minutes on a GPU that is slow at it.
        rows = torch.arange(0, 14336, 97, device="cuda")
        expected = problem.x.double() @ problem.weight[rows].double().t() + problem.bias[rows].double()
        assert bool(y.isfinite().all())
        assert relative_error(y[:, rows], expected) < TOLERANCE, f"M = {M} (seed {SEED})"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("M", VECTORS)
def test_tensors_on_another_gpu_than_the_current_one(M: int) -> None:
    problem = random_problem(M, 128, 2048, 3, sparse=True, device=torch.device("cuda", 1))
    assert torch.cuda.current_device() == 0
    y = linear(problem.x, problem.packed, 3, problem.bias)
    assert y.device == torch.device("cuda", 1)
    assert relative_error(y, problem.product) < TOLERANCE, f"seed {SEED}"
