"""``bittaper kernels``: ``python -m kernels`` under the project's one command, and the learned scheduler's time."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hwsim.trace import InputError

HELP = """measure, tune and check the GPU kernels

bench and tune need an NVIDIA GPU; check runs in Triton's CPU interpreter where there is none. Every command has its
own --help; python -m kernels does the same where only torch and triton are installed.

examples:
  bittaper kernels check
  bittaper kernels check --compile --only sm_90
  bittaper kernels tune --minutes 2 --out results/gpu
  bittaper kernels bench --minutes 4 --out results/gpu
"""

SCHEDULER_TABLE = "scheduler"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the commands of ``python -m kernels``."""
    from kernels.cli import add_subcommands

    add_subcommands(parser, "bittaper kernels")


def run(args: argparse.Namespace) -> None:
    """Run one of them; after a benchmark of responses, time the learned scheduler too."""
    from kernels import KernelError

    try:
        code = args.kernels_run(args)
        if args.kernels_command == "bench" and "decode" in args.only:
            _time_scheduler(Path(args.out), args.models, args.prompt_tokens)
    except KernelError as error:
        raise InputError(str(error)) from None
    if code:
        raise SystemExit(code)


def _time_scheduler(out: Path, models: tuple[str, ...], prompt_tokens: int) -> None:
    """Write ``scheduler.csv``, or say what it needs."""
    try:
        from accuracy.scheduler_training.classifier import ScheduleClassifier  # noqa: F401
    except ImportError as error:
        print(f"learned scheduler: not timed, {error}: pip install 'bittaper[accuracy]'", file=sys.stderr)
        return
    import torch

    from kernels.bench.session import Session
    from kernels.bench.tables import PROVENANCE, Table
    from studies.common.scheduler_time import COLUMNS, scheduler_row

    session = Session.open(torch.device("cuda", torch.cuda.current_device()))
    table = Table(out / f"{SCHEDULER_TABLE}.csv", (*COLUMNS, *PROVENANCE))
    for model in models:
        row = scheduler_row(session, model, prompt_tokens)
        table.add(row | session.provenance())
        print(f"{model}: the learned scheduler takes {row['p50_us']:.0f} us a prompt of {prompt_tokens} tokens")
    print(f"{out / SCHEDULER_TABLE}.csv")
