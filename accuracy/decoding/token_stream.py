"""One response as an iterator: decoded in a thread of its own, its tokens given as they are made."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Self

from accuracy.decoding.streaming import StreamedToken
from accuracy.model import ModelBusyError

if TYPE_CHECKING:
    from accuracy.decoding.decoder import Decoder
    from accuracy.decoding.sampling import Sampling
    from accuracy.decoding.tree import Prompt
    from accuracy.schedulers import Scheduler

_BUSY_WAIT_S = 0.05


class _StoppedError(Exception):
    """Ends a run from inside one of its callbacks."""


class TokenStream(Iterator[StreamedToken]):
    """Decodes one prompt and gives its tokens in order; what decoding raises is raised here, after its last token.

    The run goes at its own speed, whether or not anybody takes tokens, and ends by itself, so that a reader that
    vanished blocks nobody. A model has one width at a time, so that its streams wait for each other.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompt: Prompt,
        scheduler: Scheduler,
        *,
        sampling: Sampling | None = None,
    ) -> None:
        """Check and begin.

        Args:
            decoder: Of the model.
            prompt: What to answer.
            scheduler: Which widths to use.
            sampling: How tokens are drawn; greedy by default.

        Raises:
            InputError: As :meth:`Decoder.check`.
        """
        decoder.check([prompt], [scheduler])
        self._decoder, self._prompt, self._scheduler, self._sampling = decoder, prompt, scheduler, sampling
        self._stop, self._began = Event(), Event()
        self._tokens: SimpleQueue[StreamedToken | None] = SimpleQueue()
        self._error: Exception | None = None
        self._drained = False
        self._thread = Thread(target=self._run, name=f"decode {prompt.id}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> bool:
        """Whether another run of the model must end first."""
        return not self._began.is_set()

    @property
    def ended(self) -> bool:
        """Whether every token was taken and no more will come."""
        return self._drained and self._error is None

    def stop(self) -> None:
        """End the run before its next decoder block, without waiting for that; tokens already made can be taken."""
        self._stop.set()

    def close(self) -> None:
        """End the run and wait until it holds nothing any more."""
        self.stop()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StreamedToken:
        token = None if self._drained else self._tokens.get()
        if token is None:
            self._drained = True
            self._raise_error()
            raise StopIteration
        return token

    def take(self, timeout_s: float) -> list[StreamedToken]:
        """Give the tokens made since the last call; waits up to ``timeout_s`` for the first of them."""
        tokens: list[StreamedToken] = []
        while not self._drained:
            try:
                token = self._tokens.get(timeout=0 if tokens else timeout_s)
            except Empty:
                break
            if token is None:
                self._drained = True
            else:
                tokens.append(token)
        if self._drained and not tokens:
            self._raise_error()
        return tokens

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        try:
            while not self._decoded():
                self._stop.wait(_BUSY_WAIT_S)
        except _StoppedError:
            pass
        except Exception as error:
            self._error = error
        finally:
            self._tokens.put(None)

    def _decoded(self) -> bool:
        """Decode if nobody else does with the model."""
        self._end_if_stopped()
        try:
            self._decoder.decode_batch(
                [self._prompt],
                [self._scheduler],
                sampling=self._sampling,
                on_token=self._give,
                on_block=self._proceed,
            )
        except ModelBusyError:
            if self._began.is_set():
                raise  # of a scheduler that decodes with the model it plans for: waiting would not help
            return False
        return True

    def _proceed(self) -> None:
        """Called by the decoder before every decoder block."""
        self._began.set()
        self._end_if_stopped()

    def _give(self, token: StreamedToken) -> None:
        """Called by the decoder between two steps."""
        self._end_if_stopped()
        self._tokens.put(token)

    def _end_if_stopped(self) -> None:
        if self._stop.is_set():
            raise _StoppedError
