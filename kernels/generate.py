"""The decode loop: planned widths in, tokens and the time of every step out, without a host sync per token.

Steps are queued ahead of the device. Whether the response has ended is looked at once a chunk of steps, by a copy
that runs beside them and is read when the next chunk is queued, so that the device never waits for the host; up to two
chunks of steps run past an EOS and are cut off. Times are those between CUDA events recorded after each step, of the
host's clock on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernels.errors import KernelError

if TYPE_CHECKING:
    import torch

    from kernels.decoder import KernelDecoder

CHUNK = 8


@dataclass(frozen=True)
class Generated:
    """A response and what it took.

    Attributes:
        tokens: The G generated tokens, an EOS included.
        prefill_ns: Measured time to token 0.
        step_ns: Measured time of each of the G - 1 decode steps.
    """

    tokens: tuple[int, ...]
    prefill_ns: int
    step_ns: tuple[int, ...]


def generate(
    decoder: KernelDecoder,
    prompt: Sequence[int],
    prefill_bits: int,
    step_bits: Sequence[int],
    *,
    eos: Collection[int] = (),
    chunk: int = CHUNK,
) -> Generated:
    """Answer one prompt.

    Args:
        decoder: For one sequence.
        prompt: Token ids.
        prefill_bits: Width of the prefill, which makes token 0.
        step_bits: Width of each decode step; their number plus one bounds the response.
        eos: Tokens that end it.
        chunk: Steps between two looks at the tokens.

    Raises:
        KernelError: If prompt and response do not fit the cache, a width is not stored, ``chunk`` is below 1, or the
            decoder takes more than one sequence.
    """
    decoder.check_fits(len(prompt), len(step_bits))
    decoder.prepare(sorted(set(step_bits)))
    begin = time.perf_counter_ns()
    decoder.prefill(prompt, prefill_bits)
    first = first_token(decoder)
    prefill_ns = time.perf_counter_ns() - begin
    tokens, step_ns = run_steps(decoder, () if first in eos else step_bits, eos=eos, chunk=chunk)
    return Generated((first, *tokens), prefill_ns, step_ns)


def first_token(decoder: KernelDecoder) -> int:
    """Token 0 of the sequence just prefilled; waits for the device."""
    return int(decoder.token[0])


def run_steps(
    decoder: KernelDecoder, step_bits: Sequence[int], *, eos: Collection[int] = (), chunk: int = CHUNK
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Run decode steps until one makes an EOS; see :func:`generate`.

    Args:
        decoder: Its prompt prefilled.
        step_bits: Width of each step.
        eos: Tokens that end the response.
        chunk: Steps between two looks at the tokens.

    Returns:
        The steps' tokens, an EOS included, and their times in ns.

    Raises:
        KernelError: If a width is not stored, ``chunk`` is below 1, the steps do not fit the cache, or the decoder
            takes more than one sequence.
    """
    if chunk < 1:
        raise KernelError(f"chunk = {chunk}: must be >= 1")
    decoder.check_fits(decoder.filled, len(step_bits))
    if step_bits:
        decoder.prepare(sorted(set(step_bits)))
    watch = (_GpuWatch if decoder.tokens.is_cuda else _CpuWatch)(decoder, len(step_bits))
    starts = range(0, len(step_bits), chunk)
    tokens: list[int] = []
    for number in range(len(starts) + watch.behind):
        if number < len(starts):
            part = step_bits[starts[number] : starts[number] + chunk]
            for bits in part:
                decoder.run(bits)
                watch.stepped()
            watch.copy(starts[number], len(part))
        if number >= watch.behind:
            tokens += watch.read(number - watch.behind)
            end = next((at for at, token in enumerate(tokens) if token in eos), None)
            if end is not None:
                tokens = tokens[: end + 1]
                break
    return tuple(tokens), watch.times_ns(len(tokens))


class _CpuWatch:
    """Tokens and times where a step has run when its call returns.

    Attributes:
        behind: How many chunks are queued before one is read.
    """

    behind = 0

    def __init__(self, decoder: KernelDecoder, steps: int) -> None:
        self._tokens, self._first = decoder.tokens[0], decoder.filled + 1
        self._read: list[list[int]] = []
        self._clock = [time.perf_counter_ns()]

    def stepped(self) -> None:
        self._clock.append(time.perf_counter_ns())

    def copy(self, start: int, count: int) -> None:
        begin = self._first + start
        self._read.append(self._tokens[begin : begin + count].tolist())

    def read(self, number: int) -> list[int]:
        return self._read[number]

    def times_ns(self, steps: int) -> tuple[int, ...]:
        return tuple(self._clock[i + 1] - self._clock[i] for i in range(steps))


class _GpuWatch:
    """Tokens and times of steps that are queued: events, and copies on a stream of their own; as :class:`_CpuWatch`."""

    behind = 1

    def __init__(self, decoder: KernelDecoder, steps: int) -> None:
        import torch

        device = decoder.tokens.device
        self._tokens, self._first = decoder.tokens[0], decoder.filled + 1
        self._queue = torch.cuda.current_stream(device)
        self._host = torch.empty(max(steps, 1), dtype=torch.int64, pin_memory=True)
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._copies: list[tuple[int, int, torch.cuda.Event]] = []
        self._events: list[torch.cuda.Event] = []
        self.stepped()

    def stepped(self) -> None:
        import torch

        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(self._queue)
        self._events.append(event)

    def copy(self, start: int, count: int) -> None:
        """Queue a copy of the tokens of ``count`` steps behind them; later steps do not wait for it."""
        import torch

        begin = self._first + start
        self._stream.wait_event(self._events[-1])
        with torch.cuda.stream(self._stream):
            self._host[start : start + count].copy_(self._tokens[begin : begin + count], non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        self._copies.append((start, count, done))

    def read(self, number: int) -> list[int]:
        start, count, done = self._copies[number]
        done.synchronize()
        found: list[int] = self._host[start : start + count].tolist()
        return found

    def times_ns(self, steps: int) -> tuple[int, ...]:
        self._events[-1].synchronize()
        pairs = zip(self._events[:steps], self._events[1 : steps + 1], strict=True)
        return tuple(round(1e6 * before.elapsed_time(after)) for before, after in pairs)
