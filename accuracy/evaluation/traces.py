"""Responses as trace records: what the simulator replays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accuracy.decoding import Response
from accuracy.evaluation.arithmetic import device_name
from accuracy.evaluation.plan import EvaluationPlan
from accuracy.model import LanguageModel
from accuracy.schedulers import Scheduler
from hwsim.trace import TraceHeader, TraceModel, TraceSequence, collect_provenance, run_length, write_trace


def trace_header(lm: LanguageModel, *, task: str, scheduler: Scheduler, provenance: dict[str, str]) -> TraceHeader:
    """Header of a trace of ``lm``.

    Responses are recorded as independent requests, to be served one after another: that prompts were decoded in a
    batch to measure quality sooner says nothing about how a device would serve them.

    Args:
        lm: The model.
        task: Where the prompts come from.
        scheduler: What planned the responses.
        provenance: Of the run.
    """
    return TraceHeader(
        model=TraceModel(name=lm.name, shape=lm.shape, config_sha256=lm.config_sha256),
        store_sha256=lm.store_sha256,
        task=task,
        scheduler=scheduler.name,
        schedule=scheduler.schedule,
        execution="sequential",
        device=device_name(lm),
        provenance={**provenance, "scheduler_label": scheduler.label},
    )


def trace_sequence(response: Response, index: int) -> TraceSequence:
    """The record of one response, the ``index``-th of its trace."""
    return TraceSequence(
        id=response.prompt_id,
        batch_id=index,
        prompt_tokens=response.prompt_tokens,
        generated_tokens=len(response.tokens),
        prefill_weight_bits=response.prefill_weight_bits,
        decode_weight_bits=run_length(response.decode_weight_bits),
        finish_reason=response.finish_reason,
        prefill_ns=response.prefill_ns,
        step_ns=response.step_ns,
    )


def plan_provenance(plan: EvaluationPlan) -> dict[str, str]:
    """Where the results of a plan come from."""
    return collect_provenance(**plan.arithmetic, seed=plan.seed)


def write_responses(
    plan: EvaluationPlan, scheduler: Scheduler, responses: Sequence[Response], path: Path, provenance: dict[str, str]
) -> None:
    """Write the trace of one scheduler's responses."""
    provenance = {
        **provenance,
        "split": plan.split,
        "task_version": plan.task.version,
        "decoding": plan.decoding,
        "decoded_in_batches_of": str(plan.batch_size),
    }
    header = trace_header(plan.lm, task=plan.task.name, scheduler=scheduler, provenance=provenance)
    write_trace(path, header, (trace_sequence(one, index) for index, one in enumerate(responses)))
