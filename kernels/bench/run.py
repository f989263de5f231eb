"""One benchmark run: compile, measure item by item within the minutes given, and say what was left out."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kernels.bench.goals import COLUMNS, judge
from kernels.bench.plan import BenchOptions, Item, plan
from kernels.bench.precompile import precompile
from kernels.bench.session import Session, release_memory
from kernels.bench.tables import TABLES, Row, Table
from kernels.bench.timing import graph_timer
from kernels.errors import KernelError

STATE_FILE, SUMMARY_FILE, GOALS_FILE = "state.json", "summary.json", "goals.csv"

Say = Callable[[str], None]


@dataclass
class Outcome:
    """What became of the items.

    Attributes:
        done: Measured, before or now.
        failed: By item, what went wrong; other items went on.
        skipped: By item, why it was not started.
    """

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def bench(options: BenchOptions, out: Path, *, resume: bool = False, jobs: int = 1, say: Say = print) -> dict[str, Any]:
    """Measure on this machine's GPU and write the tables, the traces, the goals and a summary into ``out``.

    Args:
        options: What to measure.
        out: Folder of the results.
        resume: Keep the finished items of an earlier run there.
        jobs: Processes that compile kernels before anything is timed.
        say: Takes a line of progress.

    Returns:
        The summary, as written to ``summary.json``.

    Raises:
        KernelError: If there is no GPU that the kernels can run on, the folder holds another run and ``resume`` is not
            given, or it holds a run of another GPU.
    """
    import torch

    from kernels.dispatch import device_obstacle

    begin = time.monotonic()
    graph_timer()  # refuses a machine without a GPU
    device = torch.device("cuda", torch.cuda.current_device())
    obstacle = device_obstacle(device)
    if obstacle is not None:
        raise KernelError(f"{obstacle}; nothing was measured")
    name = torch.cuda.get_device_name(device)
    done = _finished(out, name, resume)
    items = plan(options, out)
    precompile(options, jobs, say)
    say(f"{name}: measuring {len(items)} parts; copy bandwidth first")
    session = Session.open(device)
    say(f"copy {session.copy_bytes_per_s / 1e9:.0f} GB/s, read {session.read_bytes_per_s / 1e9:.0f} GB/s")
    tables = {name: Table(out / f"{name}.csv", columns, done) for name, columns in TABLES.items()}

    def keep(outcome: Outcome) -> dict[str, Any]:
        """Write what is known so far: a run that is killed leaves it."""
        goals = judge(tables["linears"].rows, tables["decode"].rows)
        rows = [row for table in tables.values() for row in table.rows]
        summary = {
            "device": session.facts,
            "copy_bytes_per_s": session.copy_bytes_per_s,
            "read_bytes_per_s": session.read_bytes_per_s,
            "seconds": round(time.monotonic() - begin, 1),
            **asdict(outcome),
            "without_times": [f"{row['item']}: {row['status']}" for row in rows if row["status"] != "ok"],
            "goals": goals,
        }
        _write_goals(out / GOALS_FILE, goals, session)
        _write_json(out / SUMMARY_FILE, summary)
        _write_json(out / STATE_FILE, {"device": name, "done": outcome.done})
        return summary

    outcome = run_items(
        session,
        items,
        lambda table, row: tables[table].add(row),
        done=done,
        seconds_left=None if options.minutes is None else 60 * options.minutes - (time.monotonic() - begin),
        after=keep,
        say=say,
    )
    return keep(outcome)


def run_items(
    session: Session,
    items: Sequence[Item],
    add: Callable[[str, Row], None],
    *,
    done: Sequence[str] = (),
    seconds_left: float | None = None,
    after: Callable[[Outcome], object] = lambda outcome: None,
    say: Say = lambda line: None,
    now: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Measure items in order; one that fails or does not fit in the time left is named, and the next one starts.

    Args:
        session: The device.
        items: What to measure.
        add: Takes a table's name and a row, as soon as it is measured.
        done: Names of items measured before, of this plan or another.
        seconds_left: How long the items may take together; an item starts only if its estimate fits.
        after: Told after each item what became of all so far.
        say: Takes a line of progress.
        now: The clock.
    """
    before = frozenset(done)
    outcome = Outcome(done=list(done))
    begin = now()
    for number, item in enumerate(items, start=1):
        if item.name in before:
            continue
        left = float("inf") if seconds_left is None else seconds_left - (now() - begin)
        if item.estimate_s > left:
            outcome.skipped[item.name] = f"needs about {item.estimate_s:.0f} s, {max(left, 0.0):.0f} s left"
            say(f"[{number}/{len(items)}] {item.name}: skipped, {outcome.skipped[item.name]}")
            continue
        start = now()
        problem = _measure(session, item, add)
        if problem is None:
            outcome.done.append(item.name)
        else:
            outcome.failed[item.name] = problem
        after(outcome)
        say(f"[{number}/{len(items)}] {item.name}: {problem or 'measured'} ({now() - start:.1f} s)")
    return outcome


def _measure(session: Session, item: Item, add: Callable[[str, Row], None]) -> str | None:
    """Add an item's rows; what failed, in a line, or None.

    Every error is caught: a kernel that does not compile, or memory that does not suffice, must not cost the items
    after it. The traceback goes to stderr.
    """
    try:
        for row in item.measure(session):
            add(item.table, {**row, "item": item.name})
    except Exception as error:
        traceback.print_exc()
        return f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    finally:
        release_memory()
    return None


def goals_table(goals: Sequence[dict[str, Any]]) -> str:
    """The goals as aligned text."""
    lines = [("goal (one H100, cold L2)", "bits", "at least", "measured", "result", "worst")]
    lines += [
        (
            str(goal["goal"]),
            str(goal["weight_bits"]),
            f"{goal['at_least']:.2f}",
            "-" if goal["measured"] is None else f"{goal['measured']:.2f}",
            str(goal["result"]),
            str(goal["worst"] or "-"),
        )
        for goal in goals
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _finished(out: Path, device: str, resume: bool) -> list[str]:
    """Items that an earlier run in this folder finished."""
    state = out / STATE_FILE
    if not state.is_file():
        return []
    if not resume:
        raise KernelError(f"{out}: holds an earlier run; give --resume to go on with it, or another --out")
    try:
        found = json.loads(state.read_text(encoding="utf-8"))
        earlier, done = str(found["device"]), [str(name) for name in found["done"]]
    except (ValueError, KeyError, TypeError):
        raise KernelError(f"{state}: damaged; choose another --out") from None
    if earlier != device:
        raise KernelError(f"{out}: holds a run of {earlier}, this GPU is {device}; choose another --out")
    return done


def _write_goals(path: Path, goals: Sequence[dict[str, Any]], session: Session) -> None:
    columns = (*COLUMNS, *session.provenance())
    table = Table(path, columns)
    for goal in goals:
        table.add({**goal, **session.provenance()})


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
