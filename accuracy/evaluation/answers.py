"""Responses to prompts under schedulers: taken from the store where they are kept, decoded where they are not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from tqdm import tqdm

from accuracy.decoding import Decoder, Prompt, Response, Sampling, batches
from accuracy.evaluation.plan import EvaluationPlan, scheduler_sha256
from accuracy.evaluation.store import ResponseStore
from accuracy.schedulers import Scheduler
from hwsim.trace import canonical_sha256

# Raise when decoding itself changes its answers, so that no cache gives out what an earlier version wrote.
KEY_VERSION = 2


@dataclass(frozen=True)
class Job:
    """A batch of prompts that were checked, the schedulers whose responses to it are lacking, and how to draw."""

    prompts: tuple[Prompt, ...]
    schedulers: tuple[Scheduler, ...]
    sampling: Sampling | None = None


class Backend(Protocol):
    """Where jobs run.

    Attributes:
        parallel: How many jobs can run at once.
    """

    parallel: int

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, list[list[Response]]]]:
        """Give ``(number of the job, responses[scheduler][prompt])`` as jobs finish, in any order."""


class InProcess:
    """Runs jobs one after another with a decoder of this process."""

    parallel = 1

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, list[list[Response]]]]:
        """Decode each job."""
        for number, job in enumerate(jobs):
            yield number, self._decoder.decode_batch(job.prompts, job.schedulers, sampling=job.sampling).responses


Requests = Sequence[tuple[Sequence[Prompt], Sequence[Scheduler]]]
"""Prompts, and the schedulers that are to answer them together."""


class Answers:
    """Gives responses; every finished job is on disk before the next one counts."""

    def __init__(
        self,
        plan: EvaluationPlan,
        decoder: Decoder,
        store: ResponseStore,
        bar: tqdm[Any],
        backend: Backend | None = None,
    ) -> None:
        """Prepare.

        Args:
            plan: Whose model, arithmetic, batch size and sampling are used; they belong to every key.
            decoder: Of that model; checks every prompt.
            store: Where responses are kept.
            bar: Told of every response.
            backend: Where decoding runs; in this process by default.
        """
        self._decoder, self._store, self._bar = decoder, store, bar
        self._backend = backend or InProcess(decoder)
        self._batch_size, self._sampling = plan.batch_size, plan.sampling
        hashes = [plan.lm.model_sha256, plan.lm.store_sha256]
        self._made_by = [KEY_VERSION, *hashes, plan.arithmetic]

    def give(self, requests: Requests) -> dict[str, list[Response]]:
        """Answer the prompts of each request under its schedulers; by label, in the order of the prompts.

        Raises:
            InputError: If a prompt cannot run or the disk is full; what is finished is kept.
        """
        for prompts, schedulers in requests:
            self._decoder.check(prompts, schedulers)
        grouped = [(batches(prompts, self._batch_size), schedulers) for prompts, schedulers in requests]
        # With more workers than batches, a batch's schedulers are parted too; they share fewer steps then.
        parts = -(-self._backend.parallel // max(1, sum(len(groups) for groups, _ in grouped)))
        keys: dict[tuple[str, str], str] = {}
        jobs: list[Job] = []
        for groups, schedulers in grouped:
            for batch in groups:
                mine = self._keys(batch, schedulers)
                keys |= mine
                # Schedulers of several labels may plan the same; one of them answers for all.
                lacking = {
                    mine[batch[0].id, scheduler.label]: scheduler
                    for scheduler in sorted(schedulers, key=lambda one: (one.prefill_weight_bits, one.label))
                    if any(mine[prompt.id, scheduler.label] not in self._store for prompt in batch)
                }
                chosen = tuple(lacking.values())
                size = -(-len(chosen) // parts)
                jobs.extend(
                    Job(tuple(batch), chosen[start : start + size], self._sampling)
                    for start in range(0, len(chosen), size or 1)
                )
        self._bar.update(len(keys) - sum(len(job.prompts) * len(job.schedulers) for job in jobs))
        for number, table in self._backend.run(jobs):
            made = {
                keys[one.prompt_id, scheduler.label]: one
                for scheduler, responses in zip(jobs[number].schedulers, table, strict=True)
                for one in responses
            }
            self._store.add(made)
            self._bar.update(len(made))
        return {
            scheduler.label: [
                # Another run may have kept the same prompt under another id.
                replace(self._store[keys[prompt.id, scheduler.label]], prompt_id=prompt.id)
                for prompt in prompts
            ]
            for prompts, schedulers in requests
            for scheduler in schedulers
        }

    def _keys(self, batch: Sequence[Prompt], schedulers: Sequence[Scheduler]) -> dict[tuple[str, str], str]:
        """Content hash of each response of a batch, by prompt id and scheduler label.

        The batch belongs to the content: its shape decides how near-ties are resolved. The prompt's name does only
        where the plan or the random numbers depend on it.
        """
        texts = [[prompt.token_ids, prompt.max_new_tokens, prompt.min_new_tokens] for prompt in batch]
        sampling = None if self._sampling is None else asdict(self._sampling)
        shared = canonical_sha256([self._made_by, sampling, texts])
        found = {}
        for scheduler in schedulers:
            digest = scheduler_sha256(scheduler)
            by_name = scheduler.schedule is None or sampling is not None
            for place, prompt in enumerate(batch):
                name = prompt.id if by_name else None
                found[prompt.id, scheduler.label] = canonical_sha256([shared, place, digest, name])
        return found


def converse(plan: EvaluationPlan, schedulers: Sequence[Scheduler], answers: Answers) -> dict[str, list[Response]]:
    """Go through the task's turns under every scheduler.

    From the second turn on a prompt holds the scheduler's own answers, so that only schedulers whose prompts are all
    still equal share decoding. Each one's responses are those that it would give alone.

    Returns:
        Responses by label: the first example's turns in order, then the second's, and so on.
    """
    talks: dict[str, list[list[Response]]] = {scheduler.label: [[] for _ in plan.examples] for scheduler in schedulers}
    for turn in range(plan.task.turns):
        sharing: dict[tuple[Prompt, ...], list[Scheduler]] = {}
        first = tuple(plan.prompt(example, example.prompt) for example in plan.examples) if turn == 0 else ()
        for scheduler in schedulers:
            prompts = first or tuple(
                plan.prompt(example, plan.task.next_prompt(example, [one.text for one in talk]), turn)
                for example, talk in zip(plan.examples, talks[scheduler.label], strict=True)
            )
            sharing.setdefault(prompts, []).append(scheduler)
        for label, responses in answers.give(list(sharing.items())).items():
            for talk, response in zip(talks[label], responses, strict=True):
                talk.append(response)
    return {label: [response for talk in lines for response in talk] for label, lines in talks.items()}


def check_later_turns(plan: EvaluationPlan, decoder: Decoder) -> None:
    """Refuse a conversation that may outgrow the context, before anything runs.

    A later prompt is its text around empty answers, and at most M tokens for each answer. (Answers are read as text,
    which very rarely takes more tokens than it was written with; such a prompt is refused when it comes.)

    Raises:
        InputError: If a prompt of a later turn might not fit with its response.
    """
    for turn in range(1, plan.task.turns):
        empty = [""] * turn
        decoder.check(
            [
                replace(prompt, token_ids=prompt.token_ids + (0,) * (turn * prompt.max_new_tokens))
                for example in plan.examples
                for prompt in [plan.prompt(example, plan.task.next_prompt(example, empty), turn)]
            ],
            [],
        )
