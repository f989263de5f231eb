"""Rotation, percentiles and graphs of calls, by a made-up clock; and what no stand-in may do."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch

from kernels import KernelError
from kernels.bench.device import UNKNOWN, commit, describe_device
from kernels.bench.timing import (
    L2_FACTOR,
    MIN_CALLS,
    MIN_ROTATIONS,
    ROTATION_BYTES,
    GraphTimer,
    Percentiles,
    Rotation,
    graph_timer,
    percentiles,
    plan_rotation,
    rotated_copies,
    time_graph,
)
from stand_in_clock import StandInTimer

H100_L2 = 50 * 2**20
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def test_percentiles_interpolate_and_do_not_depend_on_the_order() -> None:
    assert percentiles([3.0, 1.0, 2.0]) == Percentiles(1.4, 2.0, 2.6, 3)
    assert percentiles([7.0]) == Percentiles(7.0, 7.0, 7.0, 1)


@pytest.mark.parametrize("bytes_each", [1, 5_000, 1 << 20, 60_000_000, 10**9])
def test_a_rotation_holds_200_megabytes_and_four_times_the_cache(bytes_each: int) -> None:
    rotation = plan_rotation(bytes_each, H100_L2)
    assert rotation.copies >= 2
    assert rotation.bytes >= max(ROTATION_BYTES, L2_FACTOR * H100_L2)
    # One copy fewer would not.
    assert rotation.copies == 2 or rotation.bytes - bytes_each < max(ROTATION_BYTES, L2_FACTOR * H100_L2)
    assert rotation.l2_state == "cold"


def test_little_memory_makes_a_rotation_partly_warm_and_it_says_so() -> None:
    assert plan_rotation(10_000_000, H100_L2, limit_bytes=150_000_000) == Rotation(15, 10_000_000, H100_L2)
    assert plan_rotation(10_000_000, H100_L2, limit_bytes=150_000_000).l2_state == "partly warm"
    assert Rotation(1, 10**9, H100_L2).l2_state == "warm"
    with pytest.raises(KernelError, match="two copies of 10000000 bytes"):
        plan_rotation(10_000_000, H100_L2, limit_bytes=19_999_999)
    with pytest.raises(KernelError, match="bytes_each = 0"):
        plan_rotation(0, H100_L2)


def test_copies_are_equal_and_lie_apart() -> None:
    item = {"planes": torch.arange(6), "tables": (torch.ones(2), torch.zeros(3))}
    copies = rotated_copies(item, 3)
    assert copies[0] is item
    assert all(torch.equal(one["tables"][0], item["tables"][0]) for one in copies)
    assert (
        len({one["planes"].data_ptr() for one in copies}) == len({one["tables"][1].data_ptr() for one in copies}) == 3
    )


@pytest.mark.parametrize(("distinct", "rotations"), [(1, MIN_CALLS), (5, 5), (7, 4), (100, MIN_ROTATIONS)])
def test_a_graph_holds_whole_rotations_and_a_sample_is_the_mean_of_its_calls(distinct: int, rotations: int) -> None:
    ran: list[int] = []
    timer = StandInTimer(us_per_call=2.5)
    measured = time_graph([lambda i=i: ran.append(i) for i in range(distinct)], replays=9, timer=timer)
    assert measured == Percentiles(2.5, 2.5, 2.5, 9)
    assert timer.graphs == [(distinct * rotations, distinct, 9)]
    assert ran == list(range(distinct))


def test_nothing_to_time_and_no_gpu_are_refused() -> None:
    for calls, replays in (([], 5), ([lambda: None], 0)):
        with pytest.raises(KernelError, match="at least 1 of each"):
            time_graph(calls, replays=replays, timer=StandInTimer())
    with pytest.raises(KernelError, match="timing needs an NVIDIA GPU; nothing was measured"):
        time_graph([lambda: None], device=torch.device("cpu"))


def test_a_folder_without_git_has_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert commit() == UNKNOWN


class FakeCuda:
    """Stands in for ``torch.cuda``: notes what happens in which order; a replay takes 6 ms."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.clock_ms = 0.0
        self.streams: list[str] = ["default"]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cuda = self

        class Stream:
            def __init__(self, device: object) -> None:
                cuda.log.append("new stream")

            def wait_stream(self, other: object) -> None:
                cuda.log.append("wait for the caller")

            def synchronize(self) -> None:
                cuda.log.append("synchronize")

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at_ms = cuda.clock_ms
                cuda.log.append(f"event on {cuda.streams[-1]}")

            def elapsed_time(self, end: Event) -> float:
                return end.at_ms - self.at_ms

        class CUDAGraph:
            def replay(self) -> None:
                cuda.clock_ms += 6.0
                cuda.log.append(f"replay on {cuda.streams[-1]}")

        @contextmanager
        def entered(name: str) -> Iterator[None]:
            cuda.streams.append(name)
            yield
            # As torch does where ending a capture fails: no clean-up after an error.
            cuda.streams.pop()

        monkeypatch.setattr("torch.cuda.Stream", Stream)
        monkeypatch.setattr("torch.cuda.Event", Event)
        monkeypatch.setattr("torch.cuda.CUDAGraph", CUDAGraph)
        monkeypatch.setattr("torch.cuda.device", lambda device: nullcontext())
        monkeypatch.setattr("torch.cuda.current_stream", lambda: self.streams[-1])
        monkeypatch.setattr("torch.cuda.set_stream", lambda stream: setattr(cuda, "streams", [stream]))
        monkeypatch.setattr("torch.cuda.stream", lambda stream: entered("own"))
        monkeypatch.setattr("torch.cuda.graph", lambda graph, stream: entered("capture"))
        monkeypatch.setattr("torch.cuda.synchronize", lambda: self.log.append("synchronize"))
        monkeypatch.setattr("kernels.bench.timing.WARM_UP_S", 0.0)


def test_calls_warm_up_and_are_captured_on_one_stream_and_replays_follow_without_a_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = FakeCuda()
    cuda.install(monkeypatch)
    timer = GraphTimer(torch.device("cuda", 0))
    calls = [lambda i=i: cuda.log.append(f"call {i} on {cuda.streams[-1]}") for i in (0, 1)]
    assert timer.replay_times_us(calls * 2, 2, 3) == [6000.0] * 3
    warm_up = ["new stream", "wait for the caller", "call 0 on own", "call 1 on own", "synchronize"]
    captured = [f"call {i} on capture" for i in (0, 1, 0, 1)]
    timed = ["replay on own", *["event on own", "replay on own", "event on own"] * 3, "synchronize"]
    assert cuda.log == [*warm_up, *captured, *timed]


def test_a_capture_that_breaks_gives_the_stream_back(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    cuda.install(monkeypatch)

    def call() -> None:
        if cuda.streams[-1] == "capture":
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        GraphTimer(torch.device("cuda", 0)).replay_times_us([call], 1, 3)
    assert cuda.streams == ["default"]


def test_steps_are_timed_from_one_to_the_next_with_one_wait_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    cuda.install(monkeypatch)

    def step(ms: float) -> None:
        cuda.clock_ms += ms
        cuda.log.append("step")

    timer = GraphTimer(torch.device("cuda", 0))
    assert timer.step_times_us([lambda: step(5.0), lambda: step(0.5), lambda: step(2.0)]) == [5000.0, 500.0, 2000.0]
    steps = ["step", "event on default"] * 3
    assert cuda.log == ["new stream", "synchronize", "event on default", *steps, "synchronize"]


def test_interpreted_kernels_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(KernelError, match="TRITON_INTERPRET is set"):
        graph_timer()


@on_a_gpu
def test_a_graph_is_timed_and_every_call_of_it_runs() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    x = torch.randn(1 << 20, device=device)
    outputs = [torch.zeros_like(x) for _ in range(3)]
    measured = time_graph([lambda out=out: torch.add(x, 1.0, out=out) for out in outputs], replays=7)
    assert measured.n == 7
    assert 0 < measured.p20_us <= measured.p50_us <= measured.p80_us
    assert all(torch.equal(out, x + 1.0) for out in outputs)


@on_a_gpu
def test_a_larger_copy_takes_longer_and_no_faster_than_twice_a_plausible_memory() -> None:
    from kernels.bench.bandwidth import copy_bandwidth

    device = torch.device("cuda", torch.cuda.current_device())
    found = copy_bandwidth(device, buffer_bytes=1 << 28)
    assert 1e10 < found.copy_bytes_per_s < 2e13
    assert 1e10 < found.read_bytes_per_s < 2e13


@on_a_gpu
def test_a_device_is_described_in_text() -> None:
    facts = describe_device(torch.device("cuda", torch.cuda.current_device()))
    assert facts["device"] == torch.cuda.get_device_name()
    assert all(isinstance(value, str) and value for value in facts.values())


def test_the_reading_kernel_folds_every_block() -> None:
    bandwidth = pytest.importorskip("kernels.bench.bandwidth", reason="triton is not installed")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    source = torch.randint(-(2**31), 2**31, (3 * 4096,), dtype=torch.int32, device=device)
    folds = torch.zeros(3, dtype=torch.int32, device=device)
    bandwidth.read_folded(source, folds)
    expected = source.view(3, 4096)
    while expected.shape[1] > 1:
        expected = expected[:, 0::2] ^ expected[:, 1::2]
    assert torch.equal(folds, expected[:, 0])
