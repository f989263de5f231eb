"""What the paper prints about GPUs: kernel latencies, speed-ups, and mean bits (arXiv 2410.13461)."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources

DATA = resources.files("studies.gpu_speedups") / "data"
FULL_PRECISION_BITS = 16
BASELINE, PMPD = "baseline-h", "pmpd"
# Table 3's representative layers; which of Table 7's they are, 31 of its 32 entries say.
REPRESENTATIVES = {"attention": "k_proj", "mlp": "down_proj"}
END_TO_END = "end-to-end"


@dataclass(frozen=True)
class Mixture:
    """How much of a response runs at which of two widths.

    Attributes:
        model: Named shape.
        high_bits: Width of the first steps.
        low_bits: Width of the rest.
        scheduler: The better one of static and learned, as App. A.5 chooses.
        mean_decode_bits: Mean over the tasks that App. A.5 names.
        tasks: How many.
    """

    model: str
    high_bits: int
    low_bits: int
    scheduler: str
    mean_decode_bits: float
    tasks: int

    @property
    def high_share(self) -> float:
        """Share of the steps at the high width: (mean - low) / (high - low)."""
        return (self.mean_decode_bits - self.low_bits) / (self.high_bits - self.low_bits)

    def mix(self, high: float, low: float) -> float:
        """A latency weighted by steps (App. A.5)."""
        return self.high_share * high + (1 - self.high_share) * low


@dataclass(frozen=True)
class Published:
    """One printed speed-up over fp16."""

    source: str
    gpu: str
    model: str
    method: str
    what: str
    speedup: float


Latencies = Mapping[tuple[str, str, int, str], float]


def mixtures() -> dict[str, Mixture]:
    """The mixture of each model, its mean bits averaged over tasks (Table 1)."""
    grouped: dict[str, list[dict[str, str]]] = {}
    for row in _rows("mean_decode_bits"):
        grouped.setdefault(row["model"], []).append(row)
    return {
        model: Mixture(
            model,
            int(rows[0]["high_bits"]),
            int(rows[0]["low_bits"]),
            rows[0]["scheduler"],
            sum(float(row["mean_decode_bits"]) for row in rows) / len(rows),
            len(rows),
        )
        for model, rows in grouped.items()
    }


def latencies_us() -> Latencies:
    """Microseconds by (GPU, model, weight bits, layer): Tables 7 and 8."""
    return {
        (row["gpu"], row["model"], int(row["weight_bits"]), row["layer"]): float(row["latency_us"])
        for row in _rows("kernel_latency")
    }


def published() -> list[Published]:
    """Every entry of Tables 3 and 6."""
    return [
        Published(row["source"], row["gpu"], row["model"], row["method"], row["what"], float(row["speedup_over_fp16"]))
        for row in _rows("speedups")
    ]


def _rows(name: str) -> Iterator[dict[str, str]]:
    yield from csv.DictReader((DATA / f"{name}.csv").read_text(encoding="utf-8").splitlines())
