"""Metrics a study can optimise or bound: their units, their better direction, and how workloads combine."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from hwsim.trace import InputError, unknown_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dse.study import Constraint, Objective

Amount = TypeVar("Amount", "float", "NDArray[np.float64]")

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


@dataclass(frozen=True)
class Metric:
    """One quantity of a design.

    Attributes:
        better: Which direction is better.
        units: Accepted units and their factor to the metric's own, which comes first.
    """

    better: Literal["maximize", "minimize"]
    units: Mapping[str, float]


METRICS: dict[str, Metric] = {
    "decode_tokens_per_s": Metric("maximize", {"token/s": 1.0, "tok/s": 1.0}),
    "ttft_s": Metric("minimize", _SECONDS),
    "tpot_s": Metric("minimize", _SECONDS),
    "e2e_s": Metric("minimize", _SECONDS),
    "energy_j_per_token": Metric("minimize", {"J/token": 1.0, "mJ/token": 1e-3}),
    "dram_bytes_per_token": Metric("minimize", {"byte/token": 1.0, "MB/token": 1e6, "GB/token": 1e9}),
    "area_mm2": Metric("minimize", {"mm2": 1.0}),
    "bandwidth_bytes_per_s": Metric("minimize", {"byte/s": 1.0, "MB/s": 1e6, "GB/s": 1e9, "GiB/s": 2.0**30}),
    "mean_decode_bits": Metric("minimize", {"bit": 1.0}),
    "quality": Metric("maximize", {"score": 1.0}),
    "quality_ci_low": Metric("maximize", {"score": 1.0}),
    "relative_quality": Metric("maximize", {"ratio": 1.0, "%": 0.01}),
    "relative_quality_ci_low": Metric("maximize", {"ratio": 1.0, "%": 0.01}),
}

QUALITY_METRICS = ("quality", "quality_ci_low", "relative_quality", "relative_quality_ci_low")


ALIASES = {
    "tokens_per_s": "decode_tokens_per_s",
    "quality": "relative_quality",
    "absolute_quality": "quality",
    "bandwidth": "bandwidth_bytes_per_s",
    "area": "area_mm2",
    "energy": "energy_j_per_token",
    "ttft": "ttft_s",
    "tpot": "tpot_s",
    "e2e": "e2e_s",
    "bits": "mean_decode_bits",
}
"""Short names in questions. ``quality`` asks for quality relative to full precision (design decision 13)."""


class NoDesignError(InputError):
    """No design of a study can run and keep its limits; the message names what binds."""


def check_metric_name(kind: str, name: str, parameters: Collection[str]) -> None:
    """Refuse a name that is neither a metric nor a numeric parameter of the study.

    Raises:
        InputError: With the nearest name and the list of those that exist.
    """
    if name not in METRICS and name not in parameters:
        raise unknown_name(kind, name, [*METRICS, *parameters])


def resolve_name(name: str, parameters: Sequence[str]) -> str:
    """Full name of a metric or parameter given by its short name.

    Raises:
        InputError: With the nearest name, if it names nothing.
    """
    short = name.replace("-", "_")
    full = ALIASES.get(short, short if short in METRICS else name)
    if full not in METRICS and full not in parameters:
        raise unknown_name("quantity", name, [*ALIASES, *METRICS, *parameters])
    return full


def unit_factor(name: str, unit: str | None) -> float:
    """Factor from ``unit`` to the own unit of metric ``name``.

    Raises:
        InputError: If the metric is not given in that unit.
    """
    if unit is None:
        return 1.0
    # A parameter's name ends in its unit; only bandwidths are commonly given in another one.
    parameter_units = METRICS["bandwidth_bytes_per_s"].units if name.endswith("_bytes_per_s") else {}
    units = METRICS[name].units if name in METRICS else parameter_units
    if not units:
        raise InputError(f"{name}: unit = '{unit}': this parameter is given in its own unit only; leave unit out")
    if unit not in units:
        raise unknown_name(f"unit of {name}", unit, units)
    return units[unit]


def violation(constraint: Constraint, value: Amount) -> Amount:
    """How far ``value`` is beyond the limit, as a share of the limit; <= 0 is feasible (Optuna's sign).

    A share makes limits of different units comparable, which samplers that add violations up rely on.

    Args:
        constraint: The limit.
        value: A number, or an array of them.
    """
    excess = constraint.limit - value if constraint.op == ">=" else value - constraint.limit
    return excess / (abs(constraint.limit) or 1.0)


def violations(constraints: Sequence[Constraint], metrics: Mapping[str, float]) -> dict[str, float]:
    """Violation of every constraint, by its text."""
    return {str(constraint): violation(constraint, metrics[constraint.name]) for constraint in constraints}


def losses(objectives: Sequence[Objective], metrics: Mapping[str, float]) -> list[float]:
    """Objective values with the sign turned where more is better, so that less is always better."""
    return [
        -metrics[objective.name] if objective.direction == "maximize" else metrics[objective.name]
        for objective in objectives
    ]


def signs(objectives: Sequence[Objective]) -> NDArray[np.float64]:
    """Factor per objective between its value and its loss."""
    import numpy as np  # noqa: PLC0415 - a study file is read without numpy

    return np.array([-1.0 if objective.direction == "maximize" else 1.0 for objective in objectives])


Quantity: TypeAlias = Any
"""A float, or an array with one entry a design."""


@dataclass(frozen=True)
class WorkloadCost:
    """What the simulator says of one workload under one design, or many; times and tokens are of a mean sequence.

    Attributes:
        weight: Share of requests.
        decode_steps: Decode steps S of a mean sequence.
        decode_s: Time of these steps.
        ttft_s: Time to the first token.
        e2e_s: Time of the whole sequence.
        energy_j: Energy of the whole sequence.
        dram_bytes: DRAM traffic of the whole sequence.
        mean_decode_bits: Mean weight width over the decode steps.
    """

    weight: float
    decode_steps: Quantity
    decode_s: Quantity
    ttft_s: Quantity
    e2e_s: Quantity
    energy_j: Quantity
    dram_bytes: Quantity
    mean_decode_bits: Quantity

    def metrics(self) -> dict[str, Quantity]:
        """This workload's own metrics; a sequence of S decode steps has S + 1 tokens."""
        tokens = self.decode_steps + 1
        return {
            "decode_tokens_per_s": self.decode_steps / self.decode_s,
            "ttft_s": self.ttft_s,
            "tpot_s": self.decode_s / self.decode_steps,
            "e2e_s": self.e2e_s,
            "energy_j_per_token": self.energy_j / tokens,
            "dram_bytes_per_token": self.dram_bytes / tokens,
            "mean_decode_bits": self.mean_decode_bits,
        }


def combine(costs: Sequence[WorkloadCost], aggregate: Literal["weighted", "worst"]) -> dict[str, Quantity]:
    """Combine workloads into one set of metrics, of one design or of many.

    ``weighted`` is the mix of requests: with shares w, rates are total steps over total time,
    sum(w S) / sum(w T), energy and bytes are totals over total tokens, latencies are means.
    ``worst`` takes each metric from the workload where it is worst.
    """
    if aggregate == "worst":
        rows = [cost.metrics() for cost in costs]
        if len(rows) == 1:
            return rows[0]
        import numpy as np  # noqa: PLC0415 - a study file is read without numpy

        pick = {"maximize": np.minimum, "minimize": np.maximum}
        return {name: reduce(pick[METRICS[name].better], (row[name] for row in rows)) for name in rows[0]}
    shares = [cost.weight / math.fsum(other.weight for other in costs) for cost in costs]

    # Added up in order, so that many designs at once give the numbers of each alone.
    def mean(name: str) -> Quantity:
        return sum(share * getattr(cost, name) for share, cost in zip(shares, costs, strict=True))

    steps = mean("decode_steps")
    bits = sum(share * cost.decode_steps * cost.mean_decode_bits for share, cost in zip(shares, costs, strict=True))
    mix = WorkloadCost(
        weight=1.0,
        decode_steps=steps,
        decode_s=mean("decode_s"),
        ttft_s=mean("ttft_s"),
        e2e_s=mean("e2e_s"),
        energy_j=mean("energy_j"),
        dram_bytes=mean("dram_bytes"),
        mean_decode_bits=bits / steps,
    )
    return mix.metrics()
