"""``bittaper study``: run a study by name; each study's folder holds its own command."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import cast

from studies.command import Command
from studies.commands.options import check_writable

STUDIES = {
    "codesign": "quantise a model, measure schedules, explore NPU and schedule together, re-measure on test prompts",
    "paper": "every figure and table of the paper: its value beside ours, the difference and why",
    "pmpd": "the paper's accuracy results on small real models: phases, patterns, schedulers, baselines",
    "decoding-speed": "tokens/s of batched decoding, steps saved by shared prefixes, caches, near-ties",
    "validation": "the simulator against published measurements and other simulators, with every fitted parameter",
    "bandwidth-budget": "the least off-chip bandwidth for a decoding speed at given weight bits; what one bit is worth",
    "simulator-speed": "CPU seconds and memory of the simulator itself, beside what is asked of it",
    "quantization-quality": "perplexity, greedy fidelity and bytes of nested stores beside RTN, GPTQ, dense-and-sparse",
    "cpu-decoding": "decoding on a CPU: the float model, cached weights, weights unpacked at every call",
    "kmeans-comparison": "our k-means beside flash1dkmeans, scikit-learn and the original's pipeline on real rows",
    "gpu-speedups": "the paper's GPU tables re-derived from its kernel latencies, and re-made for a measured device",
    "trace-replay": "measured step times of a GPU or CPU beside the NPU model's over the same steps",
    "large-model": "quantise a generated model block by block: time, memory, and a run that is killed and goes on",
    "architect": "an architect's questions: map, buffers, batch, value and choice of bits, energy, KV cache, co-design",
    "pmpd-bandwidth": "the least bandwidth for a speed at no loss of quality: PMPD against uniform widths",
    "exploration-benchmark": "samplers against the exhaustive front, the exact search, cost of a trial, kill tests",
}

HELP = """a whole study: numbers, figures and a report

every study has its own --help

examples:
  bittaper study codesign
  bittaper study codesign --model path/to/model --data prompts.jsonl --out results/mine
  bittaper study pmpd --model selvic
  bittaper study bandwidth-budget --model phi-1.5 --npu pmpd-4k --target 30 --target 60 --out results/phi
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add a parser for every study; a study's own module is imported for its arguments only."""
    studies = parser.add_subparsers(dest="study", metavar="NAME", required=True)
    for name, summary in STUDIES.items():
        command = _load(name)
        _, _, details = command.HELP.partition("\n\n")
        added = studies.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=details,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.configure(added)
        added.set_defaults(start=command.run)


def run(args: argparse.Namespace) -> None:
    """Run the study, write its page beside the results and say where to look."""
    from studies.common.collection import write_study_page

    if getattr(args, "list", False):
        args.start(args)  # it names what there is, and makes nothing
        return
    check_writable(Path(args.out))
    args.start(args)
    print(f"report   {write_study_page(Path(args.out))}")


def _load(name: str) -> Command:
    return cast("Command", importlib.import_module(f"studies.{name.replace('-', '_')}.command"))
