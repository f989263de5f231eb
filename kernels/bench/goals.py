"""What the kernels are meant to reach on an H100, against what a run measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Shape = tuple[int, int, str]
_MLP: tuple[Shape, ...] = (
    (11008, 4096, "linear"),
    (4096, 11008, "linear"),
    (22016, 4096, "swiglu"),
    (14336, 4096, "linear"),
    (4096, 14336, "linear"),
    (28672, 4096, "swiglu"),
)
NOT_MEASURED = "not measured"
COLUMNS = ("goal", "weight_bits", "at_least", "measured", "worst", "result")


@dataclass(frozen=True)
class Goal:
    """One line of the goals.

    Attributes:
        name: What it is about.
        column: The measured quantity.
        shapes: Linears it holds for, one activation vector, cold cache, codebooks a row; the worst one counts.
        model: Or the model whose decoding it holds for.
        at_least: Its bound by width.
    """

    name: str
    column: str
    shapes: tuple[Shape, ...]
    model: str | None
    at_least: dict[int, float]


GOALS = (
    Goal(
        "MLP layers of Vicuna-7B and Llama-3-8B, share of copy bandwidth",
        "share_of_copy",
        _MLP,
        None,
        {4: 0.70, 3: 0.65, 2: 0.55},
    ),
    Goal(
        "MLP layers of Vicuna-7B and Llama-3-8B, times fp16 cuBLAS", "times_fp16", _MLP, None, {4: 3.0, 3: 3.7, 2: 4.5}
    ),
    Goal("4096x4096, times fp16 cuBLAS", "times_fp16", ((4096, 4096, "linear"),), None, {4: 2.0, 3: 2.3, 2: 2.5}),
    Goal(
        "fused QKV of the 2048- and 2560-wide models, times fp16 cuBLAS",
        "times_fp16",
        ((6144, 2048, "linear"), (7680, 2560, "linear")),
        None,
        {4: 1.5, 3: 1.6, 2: 1.8},
    ),
    Goal("decoding Vicuna-7B's shape, times fp16 with graphs", "times_fp16", (), "vicuna-7b", {4: 2.5, 3: 3.0, 2: 3.5}),
)


def judge(
    linears: Sequence[Mapping[str, object]], decode: Sequence[Mapping[str, object]]
) -> list[dict[str, str | int | float | None]]:
    """Hold measured rows against every goal and width.

    Args:
        linears: Rows of the table ``linears``.
        decode: Rows of the table ``decode``.

    Returns:
        Rows of :data:`COLUMNS`; ``pass`` only where everything the goal names was measured and right.
    """
    judged: list[dict[str, str | int | float | None]] = []
    for goal in GOALS:
        for weight_bits, at_least in goal.at_least.items():
            found: dict[str, float | None] = (
                {f"{N}x{K} {kind}": _linear(linears, goal, (N, K, kind), weight_bits) for N, K, kind in goal.shapes}
                if goal.model is None
                else {goal.model: _decode(decode, goal, weight_bits)}
            )
            measured = {name: value for name, value in found.items() if value is not None}
            worst = min(measured, key=lambda name: measured[name], default=None)
            if worst is not None and measured[worst] < at_least:
                result = "miss"
            else:
                result = "pass" if len(measured) == len(found) else NOT_MEASURED
            judged.append(
                {
                    "goal": goal.name,
                    "weight_bits": weight_bits,
                    "at_least": at_least,
                    "measured": None if worst is None else measured[worst],
                    "worst": worst,
                    "result": result,
                }
            )
    return judged


def _linear(rows: Sequence[Mapping[str, object]], goal: Goal, shape: Shape, weight_bits: int) -> float | None:
    wanted = (*map(str, shape), str(weight_bits), "1", "permute", "cold", "ok")
    columns = ("N", "K", "operation", "weight_bits", "M", "decoder", "l2_state", "status")
    return _value(rows, columns, wanted, goal.column)


def _decode(rows: Sequence[Mapping[str, object]], goal: Goal, weight_bits: int) -> float | None:
    return _value(rows, ("model", "run", "status"), (str(goal.model), str(weight_bits), "ok"), goal.column)


def _value(
    rows: Sequence[Mapping[str, object]], columns: tuple[str, ...], wanted: tuple[str, ...], column: str
) -> float | None:
    """The quantity of the last row that matches; rows read back from a file are text."""
    matching = (row for row in reversed(rows) if tuple(str(row.get(name, "")) for name in columns) == wanted)
    text = str(next((row.get(column) for row in matching), None) or "")
    return float(text) if text else None
