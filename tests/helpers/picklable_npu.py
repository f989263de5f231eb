"""Closed-form evaluators that can be sent to worker processes, and that misbehave there when told to."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwsim.trace import InputError

STEPS = 60
WEIGHTS = 1e9


def closed_form(design: Any) -> dict[str, float]:
    """Weight traffic over bandwidth, or MACs: whichever is slower."""
    bandwidth = design.npu.get("memory.bandwidth_bytes_per_s", 32e9)
    macs = design.npu.get("matrix.macs", 4096)
    if macs > 100_000:
        raise InputError(f"matrix.macs = {macs}: too many")
    bits = design.schedule.mean_bits(STEPS)
    step_s = max(WEIGHTS * bits / 8 / bandwidth, WEIGHTS / (macs * 1e9))
    return {
        "decode_tokens_per_s": 1 / step_s,
        "ttft_s": 50 * WEIGHTS / (macs * 1e9),
        "area_mm2": macs / 1e3,
        "energy_j_per_token": WEIGHTS * bits * 1e-12,
        "bandwidth_bytes_per_s": bandwidth,
        "mean_decode_bits": bits,
    }


@dataclass(frozen=True)
class SlowNpu:
    """Takes ``seconds`` a design, and notes which process evaluated which design in ``folder``.

    No process goes on before ``processes`` of them have a design, so that none can do all the work while
    the others start; it gives up after a minute.
    """

    folder: Path
    seconds: float = 0.0
    processes: int = 1

    def __call__(self, design: Any) -> dict[str, float]:
        with (self.folder / f"calls-{os.getpid()}").open("a", encoding="ascii") as file:
            file.write(design.key + "\n")
        deadline_s = time.monotonic() + 60
        while len(list(self.folder.glob("calls-*"))) < self.processes and time.monotonic() < deadline_s:
            time.sleep(0.01)
        time.sleep(self.seconds)
        return closed_form(design)


@dataclass(frozen=True)
class KillingNpu:
    """Ends its own process with SIGKILL, the first ``times`` times that it gets a design with ``macs``."""

    folder: Path
    macs: int
    times: int

    def __call__(self, design: Any) -> dict[str, float]:
        if design.npu["matrix.macs"] == self.macs:
            killed = self.folder / f"killed-{design.key}"
            count = len(killed.read_text()) if killed.exists() else 0
            if count < self.times:
                killed.write_text("x" * (count + 1))
                os.kill(os.getpid(), signal.SIGKILL)
        return closed_form(design)


@dataclass(frozen=True)
class FailingNpu:
    """Raises what no evaluator should."""

    def __call__(self, design: Any) -> dict[str, float]:
        raise ZeroDivisionError("a bug in the evaluator")
