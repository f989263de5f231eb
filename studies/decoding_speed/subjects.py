"""The models that decode, each as a nested store with prompts of its own kind."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from accuracy.decoding import Prompt
from accuracy.quantization import NestedSettings, quantize
from hwsim.trace import Schedule
from studies.quantization_quality.subjects import quick_subject, shared_folder, subject_makers

MAX_NEW_TOKENS = 48
PROMPTS = 64
WIDTHS = (4, 3, 2)


@dataclass(frozen=True)
class Case:
    """A model to be measured.

    Attributes:
        name: What results call it.
        store: Its nested store, 2 to 4 bits.
        prompts: Held-out prompts, all with the same bound on their responses.
    """

    name: str
    store: Path
    prompts: tuple[Prompt, ...]

    @property
    def max_new_tokens(self) -> int:
        """Bound M on a response."""
        return self.prompts[0].max_new_tokens

    @property
    def schedule(self) -> Schedule:
        """What single schedules are timed with: 4 bits, and 3 from the middle of the longest response on."""
        return Schedule.from_pairs(4, [(0, 4), (self.max_new_tokens // 2, 3)])


def subject_names(quick: bool) -> list[str]:
    """The models at hand; only the shipped one for a quick run."""
    return list(subject_makers(None if quick else shared_folder()))


def make_case(name: str, folder: Path, quick: bool) -> Case:
    """Quantise one of :func:`subject_names` into ``folder`` and take its prompts."""
    subject = quick_subject() if quick else subject_makers(shared_folder())[name]()
    with warnings.catch_warnings():
        # The models are small and their codebooks dear, which speed on a CPU does not depend on.
        warnings.simplefilter("ignore", UserWarning)
        quantize(subject.folder, folder, NestedSettings(max_bits=WIDTHS[0]), progress=False)
    prompts = [
        replace(prompt, max_new_tokens=min(prompt.max_new_tokens, MAX_NEW_TOKENS))
        for prompt in subject.prompts[:PROMPTS]
    ]
    return Case(name, folder, tuple(prompts))
