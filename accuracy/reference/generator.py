"""Examples of the reference task: plain-English paragraphs and their one correct Selvic translation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from accuracy.reference.draw import Draws
from accuracy.reference.english import write_english
from accuracy.reference.lexicon import DOMAINS
from accuracy.reference.meaning import draw_paragraph
from accuracy.reference.names import SPLIT_SHARES
from accuracy.reference.selvic import write_selvic
from hwsim.trace import InputError, unknown_name

TASK_NAME = "selvic"
TASK_VERSION = "2"
MAX_NEW_TOKENS = 96
"""Longest output decoded; the longest reference of any split is shorter."""
MODEL_FOLDER = Path(__file__).parent / "selvic-llama"

SCHEDULER_FOLDER = Path(__file__).parent / "selvic-scheduler"
"""A learned scheduler for the store that ``bittaper quantize`` makes of the model with its defaults."""

SPLITS = tuple(SPLIT_SHARES)
REPORTED_DOMAINS = ("market", "travel", "weather", "household")
"""Domains of calib, val and test unless another is asked for."""
SCHEDULER_DOMAIN = "harbour"
"""A domain that no reported prompt comes from, for training learned schedulers."""


@dataclass(frozen=True)
class ReferenceExample:
    """One prompt with its reference; `id` names split, domain and position."""

    id: str
    domain: str
    prompt: str
    reference: str

    @property
    def prompt_sha256(self) -> str:
        """Hash of the prompt's text, by which splits are compared."""
        return hashlib.sha256(self.prompt.encode()).hexdigest()


def examples(split: str, count: int, domain: str | None = None) -> list[ReferenceExample]:
    """Generate the first examples of a split, always the same ones.

    A split draws the names of people from a pool of its own, so that no prompt can be in two splits and names of a
    held-out split were never seen in training.

    Args:
        split: train, calib, val or test.
        count: How many examples; a longer list starts with the shorter one.
        domain: One domain; without it all domains for train, the reported ones in turn for the other splits.

    Raises:
        InputError: For an unknown split or domain or a count below 1.
    """
    if count < 1:
        raise InputError(f"count = {count}: must be at least 1")
    return list(islice(stream_examples(split, domain), count))


def stream_examples(split: str, domain: str | None = None) -> Iterator[ReferenceExample]:
    """Generate the examples of a split without end and without a prompt twice; see `examples`."""
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if domain is not None and domain not in DOMAINS:
        raise unknown_name("domain", domain, DOMAINS)
    domains = (domain,) if domain else (tuple(DOMAINS) if split == "train" else REPORTED_DOMAINS)
    return _stream(split, domains)


def _stream(split: str, domains: tuple[str, ...]) -> Iterator[ReferenceExample]:
    key = f"{TASK_NAME} {TASK_VERSION} {split} {' '.join(domains)}"
    seen: set[str] = set()
    index = 0
    while True:
        domain = domains[index % len(domains)]
        paragraph = draw_paragraph(Draws(f"{key} {index}"), domain, split)
        index += 1
        prompt = write_english(paragraph)
        if prompt not in seen:
            seen.add(prompt)
            yield ReferenceExample(f"{split}-{domain}-{index - 1}", domain, prompt, write_selvic(paragraph))
