"""The least off-chip bandwidth at which an NPU decodes at a given speed, and what is in the way where none does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, log10, sqrt
from typing import Any, Literal

from hwsim import NpuConfig, SimulationOptions, evaluate_grid, simulate
from hwsim.trace import InputError, ModelShape, Schedule, synthetic_trace

ScalingName = Literal["channels", "rate"]
SCALINGS: tuple[ScalingName, ...] = ("channels", "rate")

TOLERANCE = 1e-3  # the search ends when its bracket is this narrow
MISS = 0.99  # this share of an answer misses the target
BRACKET = 1.25  # first steps up or down from the guess
MIN_BANDWIDTH = 1e6  # bytes/s, the contract's least
MAX_BANDWIDTH = 8e12  # bytes/s: HBM3E of today's largest accelerators
MAX_CHANNELS = 1024  # the contract's most
FASTER = 64  # what "no longer in the way" means when the limiting unit is looked for
WORTH = 1.01  # least gain that makes a unit the limiting one


@dataclass(frozen=True, slots=True)
class Workload:
    """What is decoded."""

    shape: ModelShape
    schedule: Schedule
    prompt_tokens: int
    decode_tokens: int
    kv_bits: int = 16
    lm_head_bits: int = 16


@dataclass(frozen=True, slots=True)
class Answer:
    """What the search found.

    Attributes:
        bandwidth_bytes_per_s: Least peak bandwidth, rounded up to four digits; None if out of reach.
        channels: Memory channels it is spread over; None if out of reach.
        tokens_per_s: Decoding speed there, or at the most bandwidth tried.
        limited_by: What keeps the speed below the target however much bandwidth there is; None if reached.
    """

    bandwidth_bytes_per_s: float | None
    channels: int | None
    tokens_per_s: float
    limited_by: str | None


def with_bandwidth(npu: NpuConfig, bandwidth_bytes_per_s: float, scaling: ScalingName) -> NpuConfig:
    """The same NPU with another peak bandwidth.

    Args:
        npu: Gives the memory's timing, and the rate of one channel.
        bandwidth_bytes_per_s: Over all channels.
        scaling: ``channels``: as many channels of the NPU's own speed grade as it takes, clocked down to meet the
            bandwidth. ``rate``: the NPU's own channels with faster pins; core timing stays, as it does in DRAM, so
            that activates and row conflicts take a growing share.
    """
    memory = npu.memory
    channels = memory.channels
    if scaling == "channels":
        channels = ceil(bandwidth_bytes_per_s * channels / memory.bandwidth_bytes_per_s)
    changes = {"bandwidth_bytes_per_s": bandwidth_bytes_per_s, "channels": channels}
    return npu.model_copy(update={"memory": memory.model_copy(update=changes)})


def most_bandwidth(npu: NpuConfig, scaling: ScalingName) -> float:
    """Where the search gives up."""
    memory = npu.memory
    if scaling == "rate":
        return MAX_BANDWIDTH
    return min(MAX_BANDWIDTH, MAX_CHANNELS * memory.bandwidth_bytes_per_s / memory.channels)


def decode_rate(npu: NpuConfig, workload: Workload) -> float:
    """Decoding speed in tokens/s by the fast engine."""
    grid = evaluate_grid(
        [npu],
        workload.shape,
        [workload.schedule],
        prompt_tokens=workload.prompt_tokens,
        decode_tokens=workload.decode_tokens,
        kv_bits=workload.kv_bits,
        lm_head_bits=workload.lm_head_bits,
    )
    return float(grid.decode_tokens_per_s[0, 0])


def decode_rate_by_events(npu: NpuConfig, workload: Workload) -> float:
    """Decoding speed in tokens/s by the event engine."""
    trace = synthetic_trace(
        workload.shape,
        workload.schedule,
        prompt_tokens=workload.prompt_tokens,
        decode_tokens=workload.decode_tokens,
        kv_bits=workload.kv_bits,
        lm_head_bits=workload.lm_head_bits,
    )
    rate = simulate(npu, workload.shape, trace, SimulationOptions(engine="events")).decode_tokens_per_s
    assert rate is not None
    return rate


def _round_up(value: float, digits: int = 4) -> float:
    unit = 10.0 ** (floor(log10(value)) - digits + 1)
    return ceil(value / unit) * unit


def least_bandwidth(
    npu: NpuConfig, workload: Workload, tokens_per_s: float, scaling: ScalingName = "channels"
) -> Answer:
    """Search the least peak bandwidth at which ``npu`` decodes ``tokens_per_s`` tokens a second on average.

    More bandwidth never decodes slower, so the answer is bracketed and bisected. With ``channels`` that holds but
    for the last rows of tiles, which fill more or less of a stripe as channels are added; so the answer is also made
    sure to miss the target 1% below.

    Raises:
        InputError: If ``tokens_per_s`` is not positive, the workload cannot run at all, or the least bandwidth an
            NPU may have is already enough.
    """
    if not tokens_per_s > 0:
        raise InputError(f"target = {tokens_per_s} tokens/s: must be > 0")

    def enough(bandwidth: float) -> bool:
        return decode_rate(with_bandwidth(npu, bandwidth, scaling), workload) >= tokens_per_s

    most = most_bandwidth(npu, scaling)
    best = decode_rate(with_bandwidth(npu, most, scaling), workload)
    if best < tokens_per_s:
        return Answer(None, None, best, limiting_unit(with_bandwidth(npu, most, scaling), workload))
    # Decoding is nearly bound by its bytes, so speed is nearly proportional to bandwidth.
    guess = npu.memory.bandwidth_bytes_per_s * tokens_per_s / decode_rate(npu, workload)
    low = high = min(max(guess, MIN_BANDWIDTH), most)
    while not enough(high):
        low, high = high, min(high * BRACKET, most)
    while low == high or enough(low):
        if low <= MIN_BANDWIDTH:
            raise InputError(
                f"target = {tokens_per_s:g} tokens/s: {MIN_BANDWIDTH / 1e6:g} MB/s are enough; ask for more"
            )
        high, low = low, max(low / BRACKET, MIN_BANDWIDTH)
    while high / low > 1 + TOLERANCE:
        middle = sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    answer = _round_up(high)
    while enough(MISS * answer):
        answer = _round_up(MISS * answer)
    chosen = with_bandwidth(npu, answer, scaling)
    return Answer(answer, chosen.memory.channels, decode_rate(chosen, workload), None)


def limiting_unit(npu: NpuConfig, workload: Workload) -> str:
    """Name what would raise the speed most if it were ``FASTER`` times as fast; the memory if nothing else would."""
    matrix, sfu = npu.matrix, npu.sfu
    lookups = {bits: rate * FASTER for bits, rate in matrix.lookups_per_cycle.items()}
    arrays = {name: (rows * FASTER, k, m) for name, (rows, k, m) in (("mm", matrix.mm), ("mv", matrix.mv))}
    relieved: dict[str, dict[str, Any]] = {
        "codebook lookups": {"matrix": matrix.model_copy(update={"lookups_per_cycle": lookups})},
        "MACs": {"matrix": matrix.model_copy(update=arrays)},
        "SFU lanes": {"sfu": sfu.model_copy(update={"lanes": sfu.lanes * FASTER})},
    }
    rates = {name: decode_rate(npu.model_copy(update=change), workload) for name, change in relieved.items()}
    name = max(rates, key=lambda unit: rates[unit])
    return name if rates[name] >= WORTH * decode_rate(npu, workload) else "memory"


def bit_values(widths: Sequence[int], bandwidths: Sequence[float | None]) -> list[tuple[int, int, float]]:
    """What a bit costs in bandwidth between neighbouring widths: ``(from bits, to bits, bytes/s per bit)``.

    >>> bit_values([2, 4, 16], [20e9, 36e9, None])
    [(2, 4, 8000000000.0)]
    """
    reached = [(bits, value) for bits, value in zip(widths, bandwidths, strict=True) if value is not None]
    return [(low, high, (more - less) / (high - low)) for (low, less), (high, more) in pairwise(reached)]
