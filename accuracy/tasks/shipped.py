"""The shipped task: paragraphs of the repository's own grammar with their translations."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from accuracy.reference import MAX_NEW_TOKENS, TASK_NAME, TASK_VERSION, encode_prompt, stream_examples
from accuracy.tasks.base import Example, Split, Task, register_task

EXAMPLES = 1000
"""Of each split; the generator itself has no end."""


@register_task(TASK_NAME)
class ShippedTask(Task):
    """Examples of :mod:`accuracy.reference`, the domain of the learned scheduler's training left out."""

    name = TASK_NAME
    version = TASK_VERSION
    max_new_tokens = MAX_NEW_TOKENS
    metrics = ("bleu", "rouge_l")

    def __init__(self, domain: str | None = None) -> None:
        """Choose a domain.

        Args:
            domain: One domain of the generator; the reported ones in turn by default.
        """
        self._domain = domain
        if domain is not None:
            self.version = f"{TASK_VERSION}-{domain}"

    def _stream(self, split: Split) -> Iterable[Example]:
        for example in islice(stream_examples(split, self._domain), EXAMPLES):
            yield Example(example.id, example.prompt, example.reference)

    def encode(self, tokenizer: Any, prompt: str) -> list[int]:
        """Use the form the model was trained on."""
        return encode_prompt(tokenizer, prompt)
