"""``bittaper trace``: decode prompts and record precisions and, one prompt at a time, measured times."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hwsim.trace import InputError
from studies.commands.options import add_quiet, positive_int
from studies.common.decoding import add_decoding, chosen_sampling, load_chosen_model
from studies.common.output import si
from studies.common.tasks import TaskChoice, add_task, make_chosen_task

if TYPE_CHECKING:
    from accuracy.tasks import Task

HELP = """decode prompts; write a trace with the precision and the measured time of every step

A run that was stopped goes on where it was: what is finished waits in a folder beside the trace.

examples:
  bittaper trace --model path/to/store --schedule "p4:4>3@20" --limit 8 --out trace.jsonl
  bittaper trace --model path/to/store --schedule 3 --prompt "Once upon a time" --max-new-tokens 64 --out trace.jsonl
  bittaper trace --model path/to/store --scheduler learned:checkpoint=path/to/scheduler --out trace.jsonl
  bittaper trace --model path/to/store --schedule 3 --limit 500 --batch-size 32 --out lengths-only.jsonl
  bittaper simulate --model path/to/store --npu pmpd-4k --trace trace.jsonl
"""

DEFAULT_MAX_NEW_TOKENS = 60


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_decoding(
        parser,
        batch_size_help="prompts decoded together: quicker, but only 1 (the default) measures step times",
        repeated=False,
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="trace file")
    parser.add_argument("--prompt", help="one prompt, instead of a task's")
    add_task(parser)
    parser.add_argument(
        "--graphs",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="capture decode steps in CUDA graphs (default: on a GPU, for single prompts decoded greedily under a "
        "schedule known after the prefill, where the model's family allows it)",
    )
    parser.add_argument("--split", default="val", help="calib, val (default) or test")
    parser.add_argument("--limit", type=positive_int, metavar="N", default=8, help="the first N prompts (default 8)")
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Decode, write the trace, print the speed."""
    if not args.schedulers:
        raise InputError("--schedule is missing: give a width, a label or a file, or a --scheduler")
    if len(args.schedulers) > 1:
        given = ", ".join(choice.text for choice in args.schedulers)
        raise InputError(f"{given}: a trace is of one scheduler; give one of them, or use bittaper evaluate")
    (choice,) = args.schedulers
    if choice.baseline is not None:
        raise InputError(f"{choice.text}: a pattern is laid over lengths that bittaper evaluate measures; use that")
    if args.prompt is not None and (args.task or args.data):
        raise InputError("--prompt excludes --task and --data: the prompt is the task")
    from accuracy.evaluation import PromptTask, record_trace
    from accuracy.evaluation.arithmetic import device_name

    sampling = chosen_sampling(args)
    lm = load_chosen_model(args)
    task: Task = (
        make_chosen_task(lm, TaskChoice.of(args))
        if args.prompt is None
        else PromptTask(args.prompt, args.max_new_tokens or DEFAULT_MAX_NEW_TOKENS)
    )
    responses = record_trace(
        lm,
        task,
        choice.make(lm),
        Path(args.out),
        split=args.split,
        limit=args.limit,
        batch_size=args.batch_size or 1,
        progress=not args.quiet,
        sampling=sampling,
        workers=args.workers,
        graphs=args.graphs,
    )
    if args.prompt is not None:
        print(responses[0].text)
    steps = sum(len(response.decode_weight_bits) for response in responses)
    print(f"{args.out}: {len(responses)} responses, {steps} decode steps")
    times = [time for response in responses for time in response.step_ns or ()]
    if times:
        print(f"measured on {device_name(lm)}: {si(sum(times) / len(times) / 1e9, 's')} a step")
