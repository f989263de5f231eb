"""Fuse layers that read the same activations by joining the rows of their packed weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kernels.errors import KernelError
from kernels.layout import Grid, PackedWeight, SparsePart

if TYPE_CHECKING:
    from torch import Tensor

# Joins tensors along their rows, the dimension given.
_Join = Callable[[Sequence["Tensor"], int], "Tensor"]


def stack(weights: Sequence[PackedWeight]) -> PackedWeight:
    """Rows of one matrix after those of the other, as for a fused QKV projection.

    A width decoded by uniform grids in some matrices only is decoded by its codebooks in the joined one.

    Args:
        weights: Matrices of any N and of equal K, widths, planes, group size and device.

    Raises:
        KernelError: If there is none, or they differ in one of these.
    """
    import torch

    return _join(weights, lambda parts, dim: torch.cat(list(parts), dim))


def interleave(gate: PackedWeight, up: PackedWeight) -> PackedWeight:
    """Rows in turn, gate 0, up 0, gate 1, up 1, ..., as for a fused gate and up projection.

    A bias beside it is interleaved likewise: ``torch.stack((gate_bias, up_bias), 1).flatten()``.

    Raises:
        KernelError: If the matrices differ in N, or in what :func:`stack` names.
    """
    import torch

    if gate.out_features != up.out_features:
        raise KernelError(f"interleaved weights have N = {gate.out_features} and {up.out_features}: must be equal")
    joined = _join((gate, up), lambda parts, dim: torch.stack(list(parts), dim + 1).flatten(dim, dim + 1))
    if joined.sparse is None:
        return joined
    return replace(joined, sparse=_alternate(joined.sparse))


def _join(weights: Sequence[PackedWeight], join: _Join) -> PackedWeight:
    """Join every dense tensor by ``join``; sparse parts one after the other."""
    _check_alike(weights)
    first = weights[0]
    shared_grids = [b for b in first.grids if all(b in weight.grids for weight in weights)]
    return PackedWeight(
        planes=join([weight.planes for weight in weights], 1),
        luts={b: join([weight.luts[b] for weight in weights], 0) for b in first.luts},
        byte_luts={
            b: (join([weight.byte_luts[b][0] for weight in weights], 0), join([w.byte_luts[b][1] for w in weights], 0))
            for b in first.byte_luts
        },
        grids={
            b: Grid(
                join([weight.grids[b].step for weight in weights], 0),
                join([weight.grids[b].zero for weight in weights], 0),
            )
            for b in shared_grids
        },
        sparse=_stack_sparse(weights),
        in_features=first.in_features,
        group_size=first.group_size,
        block_bytes=first.block_bytes,
    )


def _check_alike(weights: Sequence[PackedWeight]) -> None:
    if not weights:
        raise KernelError("no weights to join: give at least one")
    compared: dict[str, Callable[[PackedWeight], object]] = {
        "K": lambda weight: weight.in_features,
        "stored widths": lambda weight: weight.widths,
        "planes": lambda weight: len(weight.planes),
        "group size": lambda weight: weight.group_size,
        "block bytes": lambda weight: weight.block_bytes,
        "device": lambda weight: weight.device,
    }
    for name, value in compared.items():
        found = [value(weight) for weight in weights]
        if any(other != found[0] for other in found):
            raise KernelError(f"weights to join differ in {name}: {', '.join(map(str, found))}; must be equal")


def _stack_sparse(weights: Sequence[PackedWeight]) -> SparsePart | None:
    """Sparse parts one after the other; a matrix without one has empty rows."""
    import torch

    present = [weight.sparse for weight in weights if weight.sparse is not None]
    if not present:
        return None
    ends, count = [], 0
    for weight in weights:
        if weight.sparse is None:
            ends.append(torch.full((weight.out_features,), count, dtype=torch.int32, device=weight.device))
        else:
            ends.append(weight.sparse.rows[1:] + count)
            count += len(weight.sparse.vals)
    return SparsePart(
        rows=torch.cat([ends[0].new_zeros(1), *ends]),
        cols=torch.cat([part.cols for part in present]),
        vals=torch.cat([part.vals for part in present]),
        in_features=weights[0].in_features,
        longest_row=max(part.longest_row for part in present),
    )


def _alternate(sparse: SparsePart) -> SparsePart:
    """From the rows of one matrix after those of another to rows in turn."""
    import torch

    starts, lengths = (part.view(2, -1).T.flatten() for part in (sparse.rows[:-1], sparse.rows.diff()))
    rows = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    shift = torch.repeat_interleave(starts - rows[:-1], lengths)
    order = torch.arange(len(sparse.vals), device=rows.device) + shift
    return replace(sparse, rows=rows, cols=sparse.cols[order], vals=sparse.vals[order])
