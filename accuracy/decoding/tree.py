"""The tree of decode steps of one batch: schedules share every step up to where they part."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from accuracy.decoding.capture import capture_activations
from accuracy.decoding.kv_cache import make_cache, take_rows
from accuracy.decoding.sampling import Sampling
from accuracy.decoding.streaming import FinishReason, OnToken, StreamedToken, final_text
from accuracy.precision import PrecisionSwitch
from accuracy.schedulers import KVCacheView, Prefill, Scheduler, StepScheduler
from hwsim.trace import InputError, Schedule

if TYPE_CHECKING:
    from transformers.cache_utils import Cache

    from accuracy.model import LanguageModel


@dataclass(frozen=True)
class Prompt:
    """One prompt to be answered.

    Attributes:
        id: Name for reports and errors.
        token_ids: The prompt, special tokens included.
        max_new_tokens: Bound M on the response, an EOS counted.
        min_new_tokens: EOS is not allowed before this many tokens (Fig. 3 compares responses of one length).
    """

    id: str
    token_ids: tuple[int, ...]
    max_new_tokens: int
    min_new_tokens: int = 0


@dataclass(frozen=True)
class Response:
    """What was generated and how.

    Attributes:
        prompt_id: The prompt's name.
        prompt_tokens: Prompt length P.
        tokens: The G generated tokens, EOS included.
        text: The tokens as text, special tokens left out.
        prefill_weight_bits: Width of the prefill.
        decode_weight_bits: Width of each of the G - 1 decode steps, as it really ran.
        finish_reason: ``eos``, or ``length`` where the bound stopped it.
        prefill_ns: Measured time to token 0, the scheduler's planning included; None in a batch.
        step_ns: Measured time of each decode step; None in a batch.
    """

    prompt_id: str
    prompt_tokens: int
    tokens: tuple[int, ...]
    text: str
    prefill_weight_bits: int
    decode_weight_bits: tuple[int, ...]
    finish_reason: FinishReason
    prefill_ns: int | None = None
    step_ns: tuple[int, ...] | None = None


@dataclass
class _Row:
    """One prompt's state in a node: the tokens so far and the schedulers that still share it.

    ``shown`` is how many characters of the text were streamed.
    """

    prompt: int
    variants: tuple[int, ...]
    tokens: list[int]
    shown: int = 0


@dataclass
class _Node:
    """A batch whose rows have run at the same widths so far; a finished row is None until the batch is thinned."""

    cache: Cache
    rows: list[_Row | None]
    plans: dict[tuple[int, int], Schedule]
    mask: Tensor | None
    positions: Tensor
    inputs: Tensor
    logits: Tensor
    filled: int
    bits: list[int] = field(default_factory=list)
    step_ns: list[int] = field(default_factory=list)


class DecodeTree:
    """Decodes one batch.

    Attributes:
        responses: What is finished, by (scheduler, prompt) index.
        steps_run: Decode steps that really ran, one for each unfinished row.
    """

    def __init__(
        self,
        lm: LanguageModel,
        switch: PrecisionSwitch,
        eos: list[int],
        device: torch.device,
        prompts: Sequence[Prompt],
        schedulers: Sequence[Scheduler],
        sampling: Sampling | None,
        on_token: OnToken | None,
    ) -> None:
        self._lm, self._switch, self._eos, self._device = lm, switch, eos, device
        self._prompts, self._schedulers = prompts, schedulers
        self._sampling, self._on_token = sampling, on_token
        self._prefill_ns: dict[tuple[int, int], int] = {}
        self.responses: dict[tuple[int, int], Response] = {}
        self.steps_run = 0

    def tree(self, prompts: Sequence[int], variants: tuple[int, ...]) -> None:
        """Decode ``prompts`` under schedulers of one prefill width, depth first."""
        pending = [self._prefill(prompts, variants)]
        while pending:
            node = pending.pop()
            while any(node.rows):
                branches = self._branches(node)
                bits = min(branches)
                pending.extend(self._take(node, branches[other]) for other in sorted(branches.keys() - {bits}))
                node.rows = branches[bits]
                if len(_places(node.rows)) < len(node.rows):
                    node = self._take(node, node.rows)
                self._step(node, bits)
                self._finish(node)

    def _prefill(self, prompts: Sequence[int], variants: tuple[int, ...]) -> _Node:
        """Run the prompts, padded on the left, choose token 0, and let the schedulers plan."""
        chosen = [self._prompts[index] for index in prompts]
        longest = max(len(prompt.token_ids) for prompt in chosen)
        capacity = longest + max(prompt.max_new_tokens for prompt in chosen)
        padding = [longest - len(prompt.token_ids) for prompt in chosen]
        ids = torch.tensor(
            [[0] * pad + list(prompt.token_ids) for pad, prompt in zip(padding, chosen, strict=True)],
            device=self._device,
        )
        mask = None
        if any(padding):
            pads = torch.tensor(padding, device=self._device)
            mask = torch.arange(capacity, device=self._device) >= pads[:, None]
        positions = torch.arange(longest, device=self._device) - torch.tensor(padding, device=self._device)[:, None]
        cache = make_cache(self._lm.model.config.num_hidden_layers, capacity)
        self._switch.set(self._schedulers[variants[0]].prefill_weight_bits)
        captured = frozenset().union(*(self._schedulers[variant].captured_blocks for variant in variants))
        begin = time.perf_counter_ns()
        with capture_activations(self._lm.model, captured) as activations:
            logits = self._lm.model(
                input_ids=ids,
                attention_mask=None if mask is None else mask[:, :longest].long(),
                position_ids=positions.clamp(min=0),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
        rows: list[_Row | None] = [_Row(index, variants, []) for index in prompts]
        node = _Node(cache, rows, {}, mask, positions[:, -1:], ids[:, -1:], logits, longest)
        self._choose(node)
        prefill_ns = time.perf_counter_ns() - begin
        for place, row in enumerate(rows):
            if row is not None:
                for variant in variants:
                    begin = time.perf_counter_ns()
                    node.plans[row.prompt, variant] = self._plan(node, activations, place, row, variant, padding[place])
                    self._prefill_ns[row.prompt, variant] = prefill_ns + time.perf_counter_ns() - begin
        self._finish(node)
        return node

    def _plan(
        self, node: _Node, activations: Mapping[int, Tensor], place: int, row: _Row, variant: int, padding: int
    ) -> Schedule:
        prompt, scheduler = self._prompts[row.prompt], self._schedulers[variant]
        prefill = Prefill(
            prompt_id=prompt.id,
            prompt_tokens=len(prompt.token_ids),
            max_new_tokens=prompt.max_new_tokens,
            logits=node.logits[place],
            kv_cache=KVCacheView(node.cache, place, padding),
            activations={block: activations[block][place, padding:] for block in scheduler.captured_blocks},
        )
        return checked_plan(scheduler, prefill, self._switch)

    def _branches(self, node: _Node) -> dict[int, list[_Row | None]]:
        """The rows of the next step by the width they want; a row whose schedulers disagree is in several."""
        step = len(node.bits)
        planned: dict[int, int] = {}  # by identity: rows share one plan wherever the scheduler is static
        branches: dict[int, list[_Row | None]] = {}
        for place, row in enumerate(node.rows):
            if row is None:
                continue
            wanted: dict[int, list[int]] = {}
            for variant in row.variants:
                plan = node.plans[row.prompt, variant]
                bits = planned.get(id(plan))
                if bits is None:
                    bits = self._next_bits(node, place, variant, plan, step)
                    planned[id(plan)] = bits
                wanted.setdefault(bits, []).append(variant)
            for bits, variants in wanted.items():
                rows = branches.setdefault(bits, [None] * len(node.rows))
                rows[place] = (
                    row if len(wanted) == 1 else replace(row, variants=tuple(variants), tokens=list(row.tokens))
                )
        return branches

    def _next_bits(self, node: _Node, place: int, variant: int, plan: Schedule, step: int) -> int:
        scheduler = self._schedulers[variant]
        if not isinstance(scheduler, StepScheduler):
            return plan.bits_at(step)
        bits = scheduler.next_bits(step, node.logits[place], KVCacheView(node.cache, place, 0))
        self._switch.check(scheduler.label, frozenset({bits}))
        return bits

    def _take(self, node: _Node, rows: list[_Row | None]) -> _Node:
        """Copy what ``rows`` (aligned with the node's batch) need of it."""
        places = _places(rows)
        index = torch.tensor(places, device=self._device)
        return _Node(
            cache=take_rows(node.cache, places),
            rows=[rows[place] for place in places],
            plans=node.plans,
            mask=None if node.mask is None else node.mask[index],
            positions=node.positions[index],
            inputs=node.inputs[index],
            logits=node.logits[index],
            filled=node.filled,
            bits=list(node.bits),
            step_ns=list(node.step_ns),
        )

    def _step(self, node: _Node, bits: int) -> None:
        """Run one decode step of a node at ``bits``."""
        begin = time.perf_counter_ns()
        self._switch.set(bits)
        node.filled += 1
        node.positions = node.positions + 1
        node.logits = self._lm.model(
            input_ids=node.inputs,
            attention_mask=None if node.mask is None else node.mask[:, : node.filled].long(),
            position_ids=node.positions,
            past_key_values=node.cache,
            use_cache=True,
        ).logits[:, -1]
        node.bits.append(bits)
        self.steps_run += sum(row is not None for row in node.rows)
        self._choose(node)
        node.step_ns.append(time.perf_counter_ns() - begin)

    def _choose(self, node: _Node) -> None:
        """Append a token to every row; reading it back waits for the device, so that times are whole."""
        index = len(node.bits)
        scores = self._without_early_eos(node, index)
        if self._sampling is None:
            chosen = scores.argmax(-1)
        else:
            ids = ["" if row is None else self._prompts[row.prompt].id for row in node.rows]
            chosen = self._sampling.choose(scores, ids, index)
        node.inputs = chosen[:, None]
        for row, token in zip(node.rows, chosen.tolist(), strict=True):
            if row is not None:
                row.tokens.append(token)

    def _without_early_eos(self, node: _Node, index: int) -> Tensor:
        """The node's logits, EOS ruled out where a response would end before its minimum."""
        early = [
            place
            for place, row in enumerate(node.rows)
            if row is not None and index + 1 < self._prompts[row.prompt].min_new_tokens
        ]
        if not early or not self._eos:
            return node.logits
        scores = node.logits.clone()
        scores[torch.tensor(early, device=self._device)[:, None], self._eos] = -torch.inf
        return scores

    def _finish(self, node: _Node) -> None:
        """Stream every row's last token, record the rows that ended with it and retire them."""
        for place, row in enumerate(node.rows):
            if row is None:
                continue
            prompt = self._prompts[row.prompt]
            reason: FinishReason | None = None
            if row.tokens[-1] in self._eos:
                reason = "eos"
            elif len(row.tokens) == prompt.max_new_tokens:
                reason = "length"
            if self._on_token is not None:
                self._stream(node, row, reason, self._on_token)
            if reason is not None:
                node.rows[place] = None
                self._record(node, row, reason)

    def _stream(self, node: _Node, row: _Row, reason: FinishReason | None, on_token: OnToken) -> None:
        """Report a row's last token to whoever listens, once for each of its schedulers."""
        text = self._text(row) if reason is not None else final_text(self._lm.tokenizer, row.tokens)
        fresh = text[row.shown :]
        row.shown = max(row.shown, len(text))
        timed = len(self._prompts) == 1
        for variant in row.variants:
            scheduler = self._schedulers[variant]
            pass_ns = node.step_ns[-1] if node.step_ns else self._prefill_ns[row.prompt, variant]
            token = StreamedToken(
                prompt_id=self._prompts[row.prompt].id,
                scheduler=scheduler.label,
                schedule=node.plans[row.prompt, variant],
                index=len(row.tokens) - 1,
                token_id=row.tokens[-1],
                text=fresh,
                weight_bits=node.bits[-1] if node.bits else scheduler.prefill_weight_bits,
                prefill=not node.bits,
                pass_ns=pass_ns if timed else None,
                finish_reason=reason,
            )
            on_token(token)

    def _record(self, node: _Node, row: _Row, reason: FinishReason) -> None:
        """Keep a finished row's response, once for each of its schedulers."""
        prompt = self._prompts[row.prompt]
        timed = len(self._prompts) == 1
        text = self._text(row).strip()
        for variant in row.variants:
            self.responses[variant, row.prompt] = Response(
                prompt_id=prompt.id,
                prompt_tokens=len(prompt.token_ids),
                tokens=tuple(row.tokens),
                text=text,
                prefill_weight_bits=self._schedulers[variant].prefill_weight_bits,
                decode_weight_bits=tuple(node.bits),
                finish_reason=reason,
                prefill_ns=self._prefill_ns[row.prompt, variant] if timed else None,
                step_ns=tuple(node.step_ns) if timed else None,
            )

    def _text(self, row: _Row) -> str:
        text: str = self._lm.tokenizer.decode(row.tokens, skip_special_tokens=True)
        return text


def checked_plan(scheduler: Scheduler, prefill: Prefill, switch: PrecisionSwitch) -> Schedule:
    """Let a scheduler plan.

    Raises:
        InputError: If the plan is for another prefill than the one that ran, or asks for a width that is not stored.
    """
    schedule = scheduler.plan(prefill)
    if schedule.prefill_weight_bits != scheduler.prefill_weight_bits:
        raise InputError(
            f"scheduler {scheduler.label}: planned prefill_weight_bits = {schedule.prefill_weight_bits} "
            f"after a prefill at {scheduler.prefill_weight_bits}; they must be equal"
        )
    switch.check(scheduler.label, frozenset(schedule.widths()))
    return schedule


def _places(rows: Sequence[_Row | None]) -> list[int]:
    """Places of a batch worth keeping: all of them, until half of the rows are finished.

    The rule looks at nothing but the batch itself, so that a branch drops the same rows at the same step as its
    schedule would alone; the batch's size decides how its products are rounded.
    """
    alive = [place for place, row in enumerate(rows) if row is not None]
    return alive if 2 * len(alive) <= len(rows) else list(range(len(rows)))
