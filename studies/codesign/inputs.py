"""What a co-design run is given (model, task, metric, NPU, widths, exploration), checked before anything long runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hwsim.trace import FULL_PRECISION_BITS, MAX_PLANES, InputError, read_text, write_text
from studies.common.tasks import TaskChoice, make_chosen_task

if TYPE_CHECKING:
    import torch

    from accuracy.model import LanguageModel
    from accuracy.tasks import Task
    from hwsim import NpuConfig

STUDY_FILE = Path(__file__).parent / "study.yaml"
NPU_FILE = "npu.yaml"
BANDWIDTH = "memory.bandwidth_bytes_per_s"
MIN_PROMPTS = 8
"""Fewest prompts of a split; an interval over fewer says nothing."""

# What the run itself fills into the exploration, or does not follow.
_FILLED = ("workloads", "quality", "quality_metric", "quality_reference", "schedules", "schedule_space", "live_quality")


@dataclass(frozen=True)
class Settings:
    """What a run is asked to do.

    Attributes:
        out: Folder of the results.
        model: Model folder or hub name, or a nested store; None for the shipped model.
        task: Which task; the shipped one by default.
        metrics: Metrics by name, or ``package.module:name``; the first one decides. The task's by default.
        npu: NPU that the exploration starts from, a name or a file; None for the study file's.
        widths: Nested widths to store and measure; None for all that the NPU supports.
        study: Exploration to run instead of this folder's ``study.yaml``.
        budget: Designs to simulate; None for the study file's.
        val_prompts: Validation prompts that the grid is measured on.
        test_prompts: Test prompts that the chosen points are re-measured on.
        batch_size: Prompts decoded together.
        device: Where the model decodes.
        dtype: What it computes in; None for float32 on a CPU and float16 elsewhere.
        seed: Of the bootstrap and the exploration.
        progress: Show progress bars.
    """

    out: Path
    model: str | None = None
    task: TaskChoice = field(default_factory=TaskChoice)
    metrics: tuple[str, ...] = ()
    npu: str | None = None
    widths: tuple[int, ...] | None = None
    study: Path | None = None
    budget: int | None = None
    val_prompts: int = 128
    test_prompts: int = 320
    batch_size: int = 64
    device: str = "cpu"
    dtype: str | None = None
    seed: int = 0
    progress: bool = True


@dataclass(frozen=True)
class Inputs:
    """Everything a run needs, loaded and checked.

    Attributes:
        lm: The model as a nested store.
        task: What it answers.
        npu: What the exploration starts from.
        widths: Widths that are measured, rising, 16 included.
        template: The exploration without workload and quality.
    """

    lm: LanguageModel
    task: Task
    npu: NpuConfig
    widths: tuple[int, ...]
    template: dict[str, Any]

    @property
    def supported(self) -> tuple[int, ...]:
        """The measured widths that the NPU reads."""
        return tuple(width for width in self.widths if width in self.npu.matrix.weight_widths)


def prepare(settings: Settings) -> Inputs:
    """Check every input, then quantise the model into ``out/store`` or load the store that is there.

    Raises:
        InputError: If one of them cannot be used, or the folder holds another run's store or NPU.
    """
    from accuracy.model import load_model
    from accuracy.reference import MODEL_FOLDER
    from hwsim import load_npu

    for name in ("val_prompts", "test_prompts", "batch_size"):
        if getattr(settings, name) < 1:
            raise InputError(f"{name} = {getattr(settings, name)}: must be >= 1")
    template = read_template(settings)
    npu = load_npu(template["npu"])
    nested = chosen_widths(settings.widths, npu)
    model = settings.model or str(MODEL_FOLDER)
    source = load_model(model, device=settings.device, dtype=_dtype(settings))
    task = make_chosen_task(source, settings.task)
    check_metrics(settings, task)
    check_prompts(settings, task)
    check_lengths(settings, task, source)
    if settings.npu is not None:
        template["npu"] = keep_npu(settings.npu, settings.out)
    lm = source if source.store_sha256 is not None else _store(settings, source, model, nested)
    widths = _stored(settings, lm, nested)
    # The task may sample from the model, which is then the one that is measured.
    return Inputs(lm, make_chosen_task(lm, settings.task), npu, widths, template)


def read_template(settings: Settings) -> dict[str, Any]:
    """The exploration's file, with the NPU, budget and seed that were asked for.

    Raises:
        InputError: If it is no mapping, gives what the run measures itself, or does not vary the bandwidth.
    """
    path = settings.study or STUDY_FILE
    try:
        template = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML ({getattr(error, 'problem', None) or error})") from None
    if not isinstance(template, dict):
        raise InputError(f"{path}: a study file is a mapping of fields, for example 'parameters: ...'")
    for name in _FILLED:
        if name in template:
            raise InputError(f"{path}: {name}: is measured or made by this study; leave it out")
    if BANDWIDTH not in (template.get("parameters") or {}):
        raise InputError(f"{path}: parameters: must have {BANDWIDTH}, by which designs are compared")
    given = {"npu": settings.npu, "budget": settings.budget, "seed": settings.seed}
    template |= {name: value for name, value in given.items() if value is not None}
    if "npu" not in template:
        raise InputError(f"{path}: npu is missing; name one in it, or give --npu")
    return dict(template)


def chosen_widths(asked: Sequence[int] | None, npu: NpuConfig) -> tuple[int, ...]:
    """The nested widths to measure, rising.

    Raises:
        InputError: If fewer than two are left, or one is no nested width or not the NPU's.
    """
    readable = [width for width in npu.matrix.weight_widths if width != FULL_PRECISION_BITS]
    names = ", ".join(map(str, sorted(readable)))
    for width in asked or ():
        if not 1 <= width <= MAX_PLANES:
            raise InputError(f"--widths {width}: must be 1..{MAX_PLANES}; full precision is measured in any case")
        if width not in readable:
            raise InputError(f"--widths {width}: {npu.name} reads {names}; choose those, or change weight_widths")
    widths = tuple(sorted(set(asked or readable)))
    if len(widths) < 2:
        raise InputError(
            f"widths = {', '.join(map(str, widths))}: co-design needs two or more; {npu.name} reads {names}"
        )
    return widths


def check_metrics(settings: Settings, task: Task) -> None:
    """Refuse metrics that cannot be had, before anything is decoded.

    Raises:
        InputError: If one is unknown, needs references that the task has not, or is the better the lower it is.
    """
    from accuracy.metrics import find_metric

    for name in settings.metrics:
        metric = find_metric(name)
        if metric.reference == "gold" and not task.has_references:
            raise InputError(f"--metric {name}: task '{task.name}' has no references; use {', '.join(task.metrics)}")
        if metric.direction != "maximize":
            raise InputError(
                f"--metric {name}: less of it is better; co-design keeps a share of full precision's score"
            )


def check_prompts(settings: Settings, task: Task) -> None:
    """Refuse own data with too few prompts for an interval, before anything long runs.

    Raises:
        InputError: With the numbers found and needed.
    """
    if settings.task.data is None:
        return
    for split, limit in (("val", settings.val_prompts), ("test", settings.test_prompts)):
        found = len(task.examples(split, limit))
        if found < min(MIN_PROMPTS, limit):
            raise InputError(
                f"{settings.task.data}: split '{split}' holds {found} prompts: must be >= {min(MIN_PROMPTS, limit)}; "
                "give more data (a file's prompts are split by hash: 20% calib, 20% val, 60% test)"
            )


def check_lengths(settings: Settings, task: Task, lm: LanguageModel) -> None:
    """Refuse a prompt of own data that the model's context cannot hold with its response, before anything long runs.

    Raises:
        InputError: Naming the first one.
    """
    if settings.task.data is None:
        return
    bound, context = task.max_new_tokens, lm.shape.max_context
    for split, limit in (("val", settings.val_prompts), ("test", settings.test_prompts)):
        for example in task.examples(split, limit):
            tokens = len(task.encode(lm.tokenizer, example.prompt))
            if tokens + bound > context:
                raise InputError(
                    f"prompt {example.id!r} of split '{split}': {tokens} tokens + max_new_tokens {bound}: {lm.name} "
                    f"holds at most {context}; shorten it, leave it out, or lower --max-new-tokens"
                )


def keep_npu(name_or_path: str, out: Path) -> str:
    """Copy an own NPU file beside the results; a shipped NPU stays a name. Returns what the study file calls it.

    Raises:
        InputError: If the folder holds an exploration of another NPU file.
    """
    from hwsim import NPU_NAMES
    from hwsim.load import read_npu_text

    if name_or_path in NPU_NAMES:
        return name_or_path
    text, kept = read_npu_text(name_or_path)[0], out / NPU_FILE
    if kept.exists() and read_text(kept) != text:
        raise InputError(f"--npu {name_or_path}: {out} holds results of another NPU file; choose another --out")
    write_text(kept, text)
    return NPU_FILE


def _store(settings: Settings, source: LanguageModel, model: str, widths: Sequence[int]) -> LanguageModel:
    """The model's nested store in the results' folder."""
    from accuracy.quantization import NestedSettings, load_store, quantize

    folder = settings.out / "store"
    if folder.exists():
        stored = load_store(folder, settings.device, _dtype(settings))
        if stored.model_sha256 == source.model_sha256:
            return stored
        raise InputError(f"{folder}: holds another model's store; choose another --out, or remove the folder")
    method = NestedSettings(min_bits=min(widths), max_bits=max(widths))
    quantize(model, folder, method, progress=settings.progress)
    return load_store(folder, settings.device, _dtype(settings))


def _dtype(settings: Settings) -> torch.dtype | None:
    import torch

    dtype: torch.dtype | None = None if settings.dtype is None else getattr(torch, settings.dtype)
    return dtype


def _stored(settings: Settings, lm: LanguageModel, nested: Sequence[int]) -> tuple[int, ...]:
    """The widths to measure, full precision included.

    Raises:
        InputError: If the store has none of them, or no full precision to compare with.
    """
    from accuracy.linear import stored_widths

    stored = stored_widths(lm.model)
    names = ", ".join(map(str, stored))
    if FULL_PRECISION_BITS not in stored:
        raise InputError(f"{lm.name}: stores {names} and no full precision to compare with; quantise it with that kept")
    missing = [width for width in settings.widths or () if width not in stored]
    if missing:
        raise InputError(f"--widths {missing[0]}: the store holds {names}; choose those, or another --out")
    widths = [width for width in nested if width in stored]
    if len(widths) < 2:
        raise InputError(f"{lm.name}: stores {names}: co-design needs two nested widths that the NPU reads")
    return (*widths, FULL_PRECISION_BITS)
