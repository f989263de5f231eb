from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from kernels import KernelError
from kernels import workspace as workspaces
from kernels.workspace import workspace

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_workspaces_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspaces, "_workspaces", {})


def test_same_buffers_serve_calls_that_fit() -> None:
    partials, counters = workspace(DEVICE, 100, 3)
    again = workspace(DEVICE, 90, 5)
    assert partials.dtype == torch.float32
    assert counters.dtype == torch.int32
    assert [part.data_ptr() for part in again] == [partials.data_ptr(), counters.data_ptr()]
    assert partials.device == counters.device == DEVICE


@pytest.mark.parametrize("needed", [(1 << 20, 1 << 14), ((1 << 20) + 1, 1), (1, (1 << 14) + 1), (3_000_000, 70_000)])
def test_buffers_are_as_long_as_asked_and_counters_are_zero(needed: tuple[int, int]) -> None:
    workspace(DEVICE, 1, 1)
    partials, counters = workspace(DEVICE, *needed)
    assert len(partials) >= needed[0]
    assert len(counters) >= needed[1]
    assert not counters.any()


def test_what_was_outgrown_stays_for_graphs_that_know_its_address() -> None:
    first, counters = workspace(DEVICE, 1, 1)
    second, same_counters = workspace(DEVICE, len(first) + 1, 1)
    third, _ = workspace(DEVICE, len(second) + 1, 1)
    (held,) = workspaces._workspaces.values()
    kept = [part.data_ptr() for part in held.retired if len(part)]
    assert kept == [first.data_ptr(), second.data_ptr()]
    assert third.data_ptr() not in kept
    # Counters may only be left behind when they are too few: a kernel that runs owes them their zeros.
    assert same_counters.data_ptr() == counters.data_ptr()


def test_growing_doubles_so_that_little_is_left_behind() -> None:
    sizes = [len(workspace(DEVICE, needed, 1)[0]) for needed in (1 << 20, (1 << 20) + 1, (1 << 21) + 5, 1 << 22)]
    assert sizes == [1 << 20, 1 << 21, 1 << 22, 1 << 22]


def test_capture_that_would_grow_is_refused_and_one_that_fits_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=0x5))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(KernelError, match=r"captured on stream 0x5.*grow to 10 partial sums and 2 counters; run the"):
        workspace(device, 10, 2)
    ready = workspaces.Workspace(torch.empty(10), torch.zeros(2, dtype=torch.int32))
    workspaces._workspaces[device, 5] = ready
    assert workspace(device, 10, 2) == (ready.partials, ready.counters)
    with pytest.raises(KernelError, match="grow to 11 partial sums"):
        workspace(device, 11, 2)
    with pytest.raises(KernelError, match="and 3 counters"):
        workspace(device, 10, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs streams")
def test_each_stream_has_its_own() -> None:
    first = workspace(DEVICE, 1, 1)
    with torch.cuda.stream(torch.cuda.Stream(DEVICE)):
        second = workspace(DEVICE, 1, 1)
    assert first[0].data_ptr() != second[0].data_ptr()
    assert first[1].data_ptr() != second[1].data_ptr()
