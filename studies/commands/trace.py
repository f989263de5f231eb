"""``bittaper trace``: decode prompts one at a time and record precisions and measured times."""

from __future__ import annotations

import argparse
from pathlib import Path

from hwsim.trace import InputError, collect_provenance, trace_writer
from studies.commands.options import add_quiet, parse_schedule, positive_int
from studies.common.output import si
from studies.common.tasks import TaskChoice, add_task, make_chosen_task

HELP = """decode prompts one at a time; write a trace with the precision and the measured time of every step

examples:
  bittaper trace --model path/to/store --schedule p4:4>3@20 --limit 8 --out trace.jsonl
  bittaper trace --model path/to/store --schedule 3 --prompt "Once upon a time" --max-new-tokens 64 --out trace.jsonl
  bittaper simulate --model path/to/store --npu pmpd-4k --trace trace.jsonl
"""

DEFAULT_MAX_NEW_TOKENS = 60


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--model", required=True, help="nested store, model folder, or hub name")
    parser.add_argument(
        "--schedule", required=True, metavar="S", help="a width, a label (p4:4>3@40) or a schedule.json"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="trace file")
    parser.add_argument("--prompt", help="one prompt, instead of a task's")
    add_task(parser)
    parser.add_argument("--split", default="val", help="calib, val (default) or test")
    parser.add_argument("--limit", type=positive_int, metavar="N", default=8, help="the first N prompts (default 8)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Decode, write the trace, print the speed."""
    from tqdm import tqdm

    from accuracy.decoding import Decoder, Prompt
    from accuracy.evaluation import trace_header, trace_sequence
    from accuracy.model import load_model
    from accuracy.schedulers import StaticScheduler

    schedule = parse_schedule(args.schedule)
    lm = load_model(args.model, device=args.device)
    if args.prompt is not None:
        if args.task or args.data:
            raise InputError("--prompt excludes --task and --data: the prompt is the task")
        tokens = tuple(lm.tokenizer(args.prompt)["input_ids"]) if args.prompt.strip() else ()
        prompts = [Prompt("prompt", tokens, args.max_new_tokens or DEFAULT_MAX_NEW_TOKENS)]
        task_name = "prompt"
    else:
        task = make_chosen_task(lm, TaskChoice.of(args))
        prompts = [
            Prompt(example.id, tuple(task.encode(lm.tokenizer, example.prompt)), task.max_new_tokens)
            for example in task.examples(args.split, args.limit)
        ]
        task_name = task.name
    scheduler = StaticScheduler(schedule)
    decoder = Decoder(lm)
    decoder.check(prompts, [scheduler])
    header = trace_header(
        lm,
        task=task_name,
        scheduler=scheduler,
        provenance=collect_provenance(dtype=lm.model.dtype),
    )
    steps = nanoseconds = 0
    with trace_writer(Path(args.out), header) as writer:
        for index, prompt in enumerate(tqdm(prompts, desc="decode", unit="prompt", disable=args.quiet)):
            (response,) = decoder.decode([prompt], scheduler)
            writer.add(trace_sequence(response, index))
            steps += len(response.decode_weight_bits)
            nanoseconds += sum(response.step_ns or ())
            if args.prompt is not None:
                print(response.text)
    print(f"{args.out}: {len(prompts)} responses, {steps} decode steps")
    if steps:
        print(f"measured on {header.device}: {si(nanoseconds / steps / 1e9, 's')} a step")
