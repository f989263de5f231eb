"""The run around the measurements: order, minutes, failures, files, goals."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from kernels import KernelError
from kernels.bench import run as bench_run
from kernels.bench.decode import DecodeSettings
from kernels.bench.goals import GOALS, NOT_MEASURED, judge
from kernels.bench.plan import BenchOptions, Item, plan
from kernels.bench.precompile import default_jobs, options_from_json, precompile, run_share
from kernels.bench.run import bench, goals_table, run_items
from kernels.bench.session import Session
from kernels.bench.tables import TABLES, Row, Table, read_table
from kernels.bench.timing import GraphTimer
from stand_in_clock import StandInTimer, stand_in_session

RESULTS = Path(__file__).parents[3] / "kernels" / "results"


def item(name: str, rows: int = 1, estimate_s: float = 1.0, error: Exception | None = None) -> Item:
    def measure(session: Session) -> Iterator[Row]:
        yield from ({"number": number} for number in range(rows))
        if error is not None:
            raise error

    return Item(name, "linears", estimate_s, measure, ())


def row(**values: object) -> Row:
    return {"item": "a", "timer": GraphTimer.name, "status": "ok", **values}


def test_items_run_in_order_and_their_rows_name_them() -> None:
    added: list[tuple[str, Row]] = []
    outcome = run_items(stand_in_session(), [item("a", 2), item("b")], lambda *pair: added.append(pair))
    assert outcome.done == ["a", "b"]
    assert added == [("linears", {"item": name, "number": n}) for name, n in (("a", 0), ("a", 1), ("b", 0))]


def test_an_item_that_does_not_fit_is_named_and_a_smaller_one_after_it_still_runs() -> None:
    clock = iter(range(0, 1000, 4))
    items = [item("first", estimate_s=10), item("large", estimate_s=30), item("small", estimate_s=5)]
    outcome = run_items(stand_in_session(), items, lambda *_: None, seconds_left=32, now=lambda: float(next(clock)))
    assert outcome.done == ["first", "small"]
    assert list(outcome.skipped) == ["large"]
    assert outcome.skipped["large"].startswith("needs about 30 s, ")


def test_a_failure_is_named_keeps_its_rows_and_costs_no_other_item(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[list[str], list[str]]] = []
    added: list[Row] = []
    items = [item("a"), item("b", 2, error=RuntimeError("CUDA out\nof memory")), item("c")]
    outcome = run_items(
        stand_in_session(),
        items,
        lambda _, one: added.append(one),
        after=lambda so_far: told.append((list(so_far.done), list(so_far.failed))),
    )
    assert outcome.done == ["a", "c"]
    assert outcome.failed == {"b": "failed: RuntimeError: CUDA out of memory"}
    assert told == [(["a"], []), (["a"], ["b"]), (["a", "c"], ["b"])]
    assert len(added) == 4
    assert "Traceback" in capsys.readouterr().err


def test_finished_items_are_not_measured_again() -> None:
    added: list[Row] = []
    outcome = run_items(stand_in_session(), [item("a"), item("b")], lambda _, one: added.append(one), done=["a", "z"])
    # Those of another plan are kept, or the next run would drop their rows.
    assert outcome.done == ["a", "z", "b"]
    assert [one["item"] for one in added] == ["b"]


def test_the_plan_puts_the_goals_first_and_every_name_once(tmp_path: Path) -> None:
    items = plan(BenchOptions(batches=(1, 2)), tmp_path)
    names = [one.name for one in items]
    assert len(set(names)) == len(names)
    first_decode = next(number for number, name in enumerate(names) if "decode" in name)
    assert names[first_decode] == "vicuna-7b, decode 128 + 256, switch at 128"
    assert first_decode == len({shape for goal in GOALS for shape in goal.shapes})
    for goal in GOALS:
        for N, K, operation in goal.shapes:
            assert f"{N}x{K} {operation}, widths 4, 3, 2" in names[:first_decode]
    # Compiling, the goals' layers and the four models of the paper's tables fit in four minutes.
    last = max(number for number, name in enumerate(names) if name.startswith("stablelm-zephyr-3b, decode"))
    assert sum(one.estimate_s for one in items[: last + 1]) < 120


def test_only_some_parts_and_models_are_planned(tmp_path: Path) -> None:
    decode = plan(BenchOptions(parts=("decode",), models=("phi-1.5",)), tmp_path)
    assert [one.name for one in decode] == ["phi-1.5, decode 128 + 256, switch at 128"]
    batched = plan(BenchOptions(parts=("linears",), models=("phi-1.5",), batches=(8,)), tmp_path)
    assert all(one.name.endswith("M = 8") for one in batched)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"parts": ("linear",)}, "--only linear: must be some of linears, prefill, decode"),
        ({"models": ("vicuna",)}, "did you mean vicuna-7b"),
        ({"batches": (9,)}, "--batch 9: must be 1..8"),
        ({"minutes": 0.0}, "--minutes 0: must be above 0"),
        ({"minutes": float("nan")}, "--minutes nan: must be above 0"),
        ({"lengths": DecodeSettings(0, 5, 2)}, "must be >= 1"),
        ({"lengths": DecodeSettings(5, 5, 5)}, "--switch-step 5: must be below --decode-tokens"),
        ({"lengths": DecodeSettings(2000, 500, 5)}, "--prompt-tokens and --decode-tokens"),
    ],
)
def test_options_that_cannot_be_measured_are_refused(changes: dict[str, object], named: str) -> None:
    with pytest.raises(KernelError, match=named):
        BenchOptions(**changes)


def test_options_survive_the_way_to_the_compiling_processes() -> None:
    options = BenchOptions(("decode",), ("phi-1.5",), (1, 4), 2.5, DecodeSettings(7, 9, 3))
    assert options_from_json(json.dumps(dataclasses.asdict(options))) == options
    assert default_jobs() >= 1
    said: list[str] = []
    precompile(options, 1, said.append)
    assert said == []


def test_processes_share_the_checks_and_one_that_fails_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []

    def check(number: int, device: torch.device) -> None:
        ran.append(number)
        if number == 4:
            raise RuntimeError("does not compile")

    checks = tuple(partial(check, number) for number in range(10))
    items = [Item("a", "linears", 1.0, iter, checks[:3]), Item("b", "linears", 1.0, iter, checks[3:])]
    monkeypatch.setattr("kernels.bench.precompile.plan", lambda options, out: items)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    assert [run_share(BenchOptions(), 60.0, 3, index) for index in range(3)] == [0, 1, 0]
    assert ran == [0, 3, 6, 9, 1, 4, 7, 2, 5, 8]
    ran.clear()
    assert run_share(BenchOptions(), -1.0, 1, 0) == 0
    assert ran == []


def test_a_row_is_on_the_disk_as_soon_as_it_is_added(tmp_path: Path) -> None:
    table = Table(tmp_path / "new" / "t.csv", ("item", "p50_us", "note", "timer", "status"))
    table.add(row(p50_us=1.23456789))
    table.add(row(p50_us=None, note="a, b"))
    assert (tmp_path / "new" / "t.csv").read_text().splitlines() == [
        "item,p50_us,note,timer,status",
        "a,1.23457,,cuda events,ok",
        'a,,"a, b",cuda events,ok',
    ]


def test_a_killed_run_keeps_finished_items_and_drops_the_one_that_was_cut(tmp_path: Path) -> None:
    path, columns = tmp_path / "t.csv", ("item", "timer", "status")
    first = Table(path, columns)
    for name in ("a", "a", "b"):
        first.add(row(item=name))
    assert [one["item"] for one in Table(path, columns, ["a"]).rows] == ["a", "a"]
    assert [one["item"] for one in read_table(path)] == ["a", "a"]
    with pytest.raises(KernelError, match="has other columns"):
        Table(path, ("item", "timer", "status", "more"), ["a"])
    assert Table(path, columns).rows == []


def test_nothing_timed_by_a_stand_in_reaches_a_table(tmp_path: Path) -> None:
    table = Table(tmp_path / "t.csv", ("item", "timer", "status"))
    with pytest.raises(KernelError, match="timer = stand-in"):
        table.add(row(**stand_in_session().provenance(), item="a"))
    assert read_table(tmp_path / "t.csv") == []


def linear_row(shape: tuple[int, int, str], bits: int, **values: object) -> Row:
    N, K, operation = shape
    found = {"N": N, "K": K, "operation": operation, "weight_bits": bits, "M": 1, "decoder": "permute"}
    return row(**found, **({"l2_state": "cold", "share_of_copy": 0.9, "times_fp16": 9.0} | values))


def test_a_goal_passes_only_if_all_of_it_was_measured_and_reaches_the_bound() -> None:
    shapes = GOALS[0].shapes
    rows = [linear_row(shape, bits) for shape in shapes for bits in (4, 3, 2)]
    by_goal = {(found["goal"], found["weight_bits"]): found for found in judge(rows, [])}
    assert by_goal[GOALS[0].name, 4]["result"] == by_goal[GOALS[1].name, 2]["result"] == "pass"
    assert by_goal[GOALS[2].name, 4]["result"] == NOT_MEASURED
    assert by_goal[GOALS[4].name, 4]["measured"] is None
    missing = {(f["goal"], f["weight_bits"]): f for f in judge(rows[1:], [])}
    assert missing[GOALS[0].name, 4]["result"] == NOT_MEASURED
    slow = {
        (f["goal"], f["weight_bits"]): f for f in judge([*rows[:-1], linear_row(shapes[-1], 2, share_of_copy=0.5)], [])
    }
    assert (
        slow[GOALS[0].name, 2] | {"worst": "28672x4096 swiglu", "measured": 0.5, "result": "miss"}
        == slow[GOALS[0].name, 2]
    )


@pytest.mark.parametrize(
    "other",
    [{"l2_state": "warm"}, {"M": 8}, {"decoder": "grid"}, {"status": "wrong: error"}, {"l2_state": "partly warm"}],
)
def test_a_goal_is_not_reached_by_other_conditions(other: dict[str, object]) -> None:
    found = judge([linear_row((4096, 4096, "linear"), 4) | other], [])
    assert all(one["result"] == NOT_MEASURED for one in found)


def test_goals_read_rows_of_a_file_and_of_memory_alike(tmp_path: Path) -> None:
    table = Table(tmp_path / "decode.csv", TABLES["decode"])
    for bits, times_fp16 in (("16", 1.0), ("4", 2.6), ("3", 2.9), ("p4:4>3@128", 9.0)):
        table.add(row(model="vicuna-7b", run=bits, times_fp16=times_fp16))
    assert judge([], table.rows) == judge([], read_table(tmp_path / "decode.csv"))
    by_width = {
        one["weight_bits"]: one["result"] for one in judge([], table.rows) if "Vicuna-7B's shape" in str(one["goal"])
    }
    assert by_width == {4: "pass", 3: "miss", 2: NOT_MEASURED}
    assert goals_table(judge([], table.rows)).count("\n") == 15


def test_every_column_is_explained_beside_the_results() -> None:
    text = (RESULTS / "README.md").read_text()
    for columns in TABLES.values():
        for column in columns:
            assert f"`{column}`" in text, column


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_a_run_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="timing needs an NVIDIA GPU; nothing was measured"):
        bench(BenchOptions(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_writes_every_file_and_goes_on_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of :func:`bench` but the GPU: the clock is made up and passes for events, in a folder of the test."""
    timer = StandInTimer()
    timer.name = GraphTimer.name
    broken = [True]

    def flaky(session: Session) -> Iterator[Row]:
        yield {**session.provenance(), "status": "ok", "N": 1}
        if broken:
            raise RuntimeError("lost")

    def measure(session: Session) -> Iterator[Row]:
        yield linear_row((4096, 4096, "linear"), 4, **session.provenance())
        yield {**session.provenance(), "status": "wrong: error 1"}

    items = [Item("good", "linears", 1.0, measure, ()), Item("flaky", "prefill", 1.0, flaky, ())]
    monkeypatch.setattr(bench_run, "plan", lambda options, out: items)
    monkeypatch.setattr(bench_run, "graph_timer", lambda: timer)
    monkeypatch.setattr(bench_run.Session, "open", lambda device: stand_in_session(timer))
    monkeypatch.setattr("kernels.dispatch.device_obstacle", lambda device: None)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "GPU A")
    said: list[str] = []
    summary = bench(BenchOptions(), tmp_path, say=said.append)
    assert (summary["done"], list(summary["failed"])) == (["good"], ["flaky"])
    assert summary["without_times"] == ["good: wrong: error 1"]
    assert any("flaky: failed: RuntimeError: lost" in line for line in said)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["decode.csv", "goals.csv", "linears.csv", "prefill.csv", "state.json", "summary.json"]
    assert len(read_table(tmp_path / "goals.csv")) == 15
    with pytest.raises(KernelError, match="give --resume"):
        bench(BenchOptions(), tmp_path, say=said.append)
    broken.clear()
    again = bench(BenchOptions(), tmp_path, resume=True, say=said.append)
    assert (again["done"], again["failed"]) == (["good", "flaky"], {})
    # What the failed part had written was dropped and measured anew.
    assert len(read_table(tmp_path / "prefill.csv")) == 1
    assert len(read_table(tmp_path / "linears.csv")) == 2


def test_a_folder_with_a_run_needs_resume_and_the_same_gpu(tmp_path: Path) -> None:
    finished = bench_run._finished
    assert finished(tmp_path, "GPU A", False) == []
    (tmp_path / "state.json").write_text(json.dumps({"device": "GPU A", "done": ["x"]}))
    with pytest.raises(KernelError, match="give --resume"):
        finished(tmp_path, "GPU A", False)
    assert finished(tmp_path, "GPU A", True) == ["x"]
    with pytest.raises(KernelError, match="holds a run of GPU A, this GPU is GPU B"):
        finished(tmp_path, "GPU B", True)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(KernelError, match="damaged"):
        finished(tmp_path, "GPU A", True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_short_run_on_a_gpu_writes_tables_goals_and_a_summary(tmp_path: Path) -> None:
    options = BenchOptions(("linears",), ("phi-1.5",), (1,), minutes=0.2)
    summary = bench(options, tmp_path)
    assert not summary["failed"]
    rows = read_table(tmp_path / "linears.csv")
    assert rows
    assert all(one["status"] == "ok" and one["device"] == torch.cuda.get_device_name() for one in rows)
    assert json.loads((tmp_path / "summary.json").read_text())["done"] == summary["done"]
    # Taken up again, nothing is measured twice.
    again = bench(options, tmp_path, resume=True)
    assert again["done"][: len(summary["done"])] == summary["done"]
