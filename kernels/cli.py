"""``python -m kernels bench|tune|check``: measure, tune and check the kernels; ``bittaper kernels`` is the same.

Needs torch and triton and nothing else that the project installs, so that it runs on a bare machine with a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from kernels.errors import KernelError

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130
PROGRAM = "python -m kernels"
DEFAULT_OUT, DEFAULT_TABLES = "results/gpu", "results/gpu/tuning"


class OneLineParser(argparse.ArgumentParser):
    """Reports a usage error in one line that says where help is."""

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with code 2."""
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: error: {message}; see {self.prog} --help\n")


@dataclass(frozen=True)
class Subcommand:
    """One of the commands.

    Attributes:
        summary: What it does.
        examples: Its arguments in some examples, one a line.
        configure: Adds its arguments to a parser.
        run: Does the work; returns the exit code and raises KernelError for what the user can mend.
    """

    summary: str
    examples: tuple[str, ...]
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]

    def epilog(self, program: str) -> str:
        """Examples as ``--help`` shows them."""
        return "examples:\n" + "".join(f"  {program} {example}\n" for example in self.examples)


def _names(text: str) -> tuple[str, ...]:
    """Argparse type: names with commas between."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> tuple[int, ...]:
    """Argparse type: integers with commas between.

    >>> _numbers("1,8")
    (1, 8)
    """
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' must be integers with commas between, for example 1,2,4") from None


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for programs instead of text")


def _configure_bench(parser: argparse.ArgumentParser) -> None:
    # Plain data, so that --help needs neither torch nor triton.
    from kernels.bench.plan import PARTS, BenchOptions
    from kernels.shapes import SHAPES

    default = BenchOptions()
    lengths = default.lengths
    parser.add_argument("--out", default=DEFAULT_OUT, metavar="DIR", help=f"results (default {DEFAULT_OUT})")
    parser.add_argument("--minutes", type=float, help="time for everything; what does not fit is named and left out")
    parser.add_argument("--only", type=_names, default=PARTS, metavar="PARTS", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--models", type=_names, default=default.models, help=f"some of {','.join(SHAPES)}")
    parser.add_argument(
        "--batch", type=_numbers, default=default.batches, metavar="M", help="vectors of the linears, 1..8 (default 1)"
    )
    for option, value, what in (
        ("--prompt-tokens", lengths.prompt_tokens, "length of the prompt"),
        ("--decode-tokens", lengths.decode_steps, "decode steps"),
        ("--switch-step", lengths.switch_step, "first step at the lower width of a schedule"),
    ):
        parser.add_argument(option, type=int, default=value, metavar="N", help=f"{what} (default {value})")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes that compile beforehand (default: by cores)")
    parser.add_argument("--resume", action="store_true", help="keep what an earlier run in --out finished")
    _add_json(parser)


def _run_bench(args: argparse.Namespace) -> int:
    from kernels.bench.decode import DecodeSettings
    from kernels.bench.plan import BenchOptions
    from kernels.bench.run import bench, goals_table

    options = BenchOptions(
        parts=args.only,
        models=args.models,
        batches=args.batch,
        minutes=args.minutes,
        lengths=DecodeSettings(args.prompt_tokens, args.decode_tokens, args.switch_step),
    )
    jobs = _jobs(args)
    _need_torch()
    summary = bench(options, Path(args.out), resume=args.resume, jobs=jobs, say=_say)
    if args.json:
        print(json.dumps(summary, indent=2))
    else:
        print(goals_table(summary["goals"]))
        for item, reason in summary["skipped"].items():
            print(f"skipped: {item}: {reason}")
        for item, reason in summary["failed"].items():
            print(f"failed: {item}: {reason}")
        for line in summary["without_times"]:
            print(f"no time: {line}")
        print(f"{args.out}: {len(summary['done'])} parts measured on {summary['device']['device']}")
    return EXIT_FAILED if summary["failed"] else 0


def _need_torch() -> None:
    """Raise a KernelError, not an ImportError, where torch or triton is missing."""
    for package in ("torch", "triton"):
        try:
            __import__(package)
        except ImportError:
            raise KernelError(f"{package} is not installed: pip install {package}") from None


def _configure_tune(parser: argparse.ArgumentParser) -> None:
    from kernels.shapes import SHAPES
    from kernels.tune import TuneOptions

    default = TuneOptions()
    parser.add_argument(
        "--out", default=DEFAULT_TABLES, metavar="DIR", help=f"folder of the device's table (default {DEFAULT_TABLES})"
    )
    parser.add_argument("--minutes", type=float, help="time for everything; the same command goes on where it ended")
    parser.add_argument("--models", type=_names, default=default.models, help=f"some of {','.join(SHAPES)}")
    for option, numbers, what in (
        ("--widths", default.widths, "weight widths, 2..8"),
        ("--vectors", default.vectors, "numbers of activation vectors"),
    ):
        shown = ",".join(map(str, numbers))
        parser.add_argument(option, type=_numbers, default=numbers, metavar="LIST", help=f"{what} (default {shown})")
    parser.add_argument(
        "--candidates",
        type=int,
        default=default.candidates,
        metavar="N",
        help=f"configurations of a product and path (default {default.candidates})",
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="processes that compile beforehand (default: by cores)")
    _add_json(parser)


def _run_tune(args: argparse.Namespace) -> int:
    from kernels.tune import TuneOptions

    options = TuneOptions(args.models, args.widths, args.vectors, args.candidates, args.minutes)
    jobs = _jobs(args)
    _need_torch()
    from kernels.tune_gpu import tune_device

    found = tune_device(options, Path(args.out), jobs=jobs, say=_say)
    if args.json:
        print(json.dumps({**asdict(found), "path": str(found.path)}, indent=2))
        return EXIT_FAILED if found.failed else 0
    for product, reason in found.failed.items():
        print(f"failed: {product}: {reason}")
    print(
        f"{found.path}: {len(found.measured)} products measured, {len(found.kept)} kept, {len(found.failed)} failed, "
        f"{len(found.left)} left; BITTAPER_TUNING={found.path} uses it"
    )
    return EXIT_FAILED if found.failed else 0


def _jobs(args: argparse.Namespace) -> int:
    from kernels.bench.precompile import default_jobs

    jobs = default_jobs() if args.jobs is None else int(args.jobs)
    if jobs < 1:
        raise KernelError(f"--jobs {jobs}: must be >= 1")
    return jobs


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _configure_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cuda", "cpu"), help="cpu interprets (default: the GPU, if there is one)")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="instead, compile for sm_80, sm_89 and sm_90 and look at registers, spills, loads and instructions",
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="checks whose name contains this")
    parser.add_argument("--seed", type=int, help="of the random data (default: another one each time)")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes (default: by cores)")
    parser.add_argument("--csv", metavar="FILE", help="also write the findings there")
    _add_json(parser)


def _run_check(args: argparse.Namespace) -> int:
    import time

    from kernels.check import Finding, Task, check, default_device, run_facts, summary, write_csv

    _need_torch()
    jobs = _jobs(args)
    device = "cpu" if args.compile else args.device or default_device()
    seed = time.time_ns() % 2**31 if args.seed is None else args.seed
    task = Task("compile" if args.compile else "run", device, args.only, seed)

    def report(finding: Finding) -> None:
        print(finding.line(), flush=True)

    findings = check(task, jobs, (lambda finding: None) if args.json else report)
    found = summary(findings)
    if args.csv:
        write_csv(Path(args.csv), findings, run_facts(task))
    if args.json:
        print(json.dumps({**run_facts(task), **found}, indent=2))
    else:
        where = {"cpu": "Triton's CPU interpreter", "cuda": "the GPU"}[device]
        where = "the compiler" if args.compile else where
        print(f"{len(findings) - len(found['failed'])} of {len(findings)} checks hold in {where}")
    return 0 if found["passed"] else EXIT_FAILED


SUBCOMMANDS: dict[str, Subcommand] = {
    "bench": Subcommand(
        "measure bandwidth, linears, prefill and whole responses on this GPU",
        (
            "bench --out results/gpu",
            "bench --minutes 4 --only linears,decode --models vicuna-7b,mobilellama-1.4b",
            "bench --resume --batch 1,2,4,8",
        ),
        _configure_bench,
        _run_bench,
    ),
    "tune": Subcommand(
        "find the fastest launch configurations on this GPU",
        ("tune", "tune --minutes 2 --models vicuna-7b", "tune --out kernels/tuning"),
        _configure_tune,
        _run_tune,
    ),
    "check": Subcommand(
        "check every kernel against float64, on this GPU or in the interpreter",
        ("check", "check --only gemv", "check --compile --only sm_90"),
        _configure_check,
        _run_check,
    ),
}


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``python -m kernels``."""
    parser = OneLineParser(prog=PROGRAM, description="Measure, tune and check the kernels.")
    add_subcommands(parser, PROGRAM)
    return parser


def add_subcommands(parser: argparse.ArgumentParser, program: str) -> None:
    """Give a parser the commands; the chosen one is then ``args.kernels_command``, its function ``kernels_run``.

    Args:
        parser: Gets a subparser each.
        program: How the user calls it, for the examples.
    """
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=OneLineParser)
    for name, command in SUBCOMMANDS.items():
        added = subparsers.add_parser(
            name,
            help=command.summary,
            description=command.summary,
            epilog=command.epilog(program),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.configure(added)
        added.set_defaults(kernels_command=name, kernels_run=command.run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0, 1 failed, 2 bad input or no GPU, 130 Ctrl-C)."""
    args = build_parser().parse_args(argv)
    try:
        return int(args.kernels_run(args))
    except KernelError as error:
        print(f"{PROGRAM}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted; finished rows are kept, --resume goes on from there", file=sys.stderr)
        return EXIT_INTERRUPTED
