"""Schedules race over the prompts until it is certain which of them is the cheapest that keeps a quality.

Three savings, none of which changes the answer. Schedules that agree up to a switch share those steps
(:mod:`accuracy.decoding`). After every batch a schedule drops out whose score no answers to the remaining prompts could
lift to the quality asked for (:mod:`accuracy.search.score_bounds`). And since schedules of different first widths
share no step, they run width after width, the narrowest first: once a schedule is known to keep the quality, those
drop out that can only cost more.

Where every schedule turns out infeasible, those whose best possible score lies above the best one reached are completed
after all, so that the nearest one is exact too.

Dropping by a confidence interval instead (Maron and Moore, "Hoeffding Races", NIPS 1993) saves more and may be wrong.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from tqdm import tqdm

from accuracy.decoding import Prompt, Response, batches
from accuracy.evaluation import distinct_steps
from accuracy.evaluation.answers import Requests
from accuracy.metrics import Metric, Reference
from accuracy.search.contender import Contender
from accuracy.search.score_bounds import BestPossible
from accuracy.search.selection import FULL_PRECISION, Candidate, RelativeChange, Target
from accuracy.statistics import Interval, bootstrap, paired_difference
from hwsim.trace import InputError, Schedule

MIN_APPROXIMATE_PROMPTS = 30
"""An approximate race judges no schedule by fewer prompts: the bootstrap interval of a handful is too narrow."""

ROUNDING = 1e-9
"""Relative slack of score bounds: they add the numbers of a score in another order."""


class AnswerSource(Protocol):
    """Gives responses, decoded now or kept from before; the schedulers of one request share steps."""

    def give(self, requests: Requests) -> Mapping[str, Sequence[Response]]:
        """Responses by scheduler label, in the order of the prompts."""


class Race:
    """Measures schedules until the first feasible one in the order of choice is known.

    Attributes:
        reference_value: q_ref.
        required_value: q_ref - epsilon.
        responses: Responses decoded, the reference's and full precision's included.
        decode_steps: Their decode steps, as if each response had been decoded alone.
        decode_steps_run: Those that ran, shared ones once.
    """

    def __init__(
        self,
        source: AnswerSource,
        prompts: Sequence[Prompt],
        gold: Sequence[str],
        metric: Metric,
        target: Target,
        schedules: Sequence[Schedule],
        *,
        batch_size: int,
        seed: int = 0,
        drop_early: bool = True,
        approximate: bool = False,
        bar: tqdm[Any] | None = None,
    ) -> None:
        """Prepare.

        Args:
            source: Answers prompts.
            prompts: Checked by a decoder.
            gold: The task's reference text of each prompt.
            metric: What is measured.
            target: What must be kept.
            schedules: Who races.
            batch_size: Prompts decoded together.
            seed: Of the bootstrap, and of the order of batches.
            drop_early: Let schedules drop out.
            approximate: Let them drop out by confidence intervals too.
            bar: Its total is kept at the number of responses to come; the source advances it.
        """
        self._source, self._prompts, self._gold = source, prompts, gold
        self._metric, self._target, self._seed = metric, target, seed
        self._drop_early, self._approximate, self._bar = drop_early, approximate, bar
        self._sign = 1 if metric.direction == "maximize" else -1
        self._place = {prompt.id: place for place, prompt in enumerate(prompts)}
        self._max_new_tokens = max(prompt.max_new_tokens for prompt in prompts)
        self._batches = batches(prompts, batch_size)
        # They are sorted by length; the first ones alone would stand for long prompts only.
        random.Random(seed).shuffle(self._batches)
        self._contenders = {schedule: Contender(schedule) for schedule in schedules}
        self.responses = self.decode_steps = self.decode_steps_run = 0

    def run(self) -> None:
        """Run to the end.

        Raises:
            InputError: If the reference scores 0, or relative changes are asked for that do not exist.
        """
        self._expect(len(self._contenders) * len(self._prompts))
        self._measure_reference()
        for first_bits in sorted({schedule.bits_at(0) for schedule in self._contenders}):
            stage = [one for one in self._contenders.values() if one.schedule.bits_at(0) == first_bits]
            for batch in self._batches:
                for one in stage:
                    self._judge(one)
                self._measure(batch, [one for one in stage if not one.dropped and self._left(one)])
            for one in stage:
                self._judge(one)
        if self.chosen is None:
            self._complete_nearest()

    @property
    def chosen(self) -> Schedule | None:
        """The first feasible schedule in the order of choice."""
        feasible = [one for one in self._contenders.values() if one.feasible]
        return min(feasible, key=lambda one: one.order_key).schedule if feasible else None

    @property
    def nearest(self) -> Schedule | None:
        """The schedule with the best score, where none is feasible."""
        if self.chosen is not None:
            return None
        return min(self._finished(), key=lambda one: (-self._sign * self._score(one), one.order_key)).schedule

    @property
    def responses_dropped(self) -> int:
        """Responses that were never decoded because their schedule had dropped out."""
        return sum(self._left(one) for one in self._contenders.values())

    def candidates(self) -> list[Candidate]:
        """What is known of each schedule: feasible ones first, each part in the order of choice, dropped ones last."""
        rows = sorted(
            self._contenders.values(),
            key=lambda one: (one.dropped is not None, not one.feasible, one.order_key),
        )
        return [self._candidate(one) for one in rows]

    def _measure_reference(self) -> None:
        """Answer all prompts as the reference does, and at full precision where the metric compares with that."""
        reference = self._target.reference
        compares = self._metric.reference == "full-precision"
        wanted = {FULL_PRECISION: None} if compares else {}
        if isinstance(reference, Schedule):
            wanted[reference] = None
        first = {schedule: self._contenders.get(schedule) or Contender(schedule) for schedule in wanted}
        self._expect(sum(schedule not in self._contenders for schedule in first) * len(self._prompts))
        answers = self._give(self._prompts, list(first.values()))
        full = answers[FULL_PRECISION.label()] if compares else [None] * len(self._prompts)
        self._references = [Reference(*pair) for pair in zip(self._gold, full, strict=True)]
        for one in first.values():
            self._add(one, answers[one.scheduler.label])
        self._bound = BestPossible(self._metric, self._references)
        self._baseline = first[reference] if isinstance(reference, Schedule) else None
        self.reference_value = self._score(first[reference]) if isinstance(reference, Schedule) else reference
        if not self.reference_value:
            raise InputError(
                f"reference: scores 0 {self._metric.name} on {len(self._prompts)} prompts, which every schedule keeps; "
                "choose another reference or metric, or more prompts"
            )
        self.required_value = self.reference_value - self._sign * self._target.tolerance * abs(self.reference_value)

    def _measure(self, batch: Sequence[Prompt], running: Sequence[Contender]) -> None:
        """Answer a batch under several schedules at once."""
        answers = self._give(batch, running)
        for one in running:
            self._add(one, answers[one.scheduler.label])

    def _give(self, prompts: Sequence[Prompt], running: Sequence[Contender]) -> Mapping[str, Sequence[Response]]:
        """Get responses, and count their steps: from the responses, so that a resumed race counts the same."""
        if not running:
            return {}
        answers = self._source.give([(prompts, [one.scheduler for one in running])])
        for together in zip(*answers.values(), strict=True):
            self.responses += len(together)
            self.decode_steps += sum(len(one.decode_weight_bits) for one in together)
            self.decode_steps_run += distinct_steps(together)
        return answers

    def _add(self, one: Contender, responses: Sequence[Response]) -> None:
        places = [self._place[response.prompt_id] for response in responses]
        references = [self._references[place] for place in places]
        one.add(places, responses, self._metric.statistics_many(responses, references))

    def _judge(self, one: Contender) -> None:
        """Say whether a schedule that finished is feasible; let one drop out that need not finish."""
        if one.feasible is not None or one.dropped:
            return
        left = self._left(one)
        if not left:
            one.feasible = self._is_feasible(one)
        elif self._drop_early:
            costs = [other.order_key[0] for other in self._contenders.values() if other.feasible]
            if costs and one.least_mean_bits(left, self._max_new_tokens) > min(costs):
                one.dropped = "cost"
            elif one.places:
                self._judge_quality(one)
            if one.dropped:
                self._expect(-left)

    def _judge_quality(self, one: Contender) -> None:
        """Let a schedule drop out that can no longer keep the quality, or, where allowed, that is unlikely to."""
        self._update_bound(one)
        if one.best_possible is not None and self._is_worse(one.best_possible, self.required_value):
            one.dropped, one.feasible = "quality", False
        if not one.dropped and self._approximate and len(one.places) >= MIN_APPROXIMATE_PROMPTS:
            interval, allowed = self._interval_so_far(one)
            if self._is_worse(interval.high if self._sign > 0 else interval.low, allowed):
                one.dropped = "interval"

    def _update_bound(self, one: Contender) -> None:
        """Find the best score that a schedule can still reach, where the metric has such a bound."""
        if self._bound.known:
            one.best_possible = self._bound.score(one.statistics, one.places)

    def _interval_so_far(self, one: Contender) -> tuple[Interval, float]:
        """The 95% interval of a schedule over its prompts so far, and the value that it must reach."""
        if self._baseline is None:
            return bootstrap(one.statistics, self._metric.aggregate, seed=self._seed), self.required_value
        theirs = self._baseline.statistics_at(one.places)
        change = paired_difference(one.statistics, theirs, self._metric.aggregate, seed=self._seed)
        return change, self.required_value - self.reference_value

    def _complete_nearest(self) -> None:
        """Go on with schedules that dropped out until none of them could score better than the best that finished."""
        while self.chosen is None and (rivals := self._rivals()):
            # A finished score is what lets the others stop again.
            running = rivals if self._finished() else [max(rivals, key=lambda one: self._sign * self._could_score(one))]
            self._expect(sum(map(self._left, running)))
            for batch in self._batches:
                lacking = [one for one in running if not one.has_answered(self._place[batch[0].id])]
                self._measure(batch, [one for one in lacking if self._could_be_nearest(one)])
                for one in lacking:
                    self._update_bound(one)
            for one in running:
                self._expect(-self._left(one))
                if not self._left(one):
                    one.dropped = one.feasible = None
                    self._judge(one)

    def _rivals(self) -> list[Contender]:
        """Schedules that dropped out and could score better than the best that finished."""
        return [one for one in self._contenders.values() if one.dropped and self._could_be_nearest(one)]

    def _could_be_nearest(self, one: Contender) -> bool:
        """Whether no schedule that finished scores more than this one could."""
        return not any(self._is_worse(self._could_score(one), self._score(other)) for other in self._finished())

    def _could_score(self, one: Contender) -> float:
        """The best that a schedule which dropped out can score, or, where that is not certain, its score so far."""
        if one.dropped == "quality" and one.best_possible is not None:
            return one.best_possible
        return self._score(one)

    def _is_feasible(self, one: Contender) -> bool:
        if self._target.criterion == "point":
            return self._sign * (self._score(one) - self.required_value) >= 0
        change = self._change(one)
        return (change.low if self._sign > 0 else -change.high) > -self._target.tolerance

    def _change(self, one: Contender) -> Interval:
        """Relative change against the reference."""
        assert self._baseline is not None, "a number has no prompts to pair with"
        theirs = self._baseline.statistics_at(one.places)
        return paired_difference(one.statistics, theirs, self._metric.aggregate, relative=True, seed=self._seed)

    def _candidate(self, one: Contender) -> Candidate:
        made = Candidate(
            schedule=one.schedule,
            label=one.schedule.label(),
            feasible=bool(one.feasible),
            n=len(one.places),
            dropped=one.dropped,
            best_possible=one.best_possible if one.dropped else None,
        )
        if one.dropped:
            return made
        interval = bootstrap(one.statistics, self._metric.aggregate, seed=self._seed)
        change = None
        if self._baseline is not None:
            # A score of 0 on resampled prompts has no relative change; the point criterion needs none.
            with suppress(InputError):
                found = self._change(one)
                change = RelativeChange(value=found.value, ci_low=found.low, ci_high=found.high)
        return made.model_copy(
            update={
                "mean_decode_bits": float(one.order_key[0]),
                "value": interval.value,
                "ci_low": interval.low,
                "ci_high": interval.high,
                "change": change,
            }
        )

    def _score(self, one: Contender) -> float:
        """The score of the prompts answered so far."""
        return float(self._metric.aggregate(one.statistics.sum(0), len(one.places)))

    def _is_worse(self, score: float, bar: float) -> bool:
        return self._sign * (score - bar) < -ROUNDING * max(1.0, abs(bar))

    def _left(self, one: Contender) -> int:
        return len(self._prompts) - len(one.places)

    def _finished(self) -> list[Contender]:
        return [one for one in self._contenders.values() if not self._left(one)]

    def _expect(self, more: int) -> None:
        """Tell the progress bar of responses that are to come, or no longer."""
        if self._bar is not None:
            self._bar.total = (self._bar.total or 0) + more
            self._bar.refresh()
