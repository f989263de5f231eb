"""Responses as trace records: what the simulator replays."""

from __future__ import annotations

from accuracy.decoding import Response
from accuracy.evaluation.arithmetic import device_name
from accuracy.model import LanguageModel
from accuracy.schedulers import Scheduler
from hwsim.trace import TraceHeader, TraceModel, TraceSequence, run_length


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
