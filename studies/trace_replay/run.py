"""Read or record traces, replay them, and write tables, provenance and figure; ``plot.py`` draws what this writes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hwsim import load_npu, load_shape
from hwsim.trace import InputError, atomic_writer, collect_provenance, file_sha256, write_json
from studies.common.machine import cpu_model
from studies.common.timing import one_torch_thread
from studies.trace_replay.replay import (
    Replay,
    elasticity_table,
    read_measured,
    replay,
    switches_table,
    widths_table,
)

Tables = dict[str, pd.DataFrame]
CPU_TRACE_FILE = "cpu-trace.jsonl"
# About half of a typical response of the shipped model, so that both widths run.
RECORDED_SCHEDULE = "p4:4>3@24"
RECORDED_PROMPTS = 32


@dataclass(frozen=True)
class Settings:
    """What a run is asked to do.

    Attributes:
        out: Folder of the results.
        traces: Measured traces; without one, a trace of the shipped model is recorded on this machine's CPU.
        npu: Named NPU or file.
        model: A shape simulated in place of the traces' own; labelled so.
        prompts: Of the recorded trace.
        progress: Say what is going on.
    """

    out: Path
    traces: Sequence[Path] = ()
    npu: str = "pmpd-4k"
    model: str | None = None
    prompts: int = RECORDED_PROMPTS
    progress: bool = True


def run_trace_replay(settings: Settings) -> Tables:
    """Replay every trace; returns the tables that were written.

    Raises:
        InputError: If a trace was not measured, cannot run on the NPU, or two have one name.
    """
    from studies.trace_replay.plot import write_figure

    npu = load_npu(settings.npu)
    shape = None if settings.model is None else load_shape(settings.model)
    names = [path.stem for path in settings.traces]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--trace {name}: given twice, or two files of one name; names must differ")
    measured = {path.stem: read_measured(path) for path in settings.traces}
    paths = list(settings.traces)
    if not paths:
        path = settings.out / CPU_TRACE_FILE
        record_cpu_trace(path, settings.prompts, progress=settings.progress)
        paths, measured = [path], {path.stem: read_measured(path)}
    replays = [replay(name, trace, npu, shape) for name, trace in measured.items()]
    switches = switches_table(replays)
    tables = {
        "steps": _all_steps(replays),
        "widths": widths_table(replays),
        "switches": switches,
        "elasticity": elasticity_table(switches),
    }
    for name, table in tables.items():
        with atomic_writer(settings.out / f"{name}.csv") as file:
            table.to_csv(file, index=False, float_format="%.6g")
    write_json(
        settings.out / "manifest.json",
        {
            "schema_version": "1.0",
            "provenance": collect_provenance(settings.out, cpu=cpu_model()),
            "npu": npu.model_dump(mode="json"),
            "traces": [
                {
                    "name": one.name,
                    "file": path.name,
                    "sha256": file_sha256(path),
                    "device": one.device,
                    "model": one.model,
                    "simulated_model": one.simulated_model,
                    "provenance": one.provenance,
                }
                for one, path in zip(replays, paths, strict=True)
            ],
        },
    )
    write_figure(settings.out)
    return tables


def _all_steps(replays: Sequence[Replay]) -> pd.DataFrame:
    tables = []
    for one in replays:
        labels = {
            "trace": one.name,
            "device": one.device,
            "npu": one.npu,
            "model": one.model,
            "simulated_model": one.simulated_model,
        }
        tables.append(one.steps.assign(**labels)[[*labels, *one.steps.columns]])
    return pd.concat(tables, ignore_index=True)


def record_cpu_trace(path: Path, prompts: int, *, progress: bool) -> None:
    """Decode prompts of the shipped model on one thread of this machine's CPU, one at a time."""
    from accuracy.evaluation import record_trace
    from accuracy.model import load_model
    from accuracy.quantization import NestedSettings, quantize
    from accuracy.reference import MODEL_FOLDER
    from studies.commands.options import parse_schedule
    from studies.common.tasks import TaskChoice, make_chosen_task

    store = path.parent / "store"
    if not store.is_dir():
        with warnings.catch_warnings():
            # The model is small and its codebooks dear, which the speed of a CPU does not depend on.
            warnings.simplefilter("ignore", UserWarning)
            quantize(MODEL_FOLDER, store, NestedSettings(max_bits=4), progress=progress)
    lm = load_model(store)
    with one_torch_thread():
        record_trace(
            lm,
            make_chosen_task(lm, TaskChoice()),
            parse_schedule(RECORDED_SCHEDULE),
            path,
            split="val",
            limit=prompts,
            progress=progress,
        )
