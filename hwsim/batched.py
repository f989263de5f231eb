"""Sequences decoding together: each plane is read once a step, up to the highest any of them needs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hwsim.checks import LEARNED_SCHEDULER, step_precision
from hwsim.config import NpuConfig
from hwsim.lowering import Lowering
from hwsim.metrics import PREFILL_STEP, SCHEDULER_STEP, Execution, StepColumns
from hwsim.program import Engine, Work
from hwsim.service import build_services
from hwsim.trace import ModelShape, Trace
from hwsim.workload import Step, batch_decode_step, learned_scheduler_step, prefill_step

Members = tuple[tuple[int, int], ...]
"""Weight bits and cached tokens of each sequence in a decode step."""


@dataclass(frozen=True, slots=True)
class BatchStep:
    """One decode step of a batch: the sequences that take part, by index in the trace, and what each needs."""

    step: int
    sequences: tuple[int, ...]
    members: Members


def batches_of(trace: Trace) -> list[list[int]]:
    """Indices of the sequences of each batch, in the order of first appearance."""
    batches: defaultdict[int, list[int]] = defaultdict(list)
    for index, sequence in enumerate(trace.sequences):
        batches[sequence.batch_id].append(index)
    return list(batches.values())


def decode_steps_of(trace: Trace, batch: Sequence[int]) -> Iterator[BatchStep]:
    """Decode steps of one batch; sequences that are done have dropped out."""
    widths = {index: trace.sequences[index].expand() for index in batch}
    for step in range(max(len(bits) for bits in widths.values())):
        decoding = tuple(index for index in batch if step < len(widths[index]))
        members = tuple((widths[index][step], trace.sequences[index].prompt_tokens + step) for index in decoding)
        yield BatchStep(step, decoding, members)


def run_batches(npu: NpuConfig, shape: ModelShape, trace: Trace, engine: Engine) -> Execution:
    """Run the batches of a trace (equal ``batch_id``) one after another.

    In a batch the prefills run first, one by one, each at its own width and with the learned scheduler's run
    behind it if there is one; then all sequences decode in step, and those that are done drop out.

    Raises:
        InputError: If a buffer is too small for one tile.
    """
    services = build_services(npu)
    known: dict[object, tuple[int, Work]] = {}

    def run(key: object, step: Step, weight_bits: int) -> tuple[int, Work]:
        if key not in known:
            precision = step_precision(npu, trace.header, weight_bits)
            program = Lowering(services, precision, shape.hidden_size).program(step)
            known[key] = int(engine.program_cycles(program, 1)[0]), program.work()
        return known[key]

    def prefill(prompt_tokens: int, bits: int) -> tuple[int, Work]:
        precision = step_precision(npu, trace.header, bits)
        return run((PREFILL_STEP, prompt_tokens, bits), prefill_step(shape, precision, prompt_tokens), bits)

    def scheduler(prompt_tokens: int, bits: int) -> tuple[int, Work]:
        precision = step_precision(npu, trace.header, bits)
        return run((SCHEDULER_STEP, prompt_tokens), learned_scheduler_step(shape, precision, prompt_tokens), bits)

    def decode(members: Members) -> tuple[int, Work]:
        highest = max(bits for bits, _ in members)
        precision = step_precision(npu, trace.header, highest)
        return run(members, batch_decode_step(shape, precision, members), highest)

    rows: list[tuple[int, ...]] = []
    total = Work()
    first_token = np.zeros(len(trace.sequences), dtype=np.int64)
    end = np.zeros_like(first_token)
    for batch in batches_of(trace):
        now = 0
        for index in batch:
            sequence = trace.sequences[index]
            bits, prompt = sequence.prefill_weight_bits, sequence.prompt_tokens
            cycles, work = prefill(prompt, bits)
            rows.append((index, PREFILL_STEP, 1, bits, prompt, cycles, work.dram_bytes))
            total += work
            now += cycles
            if trace.header.scheduler == LEARNED_SCHEDULER:
                cycles, work = scheduler(prompt, bits)
                rows.append((index, SCHEDULER_STEP, 0, bits, prompt, cycles, work.dram_bytes))
                total += work
                now += cycles
            first_token[index] = end[index] = now
        for batch_step in decode_steps_of(trace, batch):
            decoding, members = list(batch_step.sequences), batch_step.members
            cycles, work = decode(members)
            highest, context = max(bits for bits, _ in members), sum(cached for _, cached in members)
            rows.append((decoding[0], batch_step.step, len(decoding), highest, context, cycles, work.dram_bytes))
            total += work
            now += cycles
            end[decoding] = now
    return Execution(StepColumns(*np.array(rows, dtype=np.int64).T), total, first_token, end)
