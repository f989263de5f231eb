"""Paragraphs put together from Tatoeba's sentence pairs: text of another kind than what is reported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from accuracy.tasks import Example, Task, hashed_split, prompt_sha256
from accuracy.tasks.base import Split
from accuracy.tasks.tatoeba import tatoeba_pairs
from hwsim.trace import canonical_sha256, file_sha256

EXAMPLES = 1000
"""Of each split."""


class TatoebaTask(Task):
    """French paragraphs of a few sentences with their English, split by the paragraphs' hashes.

    Every pair is used once at most, so that no pair is in two splits; one whose French stands whole in a text that is
    reported is left out.
    """

    name = "tatoeba"
    metrics = ("bleu", "rouge_l")

    def __init__(
        self,
        archive: Path,
        *,
        sentences: tuple[int, int],
        reported: Iterable[str],
        max_new_tokens: int,
        template: str = "<s>{prompt}<sep>",
        seed: int = 0,
    ) -> None:
        """Read the pairs.

        Args:
            archive: The zip file with tab-separated pairs, English first.
            sentences: Fewest and most sentences of a paragraph.
            reported: Texts that no pair may be taken from.
            max_new_tokens: Bound on a response.
            template: Text around a prompt.
            seed: Of the order of the pairs and the lengths.
        """
        self.max_new_tokens = max_new_tokens
        self._pairs, self._sentences, self._template, self._seed = tatoeba_pairs(archive), sentences, template, seed
        # Line breaks keep a sentence from being found across two texts.
        self._reported = "\n".join(" ".join(text.split()) for text in reported)
        form = [1, file_sha256(archive), sentences, template, seed, canonical_sha256(self._reported)]
        self.version = canonical_sha256(form)[:16]

    def _stream(self, split: Split) -> Iterator[Example]:
        generator = np.random.default_rng(self._seed)
        order = iter(generator.permutation(len(self._pairs)).tolist())
        low, high = self._sentences
        given = number = 0
        seen: set[str] = set()
        while given < EXAMPLES:
            number += 1
            length = int(generator.integers(low, high + 1))
            chosen: list[tuple[str, str]] = []
            while len(chosen) < length:
                index = next(order, None)
                if index is None:
                    return
                if self._pairs[index][1] not in self._reported:
                    chosen.append(self._pairs[index])
            prompt = self._template.replace("{prompt}", " ".join(french for _, french in chosen))
            identity = prompt_sha256(prompt)
            if identity not in seen and hashed_split(prompt) == split:
                given += 1
                yield Example(f"tatoeba-{number}", prompt, " ".join(english for english, _ in chosen))
            seen.add(identity)
