"""Check 5: published decoding speeds of real devices.

A device is a memory of its published peak bandwidth behind compute that never limits it, and at most two fitted
numbers: the share of the peak that it sustains, and an overhead for each operation (one fused layer: two in every
decoder block and the head). Devices of three or more speeds are fitted on all but one and predict that one; devices
of two speeds have the share only. Single speeds are placed against the roofline. Which rows count was decided
before any fit (column ``class`` of the data).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median

from hwsim import SimulationOptions, simulate
from hwsim.trace import ModelShape, Schedule, synthetic_trace
from studies.validation.ideal import bandwidth_bound_npu
from studies.validation.table import DATA, Cell, Fitted, Outcome, Row, at_most, read_data, shown

CHECK = "5 devices"
MEDIAN_BOUND = 0.07
ROWS_FOR_TWO_PARAMETERS = 3
DEFAULT_PROMPT, DEFAULT_DECODE = 128, 64  # tokens, where a source names none
GIGA = 1e9
PROBE_S = 1e-4  # overhead of the run that counts operations


@dataclass(frozen=True)
class Device:
    """What is fitted: the sustained share of the peak bandwidth and the seconds of one operation."""

    share: float
    overhead_s: float = 0.0

    def __str__(self) -> str:
        return f"share of peak = {self.share:.3f}, overhead = {self.overhead_s * 1e6:.1f} us an operation"


ROOFLINE = Device(1.0)


@dataclass(frozen=True)
class Speed:
    """One published speed, with how its bytes are counted."""

    id: str
    device: str
    kind: str
    shape: ModelShape
    weight_bits: float
    lm_head_bits: int
    peak_bytes_per_s: float
    bandwidth_basis: str
    published_bytes: float
    prompt_tokens: int
    decode_tokens: int
    measured: float

    def token_s(self, device: Device) -> float:
        """Simulated seconds of a token; widths between two are steps at both, in proportion."""
        low = int(self.weight_bits)
        share = self.weight_bits - low
        seconds = _token_s(self, low, device)
        return seconds if share == 0 else (1 - share) * seconds + share * _token_s(self, low + 1, device)

    @property
    def weight_bytes(self) -> float:
        """Bytes of the layers and the head read for each token."""
        head = self.shape.vocab_size * self.shape.hidden_size * self.lm_head_bits
        return (self.shape.linear_weights() * self.weight_bits + head) / 8


@lru_cache(maxsize=4096)
def _token_s(speed: Speed, weight_bits: int, device: Device) -> float:
    # No device here has codebooks: all of them stay on chip. Scales are part of the width.
    bandwidth = speed.peak_bytes_per_s * device.share
    base = {"buffers.resident_codebook_kib": 1 << 20, "control.sync_cycles": 0}
    clock_hz = bandwidth_bound_npu(bandwidth, base).clock_hz
    npu = bandwidth_bound_npu(bandwidth, {**base, "control.sync_cycles": round(device.overhead_s * clock_hz)})
    trace = synthetic_trace(
        speed.shape,
        Schedule.uniform(weight_bits),
        prompt_tokens=speed.prompt_tokens,
        decode_tokens=speed.decode_tokens,
        lm_head_bits=speed.lm_head_bits,
    )
    seconds = simulate(npu, speed.shape, trace, SimulationOptions(engine="fast")).tpot_s
    assert seconds is not None
    return seconds


def read_speeds() -> list[Speed]:
    """Every measured speed, of any class."""
    found = json.loads((DATA / "shapes.json").read_text(encoding="utf-8"))["shapes"]
    shapes = {shape["name"]: ModelShape.model_validate(shape) for shape in found}
    counted = {row["id"]: row for row in read_data("device_models")}
    speeds = []
    for row in read_data("published_speeds"):
        if row["class"] == "simulated":
            continue
        model = counted[row["id"]]
        shape = shapes[model["shape"]]
        decode = int(row["gen_len"].strip() or DEFAULT_DECODE)
        prompt = int(row["prompt_len"].strip() or DEFAULT_PROMPT) or 1
        speeds.append(
            Speed(
                id=row["id"],
                device=row["device"],
                kind=row["class"],
                shape=shape,
                weight_bits=float(model["weight_bits"]),
                lm_head_bits=int(model["lm_head_bits"]),
                peak_bytes_per_s=float(row["peak_bw_GBps"]) * GIGA,
                bandwidth_basis=row["bw_basis"],
                published_bytes=float(row["bytes_per_token_GB"]) * GIGA,
                prompt_tokens=min(prompt, shape.max_context - decode),
                decode_tokens=decode,
                measured=float(row["measured_tok_s"]),
            )
        )
    return speeds


def fit(speeds: Sequence[Speed], *, overhead: bool) -> Device:
    """Least squares of relative errors, with share <= 1 and overhead >= 0.

    A token takes ``a / share + n * overhead`` seconds, ``a`` at the peak bandwidth and ``n`` operations; both come
    from the simulator.
    """
    a = [speed.token_s(ROOFLINE) * speed.measured for speed in speeds]
    if not overhead:
        return Device(min(1.0, sum(value * value for value in a) / sum(a)))
    probe = Device(1.0, PROBE_S)
    n = [(speed.token_s(probe) - speed.token_s(ROOFLINE)) / PROBE_S * speed.measured for speed in speeds]
    aa, nn, an = (sum(x * y for x, y in zip(left, right, strict=True)) for left, right in ((a, a), (n, n), (a, n)))
    candidates = [(max(1.0, sum(a) / aa), 0.0), (1.0, max(0.0, (sum(n) - an) / nn))]
    determinant = aa * nn - an * an
    inverse, seconds = (sum(a) * nn - sum(n) * an) / determinant, (aa * sum(n) - an * sum(a)) / determinant
    if inverse >= 1 and seconds >= 0:
        candidates.append((inverse, seconds))

    def squares(candidate: tuple[float, float]) -> float:
        return sum((x * candidate[0] + y * candidate[1] - 1) ** 2 for x, y in zip(a, n, strict=True))

    inverse, seconds = min(candidates, key=squares)
    return Device(1 / inverse, seconds)


def fit_overhead(speeds: Sequence[Speed]) -> Device:
    """The other single parameter: the whole peak bandwidth and an overhead."""
    probe = Device(1.0, PROBE_S)
    a = [speed.token_s(ROOFLINE) * speed.measured for speed in speeds]
    n = [(speed.token_s(probe) * speed.measured - x) / PROBE_S for speed, x in zip(speeds, a, strict=True)]
    return Device(1.0, max(0.0, sum(y * (1 - x) for x, y in zip(a, n, strict=True)) / sum(y * y for y in n)))


def _leave_one_out(device: str, speeds: Sequence[Speed], *, overhead: bool) -> tuple[list[Row], list[float]]:
    """Predict every speed of a device from the others'."""
    rows = []
    for speed in speeds:
        others = [other for other in speeds if other is not speed]
        found = fit(others, overhead=overhead)
        case = f"{device}: {speed.id} from the {'others' if len(others) > 1 else 'other'}"
        rows.append(shown(CHECK, case, "tokens/s", 1 / speed.token_s(found), speed.measured, str(found)))
    return rows, [abs(row.error) for row in rows]


def _parameters(device: str, found: Device, speeds: int, *, overhead: bool) -> list[Fitted]:
    fitted_to = f"all {speeds} speeds"
    share = Fitted(CHECK, f"{device}: sustained share", found.share, "of the peak bandwidth", fitted_to)
    if not overhead:
        return [share]
    return [share, Fitted(CHECK, f"{device}: overhead of an operation", found.overhead_s * 1e6, "us", fitted_to)]


def _detail(speed: Speed, predicted: float | None) -> dict[str, Cell]:
    bound = 1 / speed.token_s(ROOFLINE)
    return {
        "id": speed.id,
        "device": speed.device,
        "class": speed.kind,
        "model": speed.shape.name,
        "weight_bits": speed.weight_bits,
        "peak_gb_per_s": speed.peak_bytes_per_s / GIGA,
        "bandwidth_basis": speed.bandwidth_basis,
        "weight_gb_per_token": speed.weight_bytes / GIGA,
        "published_gb_per_token": speed.published_bytes / GIGA,
        "context_tokens": speed.prompt_tokens + speed.decode_tokens // 2,
        "measured_tokens_per_s": speed.measured,
        "roofline_tokens_per_s": bound,
        "share_of_roofline": speed.measured / bound,
        "held_out_tokens_per_s": predicted,
    }


def check() -> Outcome:
    """Leave-one-out errors of devices with several speeds; all others against the roofline."""
    speeds = read_speeds()
    by_device: defaultdict[str, list[Speed]] = defaultdict(list)
    for speed in speeds:
        if speed.kind == "bandwidth":
            by_device[speed.device].append(speed)
    rows: list[Row] = []
    fitted: list[Fitted] = []
    held_out: dict[str, float] = {}
    two_parameters: list[float] = []
    share_only: list[float] = []
    every: list[float] = []
    for device, mine in by_device.items():
        if len(mine) < 2:
            continue
        overhead = len(mine) >= ROWS_FOR_TWO_PARAMETERS
        found, errors = _leave_one_out(device, mine, overhead=overhead)
        rows += found
        every += errors
        held_out |= {speed.id: row.predicted for speed, row in zip(mine, found, strict=True)}
        fitted += _parameters(device, fit(mine, overhead=overhead), len(mine), overhead=overhead)
        if overhead:
            two_parameters += errors
            share_only += _leave_one_out(device, mine, overhead=False)[1]
        else:
            for speed, other in zip(mine, reversed(mine), strict=True):
                alternative = fit_overhead([other])
                case = f"{device}: {speed.id} from the other, an overhead instead of a share"
                rows.append(
                    shown(CHECK, case, "tokens/s", 1 / speed.token_s(alternative), speed.measured, str(alternative))
                )
    case = f"median leave-one-out error, {len(two_parameters)} speeds of devices with three or more"
    rows.append(at_most(CHECK, case, "relative error", median(two_parameters), MEDIAN_BOUND, "two a device"))
    case = f"median leave-one-out error, all {len(every)} speeds of devices with two or more"
    rows.append(at_most(CHECK, case, "relative error", median(every), MEDIAN_BOUND, "one or two a device"))
    case = f"the same for the {len(share_only)} speeds with the share alone"
    rows.append(shown(CHECK, case, "relative error", median(share_only), MEDIAN_BOUND, "one a device"))
    for speed in speeds:
        bound = 1 / speed.token_s(ROOFLINE)
        case = f"{speed.id}: measured against the roofline"
        if speed.kind == "bandwidth":
            rows.append(at_most(CHECK, case, "tokens/s", speed.measured, bound))
        else:
            rows.append(shown(CHECK, f"{case} (control)", "tokens/s", speed.measured, bound))
    return Outcome(rows, [_detail(speed, held_out.get(speed.id)) for speed in speeds], fitted)
