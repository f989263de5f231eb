"""The main job: quantise, measure a grid of schedules, explore NPU and schedule together, re-measure, report.

Every phase leaves its files in the study's folder and is skipped, or continued, when they are there: the same command
after a kill goes on where it was. ``codesign.json`` holds every number that the figures and the report show.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import yaml

from hwsim.trace import (
    InputError,
    Quality,
    Schedule,
    Trace,
    collect_provenance,
    file_sha256,
    read_text,
    read_trace,
    synthetic_trace,
    write_json,
    write_text,
    write_trace,
)
from studies.codesign.confirm import FULL_PRECISION, Confirmer, choose, uniform_rival
from studies.codesign.grid import schedule_grid
from studies.codesign.inputs import Inputs, Settings, prepare
from studies.common.machine import usable_cores

if TYPE_CHECKING:
    from accuracy.model import LanguageModel
    from accuracy.tasks import Task
    from dse import StudyConfig

CALIBRATION_PROMPTS = 200
WORKLOAD_FILE = "workload.jsonl"


@dataclass
class Clock:
    """Announces phases and keeps their durations."""

    phases: int
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, title: str) -> Iterator[None]:
        """Print the phase's title on standard error and time it."""
        print(f"[{len(self.seconds) + 1}/{self.phases}] {title}", file=sys.stderr, flush=True)
        begin = time.perf_counter()
        yield
        self.seconds[title] = round(time.perf_counter() - begin, 2)


def run_codesign(settings: Settings) -> None:
    """Run the whole path, up to ``report.json``.

    Raises:
        InputError: If model, task or study cannot be used, or the folder holds results of other settings.
    """
    from dse import explore, parse_study
    from hwsim.assumptions import assumed_numbers
    from studies.codesign.plot import write_figures
    from studies.codesign.report import write_codesign_report

    clock = Clock(phases=5)
    out = settings.out
    with clock.phase("check what was given, quantise to a nested store"):
        inputs = prepare(settings)
        lm, task = inputs.lm, inputs.task
    with clock.phase("decode the validation prompts under the grid of schedules"):
        grid = schedule_grid(inputs.widths, response_tokens(lm, task))
        val = measure(settings, inputs, "val", grid, settings.val_prompts)
    with clock.phase("explore NPU and schedule"):
        study = make_study(inputs, settings.out, val)
        found = explore(study, out, progress=settings.progress)
        workload = read_trace(out / WORKLOAD_FILE)
        designs = [{**design, "rival": uniform_rival(study, workload, val, design)} for design in choose(found)]
    with clock.phase("re-measure the chosen points on test prompts"):
        test = measure(settings, inputs, "test", reported_schedules(designs), settings.test_prompts)
        confirmer = Confirmer(study, test, out / "test", settings.seed)
        confirmed = [confirmer.design(design) for design in designs]
    with clock.phase("write tables, figures and the report"):
        write_json(
            out / "codesign.json",
            {
                "model": lm.name,
                "npu": inputs.npu.name,
                "assumed": assumed_numbers(study.npu),
                "weights": lm.shape.linear_weights(),
                "task": {"name": task.name, "version": task.version, "max_new_tokens": task.max_new_tokens},
                "metric": val[0].metric,
                "quality": {"val": quality_rows(val), "test": quality_rows(test)},
                # As in the file beside it, whose paths are relative to this folder.
                "study": parse_study(yaml.safe_load(read_text(out / "study.yaml")), "study.yaml").model_dump(
                    mode="json"
                ),
                "explored": {**asdict(found.counts), "sampler": found.sampler, "exhausted": found.exhausted},
                "front_size": len(found.pareto),
                "chosen": confirmed,
            },
        )
        write_json(out / "manifest.json", _manifest(settings, lm, clock))
        write_figures(out)
        write_codesign_report(out)


def response_tokens(lm: LanguageModel, task: Task) -> int:
    """Typical response length: the median of the calibration references, or the bound where there are none."""
    if not task.has_references:
        return task.max_new_tokens
    references = [example.reference or "" for example in task.examples("calib", CALIBRATION_PROMPTS)]
    lengths = [len(lm.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in references]
    return min(task.max_new_tokens, max(2, int(median(lengths))))


def measure(
    settings: Settings, inputs: Inputs, split: str, schedules: Sequence[Schedule], prompts: int
) -> list[Quality]:
    """Decode a split under ``schedules`` into ``out/SPLIT``: quality, traces, per-prompt results."""
    from accuracy.evaluation import evaluate
    from accuracy.metrics import find_metric

    return evaluate(
        inputs.lm,
        inputs.task,
        schedules,
        split=split,
        out=settings.out / split,
        limit=prompts,
        metrics=[find_metric(name) for name in settings.metrics] or None,
        seed=settings.seed,
        batch_size=settings.batch_size,
        progress=settings.progress,
    )


def workload_trace(trace: Trace) -> Trace:
    """One sequence with the mean prompt and response length of ``trace``: what the exploration simulates."""
    prompt = fmean(sequence.prompt_tokens for sequence in trace.sequences)
    steps = fmean(sequence.decode_steps for sequence in trace.sequences)
    header = trace.header
    if header.schedule is None:
        raise InputError(f"trace of {header.model.name}: has no schedule; the workload needs a uniform one")
    made = synthetic_trace(
        header.model.shape,
        header.schedule,
        prompt_tokens=max(1, round(prompt)),
        decode_tokens=max(1, round(steps)),
        kv_bits=header.kv_bits,
        lm_head_bits=header.lm_head_bits,
        activation_bits=header.activation_bits,
    )
    # Nothing that differs from run to run may stay: the exploration resumes only on an unchanged workload.
    return made.model_copy(update={"header": header.model_copy(update={"device": "none", "provenance": {}})})


def make_study(inputs: Inputs, out: Path, val: Sequence[Quality]) -> StudyConfig:
    """Fill workload and quality into the study file and keep it beside the results as ``study.yaml``.

    The workload has the mean lengths of the validation responses at full precision; the chosen designs are
    simulated again on the very traces of the test prompts.
    """
    from accuracy.evaluation import trace_file_name
    from dse import read_study

    recorded = read_trace(out / "val" / trace_file_name(FULL_PRECISION))
    mean = workload_trace(recorded)
    write_trace(out / WORKLOAD_FILE, mean.header, mean.sequences)
    study = dict(inputs.template)
    study["workloads"] = [{"trace": WORKLOAD_FILE}]
    study["quality"] = "val/quality.json"
    study["quality_metric"] = val[0].metric
    if inputs.supported != inputs.widths:
        labels = [record.schedule for record in val if record.schedule and record.metric == val[0].metric]
        study["schedules"] = [one.label() for one in labels if set(one.widths()) <= set(inputs.supported)]
    write_text(out / "study.yaml", yaml.safe_dump(study, sort_keys=False))
    return read_study(out / "study.yaml")


def quality_rows(records: Sequence[Quality]) -> list[dict[str, Any]]:
    """What figures and tables need of quality records."""
    return [
        {
            "schedule": record.scheduler_label,
            "uniform": record.schedule is not None and len(record.schedule.widths()) == 1,
            "metric": record.metric,
            "mean_decode_bits": record.mean_decode_bits,
            "value": record.value,
            "ci_low": record.ci_low,
            "ci_high": record.ci_high,
            "n": record.n,
        }
        for record in records
    ]


def reported_schedules(designs: Sequence[dict[str, Any]]) -> list[Schedule]:
    """What is measured on test prompts: full precision, the chosen schedules and their rivals."""
    labels = [FULL_PRECISION, *(design[key] for design in designs for key in ("schedule", "rival"))]
    return [Schedule.from_label(label) for label in dict.fromkeys(labels) if label is not None]


def _manifest(settings: Settings, lm: LanguageModel, clock: Clock) -> dict[str, Any]:
    """Everything needed to trace a number of this run back to what made it (design decision 9)."""
    return {
        "schema_version": "1.0",
        "study": "codesign",
        "provenance": collect_provenance(
            settings.out, seed=settings.seed, device=settings.device, cores=usable_cores()
        ),
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()},
        "model_sha256": lm.model_sha256,
        "store_sha256": lm.store_sha256,
        "files_sha256": {
            name: file_sha256(settings.out / name)
            for name in (
                "study.yaml",
                WORKLOAD_FILE,
                "val/quality.json",
                "test/quality.json",
                "trials.csv",
                "pareto.csv",
            )
        },
        "seconds": clock.seconds,
    }
