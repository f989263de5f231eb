"""Rotation, percentiles and graphs of calls, by a made-up clock; and what no stand-in may do."""

from __future__ import annotations

import subprocess

import pytest
import torch

from kernels import KernelError
from kernels.bench.device import UNKNOWN, commit, describe_device
from kernels.bench.timing import (
    L2_FACTOR,
    MIN_CALLS,
    MIN_ROTATIONS,
    ROTATION_BYTES,
    Percentiles,
    Rotation,
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
