"""Measured and simulated times of the same decode steps, and how much of a step follows the bits.

At a switch from h to l bits let t_h and t_l be the medians of a few steps on either side of it, whose contexts hardly
differ. The *bit elasticity* of a device there is

    e = ln(t_h / t_l) / ln(h / l):

1 where the time of a step is proportional to the bits of a weight, 0 where it does not depend on them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from hwsim import NpuConfig, SimulationOptions, simulate
from hwsim.trace import InputError, ModelShape, Trace, read_trace

# Steps on either side of a switch: enough for a median that one interruption does not move, few enough that the
# context grows by less than a hundredth of a long one.
WINDOW = 8
NS_PER_S = 1e9
US_PER_S = 1e6


@dataclass(frozen=True)
class Replay:
    """One trace beside its simulation.

    Attributes:
        name: What the results call the trace.
        device: What its step times were measured on.
        model: The trace's model.
        simulated_model: The shape that was simulated; another one where that was asked for.
        npu: Name of the NPU.
        steps: One row per decode step: ``sequence`` (id), ``step``, ``weight_bits``, ``context`` (cached tokens),
            ``measured_us``, ``simulated_us``.
        provenance: Of the trace.
    """

    name: str
    device: str
    model: str
    simulated_model: str
    npu: str
    steps: pd.DataFrame
    provenance: dict[str, str]

    @property
    def quantities(self) -> dict[str, str]:
        """Column of each kind of time, and what took it."""
        return {"measured_us": self.device, "simulated_us": f"{self.npu} (simulated)"}


def read_measured(path: Path | str) -> Trace:
    """A trace whose every sequence has measured step times.

    Raises:
        InputError: If it is no trace, or a sequence was not timed.
    """
    trace = read_trace(path)
    untimed = [one.id for one in trace.sequences if one.step_ns is None]
    if untimed:
        raise InputError(
            f"{path}: sequence {untimed[0]!r} has no step_ns ({len(untimed)} of {len(trace.sequences)}): "
            "only prompts decoded one at a time are timed; record with bittaper trace --batch-size 1"
        )
    if not trace.decode_steps():
        raise InputError(f"{path}: no decode step; a replay needs at least 1")
    return trace


def replay(
    name: str, trace: Trace, npu: NpuConfig, shape: ModelShape | None = None, options: SimulationOptions | None = None
) -> Replay:
    """Simulate a measured trace.

    Args:
        name: What the results call it.
        trace: From :func:`read_measured`.
        npu: The hardware.
        shape: Simulated in place of the trace's own model, and labelled so.
        options: As :func:`hwsim.simulate` takes them.

    Raises:
        InputError: As :func:`hwsim.simulate`.
    """
    options = options or SimulationOptions(engine="fast", allow_model_mismatch=shape is not None)
    simulated = shape or trace.header.model.shape
    result = simulate(npu, simulated, trace, options)
    steps = result.steps[result.steps["step"] >= 0]
    rows: list[dict[str, Any]] = []
    for number, sequence in enumerate(trace.sequences):
        own = steps[steps["sequence"] == number]
        assert sequence.step_ns is not None
        for (_, step), measured_ns in zip(own.iterrows(), sequence.step_ns, strict=True):
            rows.append(
                {
                    "sequence": sequence.id,
                    "step": int(step["step"]),
                    "weight_bits": int(step["weight_bits"]),
                    "context": int(step["context"]),
                    "measured_us": measured_ns / NS_PER_S * US_PER_S,
                    "simulated_us": step["cycles"] / npu.clock_hz * US_PER_S,
                }
            )
    header = trace.header
    return Replay(
        name, header.device, header.model.name, simulated.name, npu.name, pd.DataFrame(rows), header.provenance
    )


def widths_table(replays: list[Replay]) -> pd.DataFrame:
    """Median and 20/80 percentiles of a step by trace, clock and width, over all its steps."""
    rows = []
    for one in replays:
        for column, clock in one.quantities.items():
            for bits, group in sorted(one.steps.groupby("weight_bits"), reverse=True):
                low, median, high = (float(group[column].quantile(share)) for share in (0.2, 0.5, 0.8))
                rows.append(
                    {
                        "trace": one.name,
                        "clock": clock,
                        "weight_bits": bits,
                        "n_steps": len(group),
                        "n_sequences": group["sequence"].nunique(),
                        "p20_us": low,
                        "median_us": median,
                        "p80_us": high,
                        "steps_per_s": US_PER_S / float(group[column].mean()),
                    }
                )
    return pd.DataFrame(rows)


def switches_table(replays: list[Replay]) -> pd.DataFrame:
    """Every switch of width with at least one step on either side: step times around it and the elasticity."""
    columns = ["trace", "clock", "sequence", "step", "from_bits", "to_bits", "n_before", "n_after"]
    columns += ["before_us", "after_us", "ratio", "elasticity"]
    rows = []
    for one in replays:
        for sequence, steps in one.steps.groupby("sequence", sort=False):
            bits = steps["weight_bits"].to_numpy()
            places = [0, *(place for place in range(1, len(bits)) if bits[place] != bits[place - 1]), len(bits)]
            for (start, place), (_, stop) in pairwise(pairwise(places)):
                before, after = steps[max(start, place - WINDOW) : place], steps[place : min(stop, place + WINDOW)]
                for column, clock in one.quantities.items():
                    earlier, later = float(before[column].median()), float(after[column].median())
                    ratio = earlier / later
                    from_bits, to_bits = int(bits[place - 1]), int(bits[place])
                    values = (
                        *(one.name, clock, sequence, int(steps["step"].iloc[place]), from_bits, to_bits),
                        *(len(before), len(after), earlier, later, ratio),
                        math.log(ratio) / math.log(from_bits / to_bits),
                    )
                    rows.append(dict(zip(columns, values, strict=True)))
    return pd.DataFrame(rows, columns=columns)


def elasticity_table(switches: pd.DataFrame) -> pd.DataFrame:
    """Median and 20/80 percentiles of ratio and elasticity by trace, clock and pair of widths."""
    rows = []
    for key, group in switches.groupby(["trace", "clock", "from_bits", "to_bits"], sort=False):
        row: dict[str, Any] = dict(zip(("trace", "clock", "from_bits", "to_bits"), key, strict=True))
        row["n_switches"] = len(group)
        for column in ("ratio", "elasticity"):
            row |= {
                f"{column}_{label}": float(group[column].quantile(share))
                for label, share in (("p20", 0.2), ("median", 0.5), ("p80", 0.8))
            }
        rows.append(row)
    return pd.DataFrame(rows)
