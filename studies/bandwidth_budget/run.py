"""Compute the bandwidth budget and the MACs x bandwidth map; ``plot.py`` draws what this writes.

Each answer of a search is kept in ``work/`` as soon as it is there, under the hash of what was asked, of the NPU and
the model, and of the simulator's code: a run that is stopped goes on with what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hwsim
from hwsim import NpuConfig, evaluate_grid, load_npu, load_shape
from hwsim.tables import check_destination
from hwsim.trace import (
    FULL_PRECISION_BITS,
    InputError,
    ModelShape,
    Schedule,
    atomic_writer,
    collect_provenance,
    file_sha256,
    unknown_name,
    write_json,
)
from studies.bandwidth_budget import search
from studies.bandwidth_budget.schedules import paper_schedules
from studies.bandwidth_budget.search import (
    MISS,
    SCALINGS,
    ScalingName,
    Workload,
    bit_values,
    decode_rate,
    decode_rate_by_events,
    least_bandwidth,
    with_bandwidth,
)
from studies.common.journal import Journal

if TYPE_CHECKING:
    import pandas as pd

MAP_MACS = tuple(1 << exponent for exponent in range(6, 17))
MAP_BANDWIDTHS = tuple(1e9 * 2 ** (step / 4) for step in range(41))  # 1 to 1024 GB/s
DIGITS = "%.7g"  # of the tables: enough to reproduce them, and equal on every machine


@dataclass(frozen=True)
class Settings:
    """What a run is asked to do.

    Attributes:
        out: Folder of the results.
        models: Shapes, by name or path.
        npu: NPU whose bandwidth is varied.
        prompt_tokens: Prompt lengths, each a context to decode behind.
        decode_tokens: Decode steps of the response.
        targets_tokens_per_s: Mean decoding speeds asked for; people read 5 to 10 tokens a second.
        weight_bits: Uniform widths.
        schedules: Labels of further schedules; None for those of the paper.
        kv_bits: Bits of a stored key or value.
        lm_head_bits: Bits of an lm_head weight.
        scaling: How memory grows with bandwidth (:func:`with_bandwidth`).
        progress: Show progress bars.
    """

    out: Path
    models: tuple[str, ...] = ("vicuna-7b",)
    npu: str = "pmpd-16k"
    prompt_tokens: tuple[int, ...] = (128, 1024)
    decode_tokens: int = 255
    targets_tokens_per_s: tuple[float, ...] = (5, 10, 20, 50, 200)
    weight_bits: tuple[int, ...] = (2, 3, 4, 8, FULL_PRECISION_BITS)
    schedules: tuple[str, ...] | None = None
    kv_bits: int = 16
    lm_head_bits: int = 16
    scaling: ScalingName = "channels"
    progress: bool = True


@dataclass(frozen=True, slots=True)
class _Case:
    """One model and context under one schedule."""

    model: str
    kind: str
    workload: Workload


def _schedules(settings: Settings, shape: ModelShape) -> Iterator[tuple[str, Schedule]]:
    for bits in sorted(set(settings.weight_bits)):
        yield "uniform", Schedule.from_label(str(bits))
    if settings.schedules is None:
        for schedule in paper_schedules(shape.name, settings.decode_tokens):
            # A schedule that switches at step 0 decodes as its low width does; that one is there already.
            if len(schedule.decode) > 1:
                yield "paper", schedule
    else:
        for label in settings.schedules:
            yield "given", Schedule.from_label(label)


def make_cases(settings: Settings, npu: NpuConfig) -> list[_Case]:
    """List what will be searched; whatever cannot run is refused here.

    Raises:
        InputError: If a value is out of bounds, a sequence too long, a width not supported, or a model too large.
    """
    if settings.scaling not in SCALINGS:
        raise unknown_name("scaling", settings.scaling, SCALINGS)
    for name in ("models", "prompt_tokens", "targets_tokens_per_s", "weight_bits"):
        if not getattr(settings, name):
            raise InputError(f"{name} is empty: must have at least 1")
    for target in settings.targets_tokens_per_s:
        if not 0 < target < float("inf"):
            raise InputError(f"target = {target:g} tokens/s: must be > 0 and finite")
    if settings.decode_tokens < 1:
        raise InputError(f"decode_tokens = {settings.decode_tokens}: must be >= 1")
    cases = []
    for model in settings.models:
        shape = load_shape(model)
        for prompt in settings.prompt_tokens:
            if prompt < 1 or prompt + settings.decode_tokens > shape.max_context:
                raise InputError(
                    f"prompt_tokens = {prompt} with {settings.decode_tokens} decode steps: {shape.name} holds "
                    f"1..{shape.max_context} tokens"
                )
            for kind, schedule in _schedules(settings, shape):
                workload = Workload(
                    shape, schedule, prompt, settings.decode_tokens, settings.kv_bits, settings.lm_head_bits
                )
                decode_rate(npu, workload)
                cases.append(_Case(shape.name, kind, workload))
    return cases


def budget_row(
    npu: NpuConfig, case: _Case, target: float, scaling: ScalingName, *, by_events: bool = True
) -> dict[str, Any]:
    """Search one answer; ``by_events``: check it by the event engine, there and 1% below."""
    workload = case.workload
    answer = least_bandwidth(npu, workload, target, scaling)
    row: dict[str, Any] = {
        "model": case.model,
        "prompt_tokens": workload.prompt_tokens,
        "kind": case.kind,
        "schedule": workload.schedule.label(),
        "mean_decode_bits": workload.schedule.mean_bits(workload.decode_tokens),
        "target_tokens_per_s": target,
        "bandwidth_bytes_per_s": answer.bandwidth_bytes_per_s,
        "channels": answer.channels,
        "tokens_per_s": answer.tokens_per_s,
        "limited_by": answer.limited_by,
        "events_tokens_per_s": None,
        "events_tokens_per_s_1pct_below": None,
    }
    if by_events and answer.bandwidth_bytes_per_s is not None:
        for name, share in (("events_tokens_per_s", 1.0), ("events_tokens_per_s_1pct_below", MISS)):
            point = with_bandwidth(npu, share * answer.bandwidth_bytes_per_s, scaling)
            row[name] = decode_rate_by_events(point, workload)
        assert row["events_tokens_per_s"] >= target > row["events_tokens_per_s_1pct_below"], f"engines differ: {row}"
    return row


def simulator_sha256() -> dict[str, str]:
    """Hashes of the code that a row comes from, by file."""
    package = Path(hwsim.__file__).parent
    files = {str(file.relative_to(package)): file for file in sorted(package.rglob("*.py"))}
    files |= {module: Path(file) for module, file in (("search", search.__file__), ("run", __file__))}
    return {name: file_sha256(file) for name, file in files.items()}


def budget_table(
    settings: Settings,
    npu: NpuConfig,
    cases: Sequence[_Case],
    *,
    by_events: bool = True,
    journal: Journal | None = None,
) -> pd.DataFrame:
    """One row per model, context, schedule and target.

    Args:
        settings: Give the targets and how memory grows.
        npu: Whose bandwidth is varied.
        cases: Of :func:`make_cases`.
        by_events: As for :func:`budget_row`.
        journal: Keeps each row as soon as it is there, and gives those that it has.
    """
    import pandas as pd
    from tqdm import tqdm

    jobs = [(case, target) for case in cases for target in sorted(set(settings.targets_tokens_per_s))]
    bar = tqdm(jobs, desc="least bandwidth", unit="search", disable=not settings.progress)
    code = simulator_sha256() if journal else {}

    def row(case: _Case, target: float) -> dict[str, Any]:
        find = partial(budget_row, npu, case, target, settings.scaling, by_events=by_events)
        if journal is None:
            return find()
        workload = asdict(case.workload) | {
            "shape": case.workload.shape.model_dump(mode="json"),
            "schedule": case.workload.schedule.label(),
        }
        asked = [npu.model_dump(mode="json"), case.model, case.kind, workload, target, settings.scaling, by_events]
        found: dict[str, Any] = journal.get_or([*asked, code], find)
        return found

    table = pd.DataFrame([row(case, target) for case, target in bar])
    return table.astype({"channels": "Int64"})


def bit_value_table(budget: pd.DataFrame) -> pd.DataFrame:
    """What one weight bit costs in bandwidth, between neighbouring uniform widths that reach the target."""
    import pandas as pd

    rows = []
    uniform = budget[budget["kind"] == "uniform"]
    for (model, prompt, target), group in uniform.groupby(
        ["model", "prompt_tokens", "target_tokens_per_s"], sort=False
    ):
        bandwidths = [None if pd.isna(value) else value for value in group["bandwidth_bytes_per_s"]]
        widths = [int(bits) for bits in group["mean_decode_bits"]]
        rows += [
            {
                "model": model,
                "prompt_tokens": prompt,
                "target_tokens_per_s": target,
                "from_bits": low,
                "to_bits": high,
                "bytes_per_s_per_bit": value,
            }
            for low, high, value in bit_values(widths, bandwidths)
        ]
    return pd.DataFrame(rows)


def map_table(
    settings: Settings,
    model: str,
    schedule: Schedule,
    sizes: Sequence[int] = MAP_MACS,
    ladder: Sequence[float] = MAP_BANDWIDTHS,
) -> pd.DataFrame:
    """Speed over MACs and bandwidth, and how much of more bandwidth turns into speed.

    ``decode_elasticity`` is d ln(tokens/s) / d ln(bandwidth): 1 where memory alone decides, 0 where it does not
    matter; ``prefill_elasticity`` the same of the prefill's speed.

    Args:
        settings: Give the NPU and the run.
        model: A shape, by name or path.
        schedule: What is decoded with.
        sizes: MACs, powers of two.
        ladder: Bandwidths in bytes/s, ascending.
    """
    import numpy as np
    import pandas as pd

    sized = [load_npu(settings.npu, {"matrix.macs": macs}) for macs in sizes]
    grid = evaluate_grid(
        [with_bandwidth(npu, bandwidth, settings.scaling) for npu in sized for bandwidth in ladder],
        load_shape(model),
        [schedule],
        prompt_tokens=settings.prompt_tokens[0],
        decode_tokens=settings.decode_tokens,
        kv_bits=settings.kv_bits,
        lm_head_bits=settings.lm_head_bits,
    )
    size = len(sizes), len(ladder)
    decode = grid.decode_tokens_per_s[:, 0].reshape(size)
    prefill_s = grid.prefill_s[:, 0].reshape(size)
    log_bandwidth = np.log(ladder)
    macs, bandwidths = np.meshgrid(sizes, ladder, indexing="ij")
    columns = {
        "macs": macs,
        "bandwidth_bytes_per_s": bandwidths,
        "decode_tokens_per_s": decode,
        "prefill_s": prefill_s,
        "decode_elasticity": np.gradient(np.log(decode), log_bandwidth, axis=1),
        "prefill_elasticity": np.gradient(-np.log(prefill_s), log_bandwidth, axis=1),
    }
    return pd.DataFrame({name: values.ravel() for name, values in columns.items()})


def map_schedule(settings: Settings, cases: Sequence[_Case]) -> Schedule:
    """What the map decodes with: the first schedule that is not uniform, else the narrowest width."""
    workloads = [case.workload for case in cases if case.model == load_shape(settings.models[0]).name]
    mixed = [workload.schedule for workload in workloads if len(workload.schedule.decode) > 1]
    return mixed[0] if mixed else workloads[0].schedule


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table atomically, floats with ``DIGITS``."""
    with atomic_writer(path) as file:
        table.to_csv(file, index=False, float_format=DIGITS)


def run_bandwidth_budget(settings: Settings) -> dict[str, pd.DataFrame]:
    """Compute everything, write it below ``settings.out`` and draw the figures; returns the tables by name.

    Raises:
        InputError: If something asked for cannot run.
    """
    from studies.bandwidth_budget.plot import write_figures

    check_destination(settings.out, "csv")
    npu = load_npu(settings.npu)
    cases = make_cases(settings, npu)
    budget = budget_table(settings, npu, cases, journal=Journal(settings.out / "work"))
    schedule = map_schedule(settings, cases)
    tables = {
        "budget": budget,
        "bit_value": bit_value_table(budget),
        "map": map_table(settings, settings.models[0], schedule),
    }
    for name, table in tables.items():
        write_csv(settings.out / f"{name}.csv", table)
    asked = {key: value for key, value in asdict(settings).items() if key not in {"out", "progress"}}
    numbers = {
        "schema_version": "1.0",
        "settings": asked | {"map_schedule": schedule.label()},
        **{name: json.loads(tables[name].to_json(orient="records")) for name in ("budget", "bit_value")},
    }
    write_json(settings.out / "bandwidth_budget.json", numbers)
    write_json(
        settings.out / "manifest.json",
        {"provenance": collect_provenance(settings.out), "npu": npu.model_dump(mode="json")},
    )
    write_figures(settings.out)
    return tables
