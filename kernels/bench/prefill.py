"""Many activation vectors at once: the fused product, dequantising for cuBLAS, and half precision, over M."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from kernels.bench.problems import (
    CUBLAS_TOLERANCE,
    FULL_PRECISION_BITS,
    TOLERANCE,
    WEIGHT_SCALE,
    LinearCase,
    random_nested,
    sampled_rows,
)
from kernels.bench.session import Session, times
from kernels.bench.tables import Row
from kernels.bench.timing import Call, rotated_copies
from kernels.config import GemmConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BATCHES = (16, 32, 64, 128, 256, 512, 1024, 2048)
FUSED, DEQUANTIZED, FULL_PRECISION = "fused", "dequantize + cublas", "cublas fp16"
# The largest product takes 0.5 ms, so that a replay of 24 of them takes 12 ms.
_MIN_CALLS = 24
_REPLAYS = 20

# Computes the product of activations with a copy of the weight into an output.
Product = Callable[[Any, "Tensor", "Tensor"], object]


def prefill_rows(session: Session, case: LinearCase, widths: Sequence[int], batches: Sequence[int]) -> Iterator[Row]:
    """Time the three ways over a range of activation vectors, codebooks per row, cold cache.

    Args:
        session: The device.
        case: The layer; no SwiGLU.
        widths: Widths of the nested weight, each stored alone.
        batches: Activation vectors.

    Yields:
        Rows of the table ``prefill`` without their item.
    """
    import torch

    device = session.device
    baseline: dict[int, float] = {}
    weight = (torch.randn(case.N, case.K, device=device) * WEIGHT_SCALE).half()

    def product(copy: Any, x: Tensor, out: Tensor) -> object:
        return torch.mm(x, copy.t(), out=out)

    for row in _rows(session, case, FULL_PRECISION_BITS, weight, weight, {FULL_PRECISION: product}, batches):
        if row["status"] == "ok":
            baseline[int(str(row["M"]))] = float(str(row["p50_us"]))
        yield row | _ratio(row, baseline)
    for weight_bits in widths:
        packed, dense, methods = _nested(session.device, case, weight_bits)
        for row in _rows(session, case, weight_bits, packed, dense, methods, batches):
            yield row | _ratio(row, baseline)


def check_prefill(device: torch.device, case: LinearCase, weight_bits: int, batches: Sequence[int]) -> None:
    """Run what :func:`prefill_rows` will time of one width, once."""
    packed, _, methods = _nested(device, case, weight_bits)
    for M in batches:
        x, out = _buffers(device, case, M)
        for product in methods.values():
            product(packed, x, out)


def _nested(device: torch.device, case: LinearCase, weight_bits: int) -> tuple[Any, Tensor, dict[str, Product]]:
    """A packed weight, the same dequantised, and the two ways of using it."""
    import torch

    from kernels.gemm import dequantize, gemm
    from kernels.layout import pack
    from kernels.naive import dequantize as reference
    from kernels.tuning import choose

    planes, lut, group_size = random_nested(case.N, case.K, weight_bits, device, uniform=False)
    packed = pack(planes, {weight_bits: lut}, case.K, group_size)
    # One buffer for all copies, as one buffer serves all layers of a model.
    dense = torch.empty(case.N, case.K, dtype=torch.float16, device=device)

    def fused(copy: Any, x: Tensor, out: Tensor) -> object:
        choice = choose(device, case.operation, case.N, case.K, weight_bits, copy.decoder(weight_bits), x.shape[0])
        config = choice.config if isinstance(choice.config, GemmConfig) else None
        return gemm(x, copy, weight_bits, out=out, config=config)

    def dequantized(copy: Any, x: Tensor, out: Tensor) -> object:
        return torch.mm(x, dequantize(copy, weight_bits, out=dense).t(), out=out)

    return packed, reference(planes, lut, case.K, group_size), {FUSED: fused, DEQUANTIZED: dequantized}


def _rows(
    session: Session,
    case: LinearCase,
    weight_bits: int,
    weight: Any,
    dense: Tensor,
    methods: dict[str, Product],
    batches: Sequence[int],
) -> Iterator[Row]:
    """Every method over every M, one set of copies for all.

    Args:
        session: The device.
        case: The layer.
        weight_bits: What the rows say.
        weight: What rotates.
        dense: The same weights, ``[N, K]`` float16, for the check.
        methods: Ways of computing the product.
        batches: Activation vectors.
    """
    table_bytes = 2 * case.N * (1 << weight_bits) if weight_bits < FULL_PRECISION_BITS else 0
    weight_bytes = case.N * case.K * weight_bits // 8 + table_bytes
    rotation = session.rotation(weight_bytes)
    copies = rotated_copies(weight, rotation.copies)
    rows = sampled_rows(case.N, session.device)
    wanted_weight = dense[rows].double().T
    for M in batches:
        x, out = _buffers(session.device, case, M)
        expected = x.double() @ wanted_weight
        for method, product in methods.items():
            tolerance = TOLERANCE if method == FUSED else CUBLAS_TOLERANCE
            bytes_per_call = weight_bytes + 2 * M * (case.K + case.N)
            base: Row = {
                "N": case.N,
                "K": case.K,
                "M": M,
                "weight_bits": weight_bits,
                "method": method,
                "l2_state": rotation.l2_state,
                "rotation_bytes": rotation.bytes,
                "copies": rotation.copies,
                "bytes_per_call": bytes_per_call,
                "tolerance": tolerance,
                **session.provenance(),
            }
            out.fill_(float("nan"))
            product(weight, x, out)
            error = float((out[:, rows].double() - expected).abs().max() / expected.abs().max())
            if not (error <= tolerance and bool(out.isfinite().all())):
                yield base | {"error": error, "status": f"wrong: error {error:.3g}; not timed"}
                continue
            calls: list[Call] = [partial(product, copy, x, out) for copy in copies]
            measured = session.time(calls, min_calls=_MIN_CALLS, replays=_REPLAYS)
            yield (
                base
                | times(measured)
                | {
                    "error": error,
                    "gb_per_s": bytes_per_call / measured.p50_us / 1e3,
                    "tflop_per_s": 2 * M * case.N * case.K / measured.p50_us / 1e6,
                    "status": "ok",
                }
            )


def _buffers(device: torch.device, case: LinearCase, M: int) -> tuple[Tensor, Tensor]:
    """Random activations ``[M, K]`` and an output ``[M, N]``."""
    import torch

    x = torch.randn(M, case.K, device=device).half()
    return x, torch.empty(M, case.N, dtype=torch.float16, device=device)


def _ratio(row: Row, baseline: dict[int, float]) -> Row:
    M = int(str(row["M"]))
    if row["status"] != "ok" or M not in baseline:
        return {}
    return {"times_fp16": baseline[M] / float(str(row["p50_us"]))}
