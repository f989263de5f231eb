"""``bittaper study``: run a study by name."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from studies.commands.options import add_quiet, non_negative_int, positive_int
from studies.common.tasks import TaskChoice, add_task

HELP = """a whole study: numbers, figures and a report

codesign    quantise a model, measure schedules, explore NPU and schedule together, re-measure on test prompts
validation  the simulator against published measurements and other simulators, with every fitted parameter
bandwidth-budget
            the least off-chip bandwidth for a decoding speed at given weight bits, and what one bit is worth
simulator-speed
            CPU seconds and memory of the simulator itself, beside what is asked of it
quantization-quality
            perplexity, greedy fidelity and bytes of nested stores beside RTN, GPTQ and dense-and-sparse, 2..8 bits
cpu-decoding
            speed and memory of decoding on a CPU: the float model, cached weights, weights unpacked at every call
kmeans-comparison
            our k-means beside flash1dkmeans, scikit-learn and the original's pipeline: error and time on real rows
large-model quantise a generated model block by block: time, memory, and a run that is killed and goes on

examples:
  bittaper study codesign
  bittaper study codesign --model path/to/model --data prompts.jsonl --out results/mine
  bittaper study codesign --npu my-npu.yaml --budget 1000
  bittaper study validation
  bittaper study bandwidth-budget
  bittaper study bandwidth-budget --model phi-1.5 --npu pmpd-4k --target 30 --target 60 --out results/phi
"""

_BUDGET_EXAMPLES = """\
An option that may be repeated replaces its whole default.

examples:
  bittaper study bandwidth-budget
  bittaper study bandwidth-budget --model all --prompt-tokens 512 --out results/six-models
  bittaper study bandwidth-budget --model phi-1.5 --npu pmpd-4k --target 30 --target 60 --schedule p4:4>3@40
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    studies = parser.add_subparsers(dest="study", metavar="NAME", required=True)
    _add_codesign(studies)
    _add_validation(studies)
    _add_bandwidth_budget(studies)
    _add_simulator_speed(studies)
    _add_quantization_quality(studies)
    _add_cpu_decoding(studies)
    _add_kmeans_comparison(studies)
    _add_large_model(studies)


def _add_large_model(studies: Any) -> None:
    large = studies.add_parser("large-model", help="time and memory of quantising a large model, one run killed")
    large.add_argument(
        "--out", default="results/large-model", help="folder of the results (default results/large-model)"
    )
    large.add_argument(
        "--blocks", type=positive_int, default=4, help="blocks of Llama-2-7B's size; 4 is 1.07B parameters (default)"
    )
    large.add_argument("--texts", type=positive_int, default=4, help="calibration texts (default 4)")
    large.add_argument("--max-tokens", type=positive_int, default=128, help="tokens of each (default 128)")
    add_quiet(large)
    large.set_defaults(start=_run_large_model)


def _run_large_model(args: argparse.Namespace) -> None:
    from studies.large_model.model import RandomLlama
    from studies.large_model.report import print_table
    from studies.large_model.run import Settings, run_large_model

    dimensions = RandomLlama(num_hidden_layers=args.blocks)
    out = Path(args.out)
    rows = run_large_model(Settings(out, dimensions, args.texts, args.max_tokens, progress=not args.quiet))
    print_table(rows)
    print(f"table {out / 'processes.csv'}; figure {out / 'memory.png'}")


def run(args: argparse.Namespace) -> None:
    """Run the study and say where to look."""
    args.start(args)


def _add_codesign(studies: Any) -> None:
    codesign = studies.add_parser(
        "codesign",
        help="the main job: from a model to a Pareto front of NPU and schedule",
        epilog=HELP.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    codesign.add_argument("--out", default="results/codesign", help="folder of the results (default results/codesign)")
    codesign.add_argument("--model", help="model folder or hub name (default: the shipped model)")
    add_task(codesign)
    codesign.add_argument("--npu", help="NPU to start from: a name or a YAML file (default pmpd-4k)")
    codesign.add_argument("--budget", type=positive_int, help="designs to simulate (default 300)")
    codesign.add_argument("--val-prompts", type=positive_int, default=128, help="validation prompts (default 128)")
    codesign.add_argument("--test-prompts", type=positive_int, default=320, help="test prompts (default 320)")
    codesign.add_argument("--batch-size", type=positive_int, default=64, help="prompts decoded together (default 64)")
    codesign.add_argument("--seed", type=non_negative_int, default=0, help="of bootstrap and exploration (default 0)")
    add_quiet(codesign)
    codesign.set_defaults(start=_run_codesign)


def _run_codesign(args: argparse.Namespace) -> None:
    from studies.codesign.run import Settings, run_codesign

    out = Path(args.out)
    report = run_codesign(
        Settings(
            out=out,
            model=args.model,
            task=TaskChoice.of(args),
            npu=args.npu,
            budget=args.budget,
            val_prompts=args.val_prompts,
            test_prompts=args.test_prompts,
            batch_size=args.batch_size,
            seed=args.seed,
            progress=not args.quiet,
        )
    )
    print(f"report   {report}")
    print(f"figures  {', '.join(str(path) for path in sorted(out.glob('*.png')))}")
    print(
        f"tables   {out / 'trials.csv'}, {out / 'pareto.csv'}; numbers and provenance in codesign.json, manifest.json"
    )


def _add_validation(studies: Any) -> None:
    validation = studies.add_parser("validation", help="the simulator against published numbers, in one table")
    validation.add_argument(
        "--out", default="results/validation", help="folder of the results (default results/validation)"
    )
    add_quiet(validation)
    validation.set_defaults(start=_run_validation)


def _run_validation(args: argparse.Namespace) -> None:
    from studies.validation.report import print_summary
    from studies.validation.run import run_validation

    out = Path(args.out)
    print_summary(run_validation(out, progress=not args.quiet))
    print(f"tables   {out / 'validation.csv'}, {out / 'fitted.csv'}, one of details for each check")
    print(f"figures  {', '.join(str(path) for path in sorted(out.glob('*.png')))}")


def _add_bandwidth_budget(studies: Any) -> None:
    budget = studies.add_parser(
        "bandwidth-budget",
        help="the least off-chip bandwidth for a decoding speed, by weight bits",
        epilog=_BUDGET_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    budget.add_argument(
        "--out", default="results/bandwidth-budget", help="folder of the results (default results/bandwidth-budget)"
    )
    budget.add_argument(
        "--model", action="append", metavar="M", help="a shape, or all: the named six (default vicuna-7b); repeatable"
    )
    budget.add_argument("--npu", default="pmpd-16k", help="NPU whose bandwidth is varied (default pmpd-16k)")
    budget.add_argument(
        "--prompt-tokens", action="append", type=positive_int, metavar="P", help="(default 128 and 1024); repeatable"
    )
    budget.add_argument("--decode-tokens", type=positive_int, default=255, metavar="S", help="(default 255)")
    budget.add_argument(
        "--target", action="append", type=float, metavar="X", help="tokens/s (default 5, 10, 20, 50, 200); repeatable"
    )
    budget.add_argument(
        "--weight-bits", action="append", type=positive_int, metavar="B", help="(default 2, 3, 4, 8, 16); repeatable"
    )
    budget.add_argument(
        "--schedule",
        action="append",
        metavar="S",
        help="label of a schedule that switches (default: the static ones of the paper); repeatable",
    )
    budget.add_argument("--kv-bits", type=positive_int, default=16, help="bits of a stored key or value (default 16)")
    budget.add_argument("--lm-head-bits", type=positive_int, default=16, help="bits of an lm_head weight (default 16)")
    budget.add_argument(
        "--scaling",
        default="channels",
        choices=["channels", "rate"],
        help="more bandwidth by more channels of the same speed grade (default), or by faster pins",
    )
    add_quiet(budget)
    budget.set_defaults(start=_run_bandwidth_budget)


def _run_bandwidth_budget(args: argparse.Namespace) -> None:
    from hwsim import SHAPE_NAMES
    from studies.bandwidth_budget.report import print_tables
    from studies.bandwidth_budget.run import Settings, run_bandwidth_budget

    given = {
        "models": SHAPE_NAMES if args.model == ["all"] else args.model,
        "prompt_tokens": args.prompt_tokens,
        "targets_tokens_per_s": args.target,
        "weight_bits": args.weight_bits,
        "schedules": args.schedule,
    }
    settings = Settings(
        out=Path(args.out),
        npu=args.npu,
        decode_tokens=args.decode_tokens,
        kv_bits=args.kv_bits,
        lm_head_bits=args.lm_head_bits,
        scaling=args.scaling,
        progress=not args.quiet,
        **{name: tuple(values) for name, values in given.items() if values is not None},
    )
    print_tables(run_bandwidth_budget(settings))
    print(f"figures  {', '.join(str(path) for path in sorted(settings.out.glob('*.png')))}")
    names = ", ".join(str(settings.out / f"{name}.csv") for name in ("budget", "bit_value", "map"))
    print(f"tables   {names}; all numbers in bandwidth_budget.json, provenance in manifest.json")


def _add_simulator_speed(studies: Any) -> None:
    speed = studies.add_parser("simulator-speed", help="how fast the simulator itself is, on this machine")
    speed.add_argument(
        "--out", default="results/simulator-speed", help="folder of the results (default results/simulator-speed)"
    )
    speed.add_argument("--repeats", type=positive_int, default=7, help="fresh processes a measurement (default 7)")
    add_quiet(speed)
    speed.set_defaults(start=_run_simulator_speed)


def _run_simulator_speed(args: argparse.Namespace) -> None:
    from studies.simulator_speed.run import Settings, run_simulator_speed

    out = Path(args.out)
    for goal in run_simulator_speed(Settings(out, args.repeats, progress=not args.quiet)):
        verdict = "met" if goal["met"] else "MISSED"
        bound = f"{goal['relation']} {goal['bound']:g} {goal['unit']}"
        print(f"{verdict:<7} {goal['what']}: {goal['median']:.4g} ({bound})")
    print(f"tables  {out / 'summary.csv'}, {out / 'repeats.csv'}; figure {out / 'goals.png'}")


def _add_quantization_quality(studies: Any) -> None:
    quality = studies.add_parser(
        "quantization-quality", help="perplexity, fidelity and bytes of every quantiser at 2..8 bits"
    )
    quality.add_argument(
        "--out",
        default="results/quantization-quality",
        help="folder of the results (default results/quantization-quality); a run that was stopped goes on in it",
    )
    quality.add_argument("--quick", action="store_true", help="a few stores and texts of the shipped model only")
    add_quiet(quality)
    quality.set_defaults(start=_run_quantization_quality)


def _run_quantization_quality(args: argparse.Namespace) -> None:
    from studies.quantization_quality.report import print_summary
    from studies.quantization_quality.run import Settings, run_quantization_quality

    out = Path(args.out)
    print_summary(run_quantization_quality(Settings(out, quick=args.quick, progress=not args.quiet)))
    print(f"tables   {', '.join(str(out / f'{name}.csv') for name in ('quality', 'bytes', 'nested_store'))}")
    print(f"figures  {', '.join(str(path) for path in sorted(out.glob('*.png')))}")


def _add_cpu_decoding(studies: Any) -> None:
    decoding = studies.add_parser(
        "cpu-decoding", help="decoding on a CPU: cached or unpacked weights, speed and memory"
    )
    decoding.add_argument(
        "--out", default="results/cpu-decoding", help="folder of the results (default results/cpu-decoding)"
    )
    decoding.add_argument("--repeats", type=positive_int, default=5, help="turns of every mode (default 5)")
    add_quiet(decoding)
    decoding.set_defaults(start=_run_cpu_decoding)


def _run_cpu_decoding(args: argparse.Namespace) -> None:
    from studies.common.output import format_table
    from studies.cpu_decoding.run import Settings, run_cpu_decoding, slower_widths

    out = Path(args.out)
    summary = run_cpu_decoding(Settings(out, repeats=args.repeats, progress=not args.quiet))
    rows = [
        [
            f"{row.model}: {row.mode}",
            str(row.weight_bits),
            f"{row.tokens_per_cpu_s_median:.3g}",
            f"{row.ratio_median:.3f}",
            f"{row.ratio_p20:.3f}..{row.ratio_p80:.3f}",
        ]
        for row in summary.itertuples()
    ]
    print(format_table(["mode", "bits", "tokens per CPU s", "to float32", "20..80%"], rows))
    slower = slower_widths(summary)
    verdict = "MISSED at " + ", ".join(f"{row.model} {row.weight_bits}" for row in slower.itertuples())
    print(f"cached weights not slower than the float model: {'met at every width' if slower.empty else verdict}")
    print(
        f"tables  {out / 'summary.csv'}, {out / 'speed.csv'}, {out / 'memory.csv'}; figure {out / 'cpu_decoding.png'}"
    )


def _add_kmeans_comparison(studies: Any) -> None:
    comparison = studies.add_parser(
        "kmeans-comparison", help="our k-means beside flash1dkmeans and scikit-learn: error and time on real rows"
    )
    comparison.add_argument(
        "--out", default="results/kmeans-comparison", help="folder of the results (default results/kmeans-comparison)"
    )
    comparison.add_argument("--rows", type=positive_int, default=2000, help="rows of real weights (default 2000)")
    comparison.add_argument("--repeats", type=positive_int, default=5, help="timed repeats (default 5)")
    add_quiet(comparison)
    comparison.set_defaults(start=_run_kmeans_comparison)


def _run_kmeans_comparison(args: argparse.Namespace) -> None:
    from studies.kmeans_comparison.report import print_tables
    from studies.kmeans_comparison.run import Settings, run_kmeans_comparison

    out = Path(args.out)
    print_tables(run_kmeans_comparison(Settings(out, args.rows, args.repeats, progress=not args.quiet)))
    print(f"tables  {', '.join(str(out / f'{name}.csv') for name in ('seed', 'nested', 'times'))}")
    print(f"figure  {out / 'kmeans_comparison.png'}")
