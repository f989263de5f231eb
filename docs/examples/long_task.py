"""A task of long translations: the shipped prompts whose references have at least so many words."""

from __future__ import annotations

from collections.abc import Iterable

from accuracy.tasks import Example, ShippedTask, Split, register_task
from hwsim.trace import InputError


@register_task("selvic-long")
class LongTask(ShippedTask):
    """The shipped task without its short translations; its splits stay as they are."""

    name = "selvic-long"

    def __init__(self, least_words: int = 30) -> None:
        """Choose.

        Raises:
            InputError: If there would be nothing to leave out.
        """
        if least_words < 1:
            raise InputError(f"least_words = {least_words}: must be >= 1")
        super().__init__()
        self._least_words = least_words
        # Results are kept under the version: it must change whenever a prompt, a reference or a split does.
        self.version = f"{self.version}-long{least_words}"

    def _stream(self, split: Split) -> Iterable[Example]:
        for example in super()._stream(split):
            if len((example.reference or "").split()) >= self._least_words:
                yield example
