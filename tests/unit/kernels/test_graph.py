"""Choosing among captured steps: eagerly on a CPU, and the order of calls with a stand-in for torch.cuda."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from kernels.errors import KernelError
from kernels.graph import PrecisionGraphs


def test_on_a_cpu_every_run_is_the_step_itself() -> None:
    ran: list[int] = []
    graphs = PrecisionGraphs(ran.append, (4, 2, 3, 2), "cpu")
    graphs.prepare()
    for bits in (4, 4, 2):
        graphs.run(bits)
    assert graphs.widths == (2, 3, 4)
    assert (ran, graphs.captures) == ([4, 4, 2], 0)


@pytest.mark.parametrize("call", ["run", "prepare"])
def test_width_without_a_step_is_refused_by_name(call: str) -> None:
    graphs = PrecisionGraphs(lambda bits: None, (2, 3), "cpu")
    with pytest.raises(KernelError, match=r"weight_bits = 4: no such step; widths: 2, 3"):
        graphs.run(4) if call == "run" else graphs.prepare([4])


def test_no_width_is_refused() -> None:
    with pytest.raises(KernelError, match="widths: none given"):
        PrecisionGraphs(lambda bits: None, (), "cpu")


class FakeCuda:
    """Records what is asked of torch.cuda; a graph replays the steps that ran while it was captured."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.current = "main"
        self.pools = 0
        self.capturing: list[int] | None = None
        cuda = self

        class Graph:
            def __init__(self) -> None:
                self.steps: list[int] = []

            def replay(self) -> None:
                cuda.log.append(f"replay {self.steps} on {cuda.current}")

        self.CUDAGraph = Graph

    @contextmanager
    def device(self, device):
        yield

    @contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream.name
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(self, graph, pool, stream, capture_error_mode):
        self.log.append(f"capture in pool {pool}")
        self.current, self.capturing = stream.name, graph.steps
        try:
            yield
        except Exception:
            # As torch does: the end of a broken capture raises, and its stream stays current.
            self.capturing = None
            raise RuntimeError("capture invalidated") from None
        self.current, self.capturing = "main", None

    def Stream(self):  # noqa: N802
        return SimpleNamespace(name="side", wait_stream=lambda other: None)

    def current_stream(self):
        return SimpleNamespace(name=self.current, wait_stream=lambda other: None)

    def set_stream(self, stream):
        self.current = stream.name

    def synchronize(self, device):
        self.log.append("wait")

    def graph_pool_handle(self):
        self.pools += 1
        return self.pools

    def step(self, bits: int) -> None:
        if self.capturing is None:
            self.log.append(f"step {bits} on {self.current}")
        else:
            self.capturing.append(bits)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    names = ("CUDAGraph", "device", "stream", "graph", "Stream", "current_stream", "set_stream", "graph_pool_handle")
    for name in (*names, "synchronize"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    return fake


def test_each_width_is_warmed_up_and_captured_once_in_one_pool(cuda: FakeCuda) -> None:
    graphs = PrecisionGraphs(cuda.step, (3, 4), "cuda")
    for bits in (4, 3, 4, 3, 3):
        graphs.run(bits)
    assert graphs.captures == 2
    assert cuda.log == [
        "step 4 on side",
        "capture in pool 1",
        "replay [4] on main",
        "step 3 on side",
        "capture in pool 1",
        "replay [3] on main",
        "replay [4] on main",
        "replay [3] on main",
        "replay [3] on main",
    ]


def test_prepared_graphs_only_replay_until_they_are_released(cuda: FakeCuda) -> None:
    graphs = PrecisionGraphs(cuda.step, (2, 3), "cuda")
    graphs.prepare()
    graphs.prepare()
    assert graphs.captures == 2
    cuda.log.clear()
    graphs.run(2)
    assert cuda.log == ["replay [2] on main"]
    graphs.release()
    graphs.run(2)
    assert graphs.captures == 3
    assert cuda.log[1:] == ["wait", "step 2 on side", "capture in pool 2", "replay [2] on main"]


def test_warming_up_leaves_the_state_as_it_was(cuda: FakeCuda) -> None:
    position = torch.tensor([5])

    def step(bits: int) -> None:
        cuda.step(bits)
        if cuda.capturing is None:
            position.add_(1)

    PrecisionGraphs(step, (2,), "cuda", state=[position]).run(2)
    assert position.tolist() == [5]


def test_failed_capture_names_its_cause_and_leaves_the_others_usable(cuda: FakeCuda) -> None:
    def step(bits: int) -> None:
        if bits == 3 and cuda.capturing is not None:
            raise ValueError("needs a look at the device\nand more")
        cuda.step(bits)

    graphs = PrecisionGraphs(step, (2, 3), "cuda")
    graphs.run(2)
    with pytest.raises(KernelError, match=r"^weight_bits = 3: .* CUDA graph: needs a look at the device$") as caught:
        graphs.run(3)
    assert isinstance(caught.value.__cause__, ValueError)
    assert cuda.current == "main"
    cuda.log.clear()
    graphs.run(2)
    assert (graphs.captures, cuda.log) == (1, ["replay [2] on main"])


def test_first_failed_capture_gives_its_pool_up(cuda: FakeCuda) -> None:
    broken = [True]

    def step(bits: int) -> None:
        if broken[0]:
            raise ValueError("not yet")
        cuda.step(bits)

    graphs = PrecisionGraphs(step, (2,), "cuda")
    with pytest.raises(KernelError, match="not yet"):
        graphs.run(2)
    broken[0] = False
    graphs.run(2)
    assert cuda.log[1] == "capture in pool 2"
