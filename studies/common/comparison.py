"""Two simulations side by side: every quantity with its unit, and which operations a difference comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hwsim.trace import InputError
from studies.common.simulation_folder import Saved

REMAINDER = "(between operations)"


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity; ``b_over_a`` is null where a is 0 or one of them has no value."""

    group: str
    quantity: str
    unit: str
    a: float | None
    b: float | None

    @property
    def b_over_a(self) -> float | None:
        """The ratio."""
        return self.b / self.a if self.a and self.b is not None else None

    def to_json_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "b_over_a": self.b_over_a}


@dataclass(frozen=True, slots=True)
class OperationTime:
    """Decode time of one operation per token, in seconds."""

    operation: str
    a_s: float
    b_s: float

    @property
    def difference_s(self) -> float:
        """How much later B is."""
        return self.b_s - self.a_s


@dataclass(frozen=True, slots=True)
class DecodeTime:
    """Where decode time goes.

    Attributes:
        basis: ``matrix``: what passes on the matrix unit from one operation's last product to the next one's, busy or
            waiting. ``bus``: busy cycles of the main memory, where an engine knows no waits.
        rows: By operation, the largest difference first, and last what no operation accounts for; they sum to the
            time per token.
    """

    basis: str
    rows: tuple[OperationTime, ...]


# Group, unit and keys of what stands at the top of a result.
_TOTALS = (
    (
        "speed",
        (
            ("prefill_s", "s"),
            ("ttft_s", "s"),
            ("tpot_s", "s"),
            ("decode_tokens_per_s", "tokens/s"),
            ("e2e_s", "s"),
            ("cycles", "cycles"),
        ),
    ),
    (
        "work",
        (
            ("sequences", "sequences"),
            ("decode_steps", "tokens"),
            ("mean_decode_bits", "bits"),
            ("macs", "MACs"),
            ("switch_cycles", "cycles"),
        ),
    ),
)
_GROUPS = (
    ("off-chip bytes", "B", "dram_bytes", "bytes_by_kind"),
    ("energy", "J", "energy_j", "energy_by_component_j"),
    ("area", "mm2", "area_mm2", "area_by_component_mm2"),
)
_PHASE = (("macs_per_byte", "MACs/B"), ("share_of_roof", "share"), ("share_of_bound", "share"))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _pairs(group: str, unit: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Row]:
    for name in dict.fromkeys([*a, *b]):
        row = Row(group, name, unit, _number(a.get(name, 0)), _number(b.get(name, 0)))
        if row.a or row.b:
            yield row


def compare_numbers(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Row]:
    """Line up what both results have: speed, work, bytes, energy and area with their parts, roofline, stalls."""
    rows = [
        Row(group, key, unit, _number(a.get(key)), _number(b.get(key)))
        for group, keys in _TOTALS
        for key, unit in keys
        if a.get(key) is not None or b.get(key) is not None
    ]
    for group, unit, total, parts in _GROUPS:
        rows.append(Row(group, total, unit, _number(a.get(total)), _number(b.get(total))))
        rows += _pairs(group, unit, a.get(parts) or {}, b.get(parts) or {})
    phases_a, phases_b = ((one.get("roofline") or {}).get("phases", {}) for one in (a, b))
    for phase in dict.fromkeys([*phases_a, *phases_b]):
        of_a, of_b = phases_a.get(phase, {}), phases_b.get(phase, {})
        rows += [Row(f"{phase} roofline", key, unit, of_a.get(key), of_b.get(key)) for key, unit in _PHASE]
    stalls_a, stalls_b = a.get("stall_cycles") or {}, b.get("stall_cycles") or {}
    for unit in [unit for unit in stalls_a if unit in stalls_b]:
        rows += _pairs(f"{unit} waits", "cycles", stalls_a[unit], stalls_b[unit])
    return rows


def check_comparable(a: Saved, b: Saved) -> None:
    """Refuse results of different modes.

    Raises:
        InputError: With both modes.
    """
    mode_a, mode_b = a.numbers["mode"], b.numbers["mode"]
    if mode_a != mode_b:
        raise InputError(f"{b.source}: mode = {mode_b!r}: must be {mode_a!r} as in {a.source}; modes do not compare")


def compare_decode_time(a: Saved, b: Saved) -> DecodeTime | None:
    """Split both decode times per token by operation; None where a result has no operations or no decode step."""
    known = all((one.numbers.get("stall_cycles") or {}).get("matrix") is not None for one in (a, b))
    basis = "matrix" if known else "bus"
    split_a, split_b = (_seconds_per_token(one, basis) for one in (a, b))
    if split_a is None or split_b is None:
        return None
    (times_a, left_a), (times_b, left_b) = split_a, split_b
    rows = [OperationTime(name, times_a.get(name, 0.0), times_b.get(name, 0.0)) for name in {**times_a, **times_b}]
    rows = sorted((row for row in rows if row.a_s or row.b_s), key=lambda row: -abs(row.difference_s))
    return DecodeTime(basis, (*rows, OperationTime(REMAINDER, left_a, left_b)))


def _seconds_per_token(saved: Saved, basis: str) -> tuple[dict[str, float], float] | None:
    """Seconds by operation, and what is left of the time per token."""
    clock_hz = (saved.numbers.get("roofline") or {}).get("clock_hz")
    rate = saved.numbers.get("decode_tokens_per_s")
    if saved.operations is None or clock_hz is None or not rate:
        return None
    decode = saved.operations[saved.operations["phase"] == "decode"]
    cycles = decode["dram_busy_cycles"]
    if basis == "matrix":
        cycles = decode["matrix_busy_cycles"] + decode["matrix_stall_cycles"]
    seconds = cycles.groupby(decode["operation"], sort=False).sum() / clock_hz / saved.numbers["decode_steps"]
    times = {str(name): float(value) for name, value in seconds.items()}
    return times, 1 / rate - sum(times.values())
