"""How a command line says which model decodes, under which schedulers, how tokens are drawn, and where."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwsim.trace import BittaperError, InputError, Schedule
from studies.commands.options import non_negative_int, parse_schedule, positive_int

if TYPE_CHECKING:
    import torch

    from accuracy.decoding import Sampling
    from accuracy.model import LanguageModel
    from accuracy.schedulers import Scheduler

DTYPES = ("float32", "float16", "bfloat16")
# A scheduler's name may hold a colon (package.module:Class); its options begin with the first "key=".
_SCHEDULER = re.compile(r"(?P<name>.+?)(?::(?P<options>[A-Za-z_]\w*=.*))?", re.DOTALL)
_NEXT_OPTION = re.compile(r",(?=[A-Za-z_]\w*=)")


@dataclass(frozen=True)
class SchedulerChoice:
    """One ``--schedule`` or ``--scheduler`` as it was written.

    Attributes:
        text: For error messages.
        name: Registered name, or ``package.module:Class``.
        options: Of its constructor.
    """

    text: str
    name: str
    options: Mapping[str, Any]

    @classmethod
    def of_schedule(cls, text: str) -> SchedulerChoice:
        """The static scheduler of a width, a label or a file."""
        return cls(f"--schedule {text}", "static", {"schedule": text})

    @classmethod
    def parse(cls, text: str) -> SchedulerChoice:
        """Read ``NAME[:key=value,...]``; values are YAML, and may hold commas inside brackets or between words.

        >>> SchedulerChoice.parse("confidence:widths=[4, 3],thresholds=[0.9],monotone=true").options
        {'widths': [4, 3], 'thresholds': [0.9], 'monotone': True}

        Raises:
            InputError: If an option is given twice or its value is not YAML.
        """
        import yaml

        match = _SCHEDULER.fullmatch(text)
        if match is None:
            raise InputError("--scheduler: empty; give a name, for example static:schedule=p4:4>3@20")
        options: dict[str, Any] = {}
        for part in _NEXT_OPTION.split(match["options"]) if match["options"] else ():
            key, _, value = part.partition("=")
            if key in options:
                raise InputError(f"--scheduler {text}: {key} is given twice")
            try:
                options[key] = yaml.safe_load(value)
            except yaml.YAMLError:
                raise InputError(f"--scheduler {text}: {key} = {value}: is not YAML") from None
        return cls(f"--scheduler {text}", match["name"], options)

    @property
    def baseline(self) -> Schedule | None:
        """The schedule whose response lengths a pattern is laid over, for a pattern without its own steps.

        Raises:
            InputError: If the widths are no widths.
        """
        if self.name != "pattern" or "steps" in self.options or "high_bits" not in self.options:
            return None
        try:
            return Schedule.uniform(self.options["high_bits"], self.options.get("prefill_weight_bits"))
        except ValueError:
            raise InputError(f"{self.text}: high_bits and prefill_weight_bits must be weight widths") from None

    def make(self, lm: LanguageModel, lengths: Mapping[str, int] | None = None) -> Scheduler:
        """Make the scheduler.

        Args:
            lm: The model it will plan for.
            lengths: Response length by prompt id, for patterns.

        Raises:
            InputError: If there is no such scheduler or its options do not fit.
        """
        from accuracy.schedulers import find_scheduler

        options = dict(self.options)
        if self.name == "static" and isinstance(options.get("schedule"), str | int):
            options["schedule"] = parse_schedule(str(options["schedule"]))
        if self.name == "learned":
            options["lm"] = lm
        if self.baseline is not None and lengths is not None:
            options["steps"] = {prompt: tokens - 1 for prompt, tokens in lengths.items()}
        try:
            return find_scheduler(self.name, **options)
        except BittaperError as error:
            raise InputError(f"{self.text}: {error}") from None
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.text}: an option has a value of the wrong kind ({error})") from None


def add_decoding(parser: argparse.ArgumentParser, *, batch_size_help: str, repeated: bool) -> None:
    """Offer the options that say what decodes and how.

    Args:
        parser: The command's.
        batch_size_help: What a batch means for it.
        repeated: Whether several schedulers may be given.
    """
    many = "; may be repeated" if repeated else ""
    parser.add_argument(
        "--model", required=True, help="nested store, model folder, hub name, or a .json map of widths to models"
    )
    parser.add_argument(
        "--schedule",
        action="append",
        dest="schedulers",
        type=SchedulerChoice.of_schedule,
        metavar="S",
        help=f"a width (4), a label (p4:4>3@40) or a schedule.json{many}",
    )
    parser.add_argument(
        "--scheduler",
        action="append",
        dest="schedulers",
        type=_scheduler,
        metavar="NAME:KEY=VALUE,...",
        help=f"a registered scheduler, or package.module:Class of an installed package, with its options{many}",
    )
    parser.add_argument("--batch-size", type=positive_int, metavar="N", help=batch_size_help)
    add_device(parser)
    parser.add_argument(
        "--workers", metavar="N|ADDRESS", type=_workers, help="decode on N processes, or on a Dask scheduler's workers"
    )
    group = parser.add_argument_group("sampling", "without any of these, decoding is greedy")
    group.add_argument("--temperature", type=float, metavar="T", help="divides the logits (default 1)")
    group.add_argument("--top-k", type=positive_int, metavar="K", help="draw from the K likeliest tokens")
    group.add_argument(
        "--top-p", type=float, metavar="P", help="draw from the likeliest tokens of probability P together"
    )
    group.add_argument("--sampling-seed", type=non_negative_int, metavar="N", help="of the random numbers (default 0)")


def add_device(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Offer where and in what to compute, for :func:`load_chosen_model`."""
    parser.add_argument(
        "--device", default="auto", help="auto (default: cuda where there is a GPU, else cpu) or its name"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, help="what to compute in (default: float32 on a CPU, float16 elsewhere)"
    )


def load_chosen_model(args: argparse.Namespace) -> LanguageModel:
    """Load the model onto the device that was chosen.

    Raises:
        InputError: If there is no such model or device.
    """
    import torch

    from accuracy.model import load_model

    device = chosen_device(args)
    if args.workers is not None and isinstance(args.workers, int):
        torch.set_num_threads(1)  # as its workers compute
    return load_model(args.model, device=device, dtype=chosen_dtype(args))


def chosen_device(args: argparse.Namespace) -> torch.device:
    """Where to compute.

    Raises:
        InputError: If there is no such device.
    """
    import torch

    name = args.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device {name}: must be auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {name}: {torch.cuda.device_count()} GPUs found; use --device cpu, or another")
    return device


def chosen_dtype(args: argparse.Namespace) -> torch.dtype | None:
    """What to compute in; None for the device's usual."""
    import torch

    dtype: torch.dtype | None = None if args.dtype is None else getattr(torch, args.dtype)
    return dtype


def chosen_sampling(args: argparse.Namespace) -> Sampling | None:
    """How tokens are drawn; None where decoding is greedy."""
    from accuracy.decoding import Sampling

    given = {"top_k": args.top_k, "top_p": args.top_p, "temperature": args.temperature, "seed": args.sampling_seed}
    chosen = {key: value for key, value in given.items() if value is not None}
    return Sampling(**chosen) if chosen else None


def _scheduler(text: str) -> SchedulerChoice:
    try:
        return SchedulerChoice.parse(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _workers(text: str) -> int | str:
    return positive_int(text) if re.fullmatch(r"-?\d+", text) else text
