"""``bittaper doctor``: what this machine can run and what is missing."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from studies.commands.options import add_json
from studies.common.output import print_json, print_pairs

HELP = """what this machine can run, and what is missing for the rest

examples:
  bittaper doctor
  bittaper doctor --json
"""

# Import name -> (distribution name, what needs it).
_PACKAGES = {
    "simpy": ("simpy", "simulate, explore"),
    "optuna": ("optuna", "explore, study"),
    "matplotlib": ("matplotlib", "study"),
    "torch": ("torch", "quantize, evaluate, trace, study codesign"),
    "transformers": ("transformers", "quantize, evaluate, trace, study codesign"),
    "numba": ("numba", "quantize, study codesign"),
    "safetensors": ("safetensors", "quantize, evaluate, trace, study codesign"),
    "sacrebleu": ("sacrebleu", "evaluate, solve, study codesign"),
    "rouge_score": ("rouge-score", "evaluate, study codesign"),
    "bert_score": ("bert-score", "evaluate --metric bertscore"),
    "datasets": ("datasets", "evaluate with hub tasks"),
    "distributed": ("distributed", "evaluate --workers"),
    "triton": ("triton", "GPU kernels"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_json(parser)


def _gpu() -> str:
    if find_spec("torch") is None:
        return "unknown (torch is not installed)"
    import torch

    if not torch.cuda.is_available():
        return "none (everything runs on the CPU)"
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()} (sm_{major}{minor})"


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def run(args: argparse.Namespace) -> None:
    """Print the findings."""
    machine = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{_memory_gib():.1f} GiB",
        "free disk here": f"{shutil.disk_usage('.').free / 2**30:.1f} GiB",
        "gpu": _gpu(),
    }
    packages: dict[str, str] = {}
    for module, (distribution, needed_by) in _PACKAGES.items():
        try:
            packages[distribution] = version(distribution)
        except PackageNotFoundError:
            packages[distribution] = "missing" if find_spec(module) is None else "present, version unknown"
        if packages[distribution] == "missing":
            packages[distribution] += f" (for {needed_by})"
    if args.json:
        print_json({"machine": machine, "packages": packages})
        return
    print("machine")
    print_pairs(machine)
    print("packages")
    print_pairs(packages)
    missing = [name for name, text in packages.items() if text.startswith("missing")]
    remedy = "pip install 'bittaper[accuracy,cluster,gpu]' brings what is missing"
    print(remedy if missing else "everything is here")
