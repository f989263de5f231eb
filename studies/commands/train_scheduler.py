"""``bittaper train-scheduler``: train a learned scheduler for a store."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim.trace import SWITCH_POINTS, InputError, read_json, read_text
from studies.commands.options import add_json, add_quiet, non_negative_int, parse_widths, positive_int
from studies.common.decoding import add_device, load_chosen_model
from studies.common.output import format_table, print_json, si
from studies.common.tasks import TaskChoice, add_task, make_chosen_task

if TYPE_CHECKING:
    from accuracy.decoding import Prompt
    from accuracy.model import LanguageModel
    from accuracy.scheduler_training.train import TrainingSettings

HELP = """train a scheduler that chooses a precision schedule for each prompt from its prefill

Every training prompt is decoded under every candidate schedule; its label is the one of fewest bits whose Rouge-L
against the full-precision output is no lower than that of the highest width. --model is a nested store that keeps its
full precision. --out holds scheduler.safetensors, labels, curve.csv and report.json; a run that was stopped goes on
where it was, given the same options.

Train on text of another kind than what you report. Choose --max-new-tokens near the length of a typical response: the
candidates switch at fractions of it, and those after the end of a response differ in nothing.

training text (one of):
  nothing              the shipped model's generator, domain harbour
  --text FILE          texts cut at random to completion tasks: .jsonl with a field text, .json list, or plain text
  --tatoeba ZIP        French sentences of fra-eng.zip (manythings.org/anki), joined to paragraphs
  --self-completion    beginnings that the model samples itself
  --task NAME, --data  the calib split of a task

examples:
  bittaper train-scheduler --model path/to/store --widths 3,2 --out results/scheduler
  bittaper train-scheduler --model path/to/store --text c4.jsonl --max-new-tokens 256 --out results/scheduler
  bittaper train-scheduler --model path/to/store --tatoeba fra-eng.zip --leave-out test.jsonl --max-new-tokens 61 \\
      --prompts 1000 --held-out 500 --out results/scheduler
  bittaper train-scheduler --model path/to/store --labels results/labels --all-inputs --out results/kv-last
  bittaper train-scheduler --model path/to/store --labels results/labels --input activations \\
      --block first --positions --tune 30 --out results/activations-first
"""

COMPLETION_NEW_TOKENS, SELF_COMPLETION_NEW_TOKENS = 256, 128
TIMED_PROMPTS = 16
SETTINGS = ("epochs", "patience", "learning_rate", "weight_decay", "dropout", "hidden_size", "batch_prompts")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments; training settings that are not given have the defaults of TrainingSettings."""
    parser.add_argument("--model", required=True, help="nested store of the model to schedule")
    parser.add_argument("--out", required=True, help="folder of the training")
    parser.add_argument(
        "--widths", type=parse_widths, default=(4, 3), metavar="B,B", help="precision set, as 4,3,2 (default 4,3)"
    )
    parser.add_argument(
        "--prefill-weight-bits", type=positive_int, metavar="B", help="width of the prefill (default: the highest)"
    )
    parser.add_argument(
        "--points", type=positive_int, default=SWITCH_POINTS, metavar="N", help="candidate switch points (4)"
    )
    add_device(parser)
    parser.set_defaults(workers=None)
    add_quiet(parser)
    add_json(parser)
    text = parser.add_argument_group("training text")
    source = text.add_mutually_exclusive_group()
    source.add_argument("--text", metavar="FILE", help="texts to cut completion prompts from")
    source.add_argument("--tatoeba", metavar="ZIP", help="fra-eng.zip; with --sentences and --template")
    source.add_argument("--self-completion", action="store_true", help="beginnings sampled from the model")
    text.add_argument("--sentences", type=positive_int, nargs=2, metavar=("MIN", "MAX"), help="of Tatoeba (1 6)")
    text.add_argument(
        "--leave-out",
        action="append",
        default=[],
        metavar="FILE",
        help="text, .json or .jsonl with prompts that will be reported and must not be trained on; may be repeated",
    )
    text.add_argument("--prompts", type=positive_int, default=256, metavar="N", help="to train on (256)")
    text.add_argument("--held-out", type=non_negative_int, default=100, metavar="N", help="more, to compare on (100)")
    add_task(parser)
    labels = parser.add_argument_group("labels")
    labels.add_argument("--labels", metavar="FOLDER", help="where they are kept (default: labels in --out)")
    labels.add_argument(
        "--label-rule",
        choices=("high-precision", "full-precision"),
        default="high-precision",
        help="good enough is: as good as the highest width (default), or the full-precision words themselves",
    )
    labels.add_argument("--all-inputs", action="store_true", help="record every input, for other trainings on --labels")
    labels.add_argument(
        "--batch-size", type=positive_int, default=32, metavar="N", help="prompts decoded together (32)"
    )
    network = parser.add_argument_group("network and training")
    network.add_argument("--input", choices=("kv", "activations"), default="kv", help="what it reads (kv)")
    network.add_argument("--block", choices=("first", "middle", "last"), default="last", help="of which block (last)")
    network.add_argument("--positions", action="store_true", help="tell it where in the prompt each token stands")
    network.add_argument("--hidden-size", type=positive_int, metavar="H", help="of the MLP (default: as its input)")
    network.add_argument("--epochs", type=positive_int, metavar="N", help="at most")
    network.add_argument("--patience", type=positive_int, metavar="N", help="epochs without progress before the end")
    network.add_argument("--learning-rate", type=float, metavar="X", help="of AdamW")
    network.add_argument("--weight-decay", type=float, metavar="X", help="of AdamW")
    network.add_argument("--dropout", type=float, metavar="X", help="before the last layer")
    network.add_argument("--batch-prompts", type=positive_int, metavar="N", help="prompts a training step")
    network.add_argument("--class-weights", action="store_true", help="weigh rare labels more")
    network.add_argument("--seeds", type=positive_int, default=3, metavar="N", help="networks; the best is kept (3)")
    network.add_argument("--tune", type=non_negative_int, default=0, metavar="TRIALS", help="settings to try first (0)")


def run(args: argparse.Namespace) -> None:
    """Label, train, compare and print."""
    from accuracy.scheduler_training.features import ALL_INPUTS, FeatureInput
    from accuracy.scheduler_training.labels import check_candidates, collect_labels
    from accuracy.scheduler_training.run import train_scheduler
    from accuracy.schedulers import CandidateSet

    _kind(args)
    candidates = check_candidates(CandidateSet.of(args.widths, args.points, args.prefill_weight_bits))
    settings = _settings(args)
    chosen = FeatureInput(args.input, args.block)
    lm = load_chosen_model(args)
    prompts, training_text = _prompts(args, lm)
    folder = Path(args.out)
    labelled = collect_labels(
        lm,
        prompts,
        candidates,
        Path(args.labels) if args.labels else folder / "labels",
        inputs=ALL_INPUTS if args.all_inputs else (chosen,),
        batch_size=args.batch_size,
        progress=not args.quiet,
    )
    report = train_scheduler(
        labelled,
        folder,
        training_text=training_text,
        held_out=args.held_out,
        chosen=chosen,
        positions=args.positions,
        rule=args.label_rule,
        settings=settings,
        seeds=args.seeds,
        tuning_trials=args.tune,
        timed=(lm, prompts[-TIMED_PROMPTS:]),
        progress=not args.quiet,
    )
    if args.json:
        print_json(report)
    else:
        _print(report, args.out)


def _settings(args: argparse.Namespace) -> TrainingSettings:
    from accuracy.scheduler_training.train import TrainingSettings

    given = {name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None}
    return TrainingSettings(**given, class_weights=args.class_weights)


def _kind(args: argparse.Namespace) -> str | None:
    """The kind of training text that is named, None for a task's.

    Raises:
        InputError: If an option of another kind is given too.
    """
    kind = next((name for name in ("text", "tatoeba", "self_completion") if getattr(args, name)), None)
    for option, fits in (
        ("task", kind is None),
        ("data", kind is None),
        ("prompt_field", kind is None),
        ("reference_field", kind is None),
        ("template", kind in (None, "tatoeba")),
        ("sentences", kind == "tatoeba"),
    ):
        if not fits and getattr(args, option) is not None:
            where = f"--{kind.replace('_', '-')}" if kind else "a training text other than --tatoeba"
            raise InputError(f"--{option.replace('_', '-')}: does not go with {where}; leave it out")
    return kind


def _prompts(args: argparse.Namespace, lm: LanguageModel) -> tuple[list[Prompt], str]:
    """The prompts, those to train on first, and what they are made of.

    Raises:
        InputError: If the text gives too few prompts, or a file cannot be used.
    """
    from accuracy.reference import SCHEDULER_DOMAIN, TASK_NAME
    from accuracy.scheduler_training import training_texts as texts

    kind = _kind(args)
    count = args.prompts + args.held_out
    bound = args.max_new_tokens
    reported = [text for path in args.leave_out for text in _texts_of(path)]
    if kind == "text":
        bound = bound or COMPLETION_NEW_TOKENS
        return (
            texts.completion_prompts(lm, args.text, count, max_new_tokens=bound, reported=reported),
            f"completions of {Path(args.text).name}",
        )
    if kind == "tatoeba":
        options: dict[str, Any] = {} if args.template is None else {"template": args.template}
        low, high = args.sentences or (1, 6)
        prompts = texts.tatoeba_prompts(
            lm,
            args.tatoeba,
            count,
            max_new_tokens=bound or texts.SHIPPED_NEW_TOKENS,
            sentences=(low, high),
            reported=reported,
            **options,
        )
        return prompts, f"Tatoeba, {low} to {high} French sentences"
    if kind == "self_completion":
        bound = bound or SELF_COMPLETION_NEW_TOKENS
        prompts = texts.self_completion_prompts(lm, count, max_new_tokens=bound, reported=reported)
        return prompts, f"beginnings sampled by the model at temperature 1, seed {texts.SELF_COMPLETION_SEED}"
    if args.task is None and args.data is None:
        bound = bound or texts.SHIPPED_NEW_TOKENS
        prompts = texts.shipped_prompts(lm, count, max_new_tokens=bound, reported=reported)
        return prompts, f"{TASK_NAME}, domain {SCHEDULER_DOMAIN}"
    task = make_chosen_task(lm, TaskChoice.of(args))
    return texts.task_prompts(lm, task, count, reported=reported), f"calib split of task {task.name} {task.version}"


def _texts_of(path: str) -> Iterator[str]:
    """Every text in a file: the strings of a JSON value or of JSON Lines, or the lines of anything else."""
    if path.endswith(".json"):
        yield from _strings(read_json(path))
    for number, line in enumerate([] if path.endswith(".json") else read_text(path).splitlines(), start=1):
        if not path.endswith(".jsonl"):
            yield line
        elif line.strip():
            try:
                yield from _strings(json.loads(line))
            except json.JSONDecodeError as error:
                raise InputError(f"--leave-out {path}:{number}: not JSON ({error.msg})") from None


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


def _print(report: dict[str, Any], out: str) -> None:
    counts = report["label_counts"]
    rows = [
        [label, *(str(counts[part][index]) for part in ("training", "validation", "held_out"))]
        for index, label in enumerate(report["classes"])
    ]
    print(format_table(["label", "training", "validation", "held out"], rows))
    loss = report["over_seeds"]["validation_loss"]
    print(
        f"\nvalidation loss {loss['mean']:.4f} (mean of {len(report['seeds'])} seeds, {loss['lowest']:.4f} to "
        f"{loss['highest']:.4f}); kept seed {report['kept_seed']}"
    )
    if report["comparison"] is not None:
        _print_comparison(report["comparison"])
    cost = report["cost"]
    print(
        f"\nits own cost: {cost['parameters']} parameters, {si(cost['parameter_bytes'] + cost['feature_bytes'], 'B')} "
        f"read, {si(cost['plan_ns'] / 1e9, 's')} a prompt beside {si(cost['prefill_ns'] / 1e9, 's')} of prefill "
        f"({cost['share']:.1%}; median of {cost['prompts']} prompts, {cost['repeats']} times each)"
    )
    print(f"the scheduler and report.json are in {out}")


def _print_comparison(comparison: dict[str, Any]) -> None:
    columns = ("accuracy", "score", "mean_bits", "over_static_mix")
    rows = [
        [policy["policy"], *(f"{policy[column]['value']:.3f}" for column in columns)]
        for policy in comparison["policies"]
    ]
    print()
    print(format_table(["choice", "accuracy", "Rouge-L", "mean bits", "over the mix"], rows))
    print(f"n = {comparison['n']} held-out prompts; Rouge-L against full precision; the mix is the best random one of")
    print("two classes at the same mean bits")
    for finding in comparison["findings"]:
        print(f"- {finding}")
