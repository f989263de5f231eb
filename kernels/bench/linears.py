"""One linear layer at every width against half precision: microseconds, bytes a second, and what is left to gain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from kernels.bench.problems import (
    FULL_PRECISION_BITS,
    LinearCase,
    Problem,
    full_precision_problem,
    nested_problem,
)
from kernels.bench.session import Session, times
from kernels.bench.tables import Row
from kernels.bench.timing import Call, Rotation, rotated_copies

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Two milliseconds a replay for the largest matrix, a tenth of one for the smallest.
_MIN_CALLS = 100
_REPLAYS = 50


@dataclass(frozen=True)
class Variant:
    """A width and how its weights are decoded.

    Attributes:
        weight_bits: 2..8.
        uniform: On a uniform grid a group, rather than free codebooks a row.
    """

    weight_bits: int
    uniform: bool = False


def linear_rows(session: Session, case: LinearCase, variants: Sequence[Variant], M: int) -> Iterator[Row]:
    """Time half precision, then every variant, with a cold and with a warm cache.

    Args:
        session: The device.
        case: The layer.
        variants: What to time beside half precision, whose time of this very run they are compared with.
        M: Activation vectors, 1..8.

    Yields:
        Rows of the table ``linears`` without their item; two for each that is right, one for each that is not.
    """
    baseline: dict[str, float] = {}
    for row in _rows(session, case, M, FULL_PRECISION_BITS, full_precision_problem(case, M, session.device)):
        if row["status"] == "ok":
            baseline[_temperature(row)] = float(str(row["p50_us"]))
        yield row | _ratio(row, baseline)
    for variant in variants:
        problem = nested_problem(case, variant.weight_bits, M, session.device, uniform=variant.uniform)
        for row in _rows(session, case, M, variant.weight_bits, problem):
            yield row | _ratio(row, baseline)


def check_linear(device: torch.device, case: LinearCase, variant: Variant, M: int) -> None:
    """Run what :func:`linear_rows` will time of one variant, once."""
    nested_problem(case, variant.weight_bits, M, device, uniform=variant.uniform).error()


def _rows(session: Session, case: LinearCase, M: int, weight_bits: int, problem: Problem) -> Iterator[Row]:
    base: Row = {
        "operation": case.operation,
        "N": case.N,
        "K": case.K,
        "M": M,
        "weight_bits": weight_bits,
        "decoder": problem.decoder,
        "config": problem.config,
        "bytes_per_call": problem.bytes_per_call,
        "tolerance": problem.tolerance,
        "used_by": "; ".join(case.used_by),
        **session.provenance(),
    }
    error = problem.error()
    base["error"] = error
    # Said this way round, NaN is wrong too.
    if not error <= problem.tolerance:
        yield base | {"status": f"wrong: error {error:.3g}; not timed"}
        return
    for rotation in (session.rotation(problem.bytes_per_call), Rotation(1, problem.bytes_per_call, session.l2_bytes)):
        calls, outputs = _calls(problem, rotation.copies)
        measured = session.time(calls, min_calls=_MIN_CALLS, replays=_REPLAYS)
        row = base | {"l2_state": rotation.l2_state, "rotation_bytes": rotation.bytes, "copies": rotation.copies}
        # Equal weights and activations give equal bits, except that cuBLAS promises less.
        if not spread(outputs) <= (problem.tolerance if problem.decoder == "cublas" else 0.0):
            yield row | {"status": "wrong: outputs of equal copies differ; times dropped"}
            continue
        bytes_per_s = 1e6 * problem.bytes_per_call / measured.p50_us
        yield (
            row
            | times(measured)
            | {
                "gb_per_s": bytes_per_s / 1e9,
                # A cache is no memory: its share of a copy's bandwidth says nothing.
                "share_of_copy": None if rotation.copies == 1 else bytes_per_s / session.copy_bytes_per_s,
                "status": "ok",
            }
        )


def _calls(problem: Problem, copies: int) -> tuple[list[Call], list[Tensor]]:
    weights = rotated_copies(problem.weight, copies)
    outputs = [problem.poisoned_out() for _ in weights]
    return [partial(problem.run, *pair) for pair in zip(weights, outputs, strict=True)], outputs


def spread(outputs: list[Tensor]) -> float:
    """Largest difference of any output from the first, over the largest value; NaN where anything is NaN."""
    import torch

    # One at a time: together they may be as large as the copies.
    first = outputs[0].float()
    differences = torch.stack([(output.float() - first).abs().amax() for output in outputs])
    return float(differences.amax() / first.abs().amax())


def _temperature(row: Row) -> str:
    return "warm" if row["l2_state"] == "warm" else "cold"


def _ratio(row: Row, baseline: dict[str, float]) -> Row:
    """How many times as fast as half precision with the same cache."""
    if row["status"] != "ok" or _temperature(row) not in baseline:
        return {}
    return {"times_fp16": baseline[_temperature(row)] / float(str(row["p50_us"]))}
