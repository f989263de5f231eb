"""What happens in a tab: prompts answered token by token under a schedule and a rival; one model serves all tabs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, Literal

from hwsim.trace import BittaperError, InputError, Schedule
from studies.demo.choices import Choices
from studies.demo.failures import first_line, kind_of_failure
from studies.demo.model import DemoModel

if TYPE_CHECKING:
    from accuracy.decoding import StreamedToken, TokenStream
    from accuracy.schedulers import LearnedScheduler, Scheduler

State = Literal["starting", "waiting", "decoding", "complete", "stopped", "failed"]
PAGE_UPDATE_S = 0.1
WIND_UP_S = 2.0
"""A prompt sent right after Stop or Clear waits this long for the last decode step of the one before."""
NS_PER_S = 1e9

_log = logging.getLogger("bittaper.demo")


@dataclass(frozen=True)
class Reply:
    """One response, as far as it has come.

    Attributes:
        title: What it was asked to be: PMPD, High, Low or a schedule's label.
        scheduler: What plans its widths.
        prompt_tokens: Length of the prompt.
        max_new_tokens: Bound on the response.
        tokens: What was decoded.
        state: ``starting``, ``waiting`` for another tab's response, ``decoding``, or how it ended.
        device: What it is decoded on.
    """

    title: str
    scheduler: Scheduler
    prompt_tokens: int
    max_new_tokens: int
    device: str
    tokens: tuple[StreamedToken, ...] = ()
    state: State = "starting"

    @property
    def text(self) -> str:
        """The response so far."""
        return "".join(token.text for token in self.tokens)

    @property
    def schedule(self) -> Schedule | None:
        """What it is decoded under; None before it was chosen, where that takes the prompt."""
        return self.tokens[0].schedule if self.tokens else self.scheduler.schedule

    @property
    def decode_weight_bits(self) -> tuple[int, ...]:
        """Width of every decode step so far."""
        return tuple(token.weight_bits for token in self.tokens if not token.prefill)

    @property
    def mean_decode_bits(self) -> float | None:
        """Mean over the decode steps so far; None before the first."""
        bits = self.decode_weight_bits
        return sum(bits) / len(bits) if bits else None

    @property
    def prefill_s(self) -> float | None:
        """Measured time to token 0."""
        return (self.tokens[0].pass_ns or 0) / NS_PER_S if self.tokens else None

    @property
    def decode_tokens_per_s(self) -> float | None:
        """Measured decode steps over their time; None before the first."""
        times = [token.pass_ns or 0 for token in self.tokens if not token.prefill]
        return len(times) * NS_PER_S / sum(times) if sum(times) else None


@dataclass(frozen=True)
class Turn:
    """A prompt with its replies.

    Attributes:
        prompt: As it was typed.
        replies: The response, and its rival's where one was asked for.
        reference: The right answer, where it is known.
        error: What went wrong, for the reader of the page; empty if nothing did.
    """

    prompt: str
    replies: tuple[Reply, ...] = ()
    reference: str | None = None
    error: str = ""


class Engine:
    """The one model that every tab decodes with, one response at a time.

    Attributes:
        model: The model.
        device: What it runs on.
        learned: The scheduler that chooses for each prompt; None if there is none for this model.
        why_not_learned: Why there is none, and how to get one; empty if there is.
    """

    def __init__(
        self,
        model: DemoModel,
        checkpoint: str | None = None,
        on_cpu: Callable[[], DemoModel] | None = None,
    ) -> None:
        """Prepare decoding.

        Args:
            model: The model.
            checkpoint: Of a learned scheduler; by default the one shipped with the shipped model.
            on_cpu: Loads the same model onto the CPU, for when its device is lost.

        Raises:
            InputError: If the checkpoint cannot be used with the model.
        """
        self._replacing = Lock()
        self._checkpoint, self._on_cpu = checkpoint, on_cpu
        self._ids = count()
        self._use(model)

    def _use(self, model: DemoModel) -> None:
        from accuracy.decoding import Decoder
        from accuracy.evaluation.arithmetic import device_name

        self.model, self._decoder = model, Decoder(model.lm)
        self.learned, self.why_not_learned = self._learned_scheduler(model)
        self.device = device_name(model.lm)

    def _learned_scheduler(self, model: DemoModel) -> tuple[LearnedScheduler | None, str]:
        """The scheduler that was given or shipped, or why there is none."""
        from accuracy.reference import SCHEDULER_FOLDER
        from accuracy.schedulers import LearnedScheduler

        if self._checkpoint is not None:
            return LearnedScheduler(self._checkpoint, model.lm), ""
        remedy = (
            f"make one with bittaper train-scheduler --model {model.lm.folder} --widths 4,2 --out FOLDER and start the "
            "demo with --checkpoint FOLDER"
        )
        if model.kind != "shipped":
            return None, f"no scheduler trained for {model.lm.name} was given; {remedy}"
        try:
            return LearnedScheduler(SCHEDULER_FOLDER, model.lm), ""
        except InputError:
            return None, f"the shipped scheduler was trained for another quantisation of {model.lm.name}; {remedy}"

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths the model can run at, rising."""
        return self._decoder.widths

    def schedulers(self, choices: Choices) -> list[tuple[str, Scheduler]]:
        """What answers a prompt, with its title: the response's scheduler, then the rival's if there is one.

        Raises:
            InputError: If a learned scheduler is wanted and none was given, or the rival is no schedule.
        """
        from accuracy.schedulers import StaticScheduler

        first: Scheduler
        if not choices.learned:
            first = StaticScheduler(choices.schedule())
        elif self.learned is not None:
            first = self.learned
        else:
            raise InputError(f"scheduler = Learned: {self.why_not_learned}, or choose Static")
        title = f"{choices.precision}, {choices.scheduler}" if choices.precision == "PMPD" else choices.precision
        rival = choices.rival_schedule()
        return [(title, first)] if rival is None else [(title, first), (choices.rival, StaticScheduler(rival))]

    def begin(
        self, title: str, scheduler: Scheduler, ids: tuple[int, ...], max_new_tokens: int
    ) -> tuple[Reply, TokenStream]:
        """Begin to decode, as soon as the model is free.

        Raises:
            InputError: If prompt and response do not fit the context or a width is not stored.
        """
        from accuracy.decoding import Prompt, TokenStream

        prompt = Prompt(f"{next(self._ids) + 1}", ids, max_new_tokens)
        reply = Reply(title, scheduler, len(ids), max_new_tokens, self.device)
        return reply, TokenStream(self._decoder, prompt, scheduler)

    def check(self, schedulers: Iterable[Scheduler], ids: tuple[int, ...], max_new_tokens: int) -> None:
        """Refuse what cannot run, the rival included, before anything is decoded.

        Raises:
            InputError: As :meth:`begin`.
        """
        from accuracy.decoding import Prompt

        self._decoder.check([Prompt("as typed", ids, max_new_tokens)], list(schedulers))

    def explain(self, error: Exception, device: str) -> str:
        """Say what an error means for the reader; a lost device is replaced by the CPU.

        Args:
            error: What ended a reply.
            device: What it was decoded on; after another tab lost it, the model runs elsewhere already.
        """
        if isinstance(error, BittaperError):
            return str(error)
        failure, said = kind_of_failure(error), first_line(error)
        if failure == "memory":
            other = "" if device == "cpu" else ", or start the demo with --device cpu"
            return (
                f"{device} has not enough memory for this prompt and response: lower max new tokens, shorten the "
                f"prompt{other}"
            )
        if failure == "device":
            return f"{device} was lost while decoding ({said}); {self._replace_device()}"
        _log.error("decoding failed", exc_info=error)
        return f"decoding ended with an error ({type(error).__name__}: {said}); what was decoded is kept"

    def _replace_device(self) -> str:
        with self._replacing:
            if self.device == "cpu":
                return "the model runs on the CPU now: send the prompt again"
            if self._on_cpu is None:
                return "start the demo again, with --device cpu to go on without it"
            try:
                self._use(self._on_cpu())
            except Exception as error:
                _log.error("no way back to the CPU", exc_info=error)
                return "start the demo again, with --device cpu to go on without it"
        return "the model runs on the CPU from now on: send the prompt again"


class Conversation:
    """One tab's prompts and replies.

    Attributes:
        turns: What was asked and answered, the last one perhaps still growing.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.turns: tuple[Turn, ...] = ()
        self._running: TokenStream | None = None
        self._busy = Lock()
        self._stopped = self._cleared = False

    def ask(self, prompt: str, choices: Choices | BittaperError) -> Iterator[tuple[Turn, ...]]:
        """Answer a prompt; gives all turns, the last one growing, some times a second. What goes wrong is in the turn.

        A reader that goes away, by ``close()`` of the iterator, ends the decoding.

        Args:
            prompt: As it was typed.
            choices: How to answer, or why the controls say nothing that can be done.
        """
        if not self._busy.acquire(timeout=WIND_UP_S):
            yield (*self.turns, Turn(prompt, error="this tab is still answering: press Stop first, or wait"))
            return
        self._stopped = self._cleared = False
        earlier = self.turns
        try:
            for turn in self._answer(prompt, choices):
                self.turns = (*earlier, turn)
                if self._cleared:
                    self.turns = ()
                    return
                yield self.turns
        finally:
            if self._running is not None:
                self._running.stop()
                self._running = None
            self._busy.release()

    def _answer(self, prompt: str, choices: Choices | BittaperError) -> Iterator[Turn]:
        said = [(turn.prompt, turn.replies[0].text) for turn in self.turns if turn.replies and turn.replies[0].text]
        turn = Turn(prompt, reference=self.engine.model.references.get(prompt))
        try:
            if isinstance(choices, BittaperError):
                raise choices
            schedulers = self.engine.schedulers(choices)
            ids = self.engine.model.encode(prompt, said)
            self.engine.check((one for _, one in schedulers), ids, choices.max_new_tokens)
        except BittaperError as error:
            yield replace(turn, error=str(error))
            return
        for title, scheduler in schedulers:
            if self._stopped:
                return
            before = turn.replies
            reply, stream = self.engine.begin(title, scheduler, ids, choices.max_new_tokens)
            self._running = stream
            try:
                for grown in self._follow(reply, stream):
                    turn = replace(turn, replies=(*before, grown))
                    yield turn
            except Exception as error:
                turn = replace(turn, replies=(*before, replace(turn.replies[-1], state="failed")))
                yield replace(turn, error=self.engine.explain(error, reply.device))
                return

    def _follow(self, reply: Reply, stream: TokenStream) -> Iterator[Reply]:
        """The reply as it grows, until it ends or is stopped."""
        yield reply
        while not stream.ended:
            tokens = stream.take(PAGE_UPDATE_S)
            state: State = "waiting" if stream.waiting else "decoding"
            if self._stopped:
                stream.stop()
            if tokens or state != reply.state:
                reply = replace(reply, tokens=(*reply.tokens, *tokens), state=state)
                yield reply
        finished = bool(reply.tokens) and reply.tokens[-1].finish_reason is not None
        yield replace(reply, state="complete" if finished else "stopped")

    def stop(self) -> None:
        """End what is being decoded before its next step; its tokens stay."""
        self._stopped = True
        if self._running is not None:
            self._running.stop()

    def clear(self) -> None:
        """Forget everything; what is being decoded ends."""
        self._cleared = True
        self.stop()
        self.turns = ()


class Conversations:
    """The tabs that are open, by the name the page gives each."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._open: dict[str, Conversation] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Conversation]:
        return iter(tuple(self._open.values()))

    def of(self, tab: str) -> Conversation:
        """The conversation of a tab that asks, a new one the first time."""
        return self._open.setdefault(tab, Conversation(self.engine))

    def find(self, tab: str) -> Conversation | None:
        """The conversation of a tab; None if it never asked, or was closed."""
        return self._open.get(tab)

    def drop(self, tab: str) -> None:
        """A tab was closed: its decoding ends, its turns are forgotten."""
        conversation = self._open.pop(tab, None)
        if conversation is not None:
            conversation.clear()

    def close(self) -> None:
        """End everything."""
        for tab in list(self._open):
            self.drop(tab)
