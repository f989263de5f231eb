"""Agreement with the full-precision output, token by token."""

from __future__ import annotations

from collections.abc import Sequence

from accuracy.metrics.base import METRICS, Metric, one_by_one
from accuracy.statistics import mean


def identical_prefix_tokens(tokens: Sequence[int], reference: Sequence[int]) -> int:
    """Number of leading tokens that are equal.

    >>> identical_prefix_tokens([5, 6, 7], [5, 6, 8, 7])
    2
    """
    return next(
        (index for index, (a, b) in enumerate(zip(tokens, reference, strict=False)) if a != b),
        min(len(tokens), len(reference)),
    )


@METRICS.register("identical_prefix_tokens")
def _identical_prefix() -> Metric:
    return Metric(
        "identical_prefix_tokens",
        "maximize",
        "full-precision",
        one_by_one(lambda ours, reference: (identical_prefix_tokens(ours.tokens, reference.output.tokens),)),
        mean,
        "leading tokens equal to the full-precision output's, mean over prompts",
    )
