"""Prompts to train the learned scheduler on, of another kind than those that will be reported (design decision 8).

Every function gives prompts that differ, fit the model's context with their response, and are none of the
``reported`` ones. The id of a prompt is its :func:`accuracy.tasks.prompt_sha256`, so that this can be checked.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accuracy.decoding import Prompt
from accuracy.reference import SCHEDULER_DOMAIN, encode_prompt, stream_examples
from accuracy.tasks import SelfCompletionTask, Task, prompt_sha256
from accuracy.tasks.tatoeba import tatoeba_pairs
from hwsim.trace import InputError, read_json, read_text

if TYPE_CHECKING:
    from accuracy.model import LanguageModel
    from accuracy.precision import PrecisionSwitch

SHIPPED_NEW_TOKENS = 61
"""Near a typical response of the shipped model, so that the candidate steps 20 and 40 fall inside it."""
SELF_COMPLETION_SEED = 1
"""Not 0, which the reported prompts are sampled with."""
SHORTEST_CUT_TOKENS, LONGEST_CUT_TOKENS = 32, 2048
"""Bounds of a completion prompt, as in the paper's public code."""
SENTENCE_END = re.compile(r"(?<=[.!?…])\s+")


def shipped_prompts(
    lm: LanguageModel, count: int, *, max_new_tokens: int = SHIPPED_NEW_TOKENS, reported: Iterable[str] = ()
) -> list[Prompt]:
    """Paragraphs of the shipped generator's own domain for this purpose, from its calibration pool of names."""
    texts = (example.prompt for example in stream_examples("calib", SCHEDULER_DOMAIN))
    pairs = ((text, encode_prompt(lm.tokenizer, text)) for text in texts)
    return _choose(lm, pairs, count, max_new_tokens, reported)


def self_completion_prompts(
    lm: LanguageModel,
    count: int,
    *,
    max_new_tokens: int,
    min_prompt_tokens: int = 8,
    max_prompt_tokens: int = 48,
    seed: int = SELF_COMPLETION_SEED,
    reported: Iterable[str] = (),
    switch: PrecisionSwitch | None = None,
) -> list[Prompt]:
    """Beginnings that the model sampled itself at temperature 1, all of the calibration split by their hashes.

    Equal texts have equal hashes, so that no prompt of another split's can be among them, whatever its seed.
    """
    task = SelfCompletionTask(
        lm,
        min_prompt_tokens=min_prompt_tokens,
        max_prompt_tokens=max_prompt_tokens,
        max_new_tokens=max_new_tokens,
        seed=seed,
        switch=switch,
    )
    return task_prompts(lm, task, count, reported=reported)


def task_prompts(
    lm: LanguageModel,
    task: Task,
    count: int,
    *,
    split: str = "calib",
    max_new_tokens: int | None = None,
    reported: Iterable[str] = (),
) -> list[Prompt]:
    """The first prompts of a task's split; a task-agnostic scheduler wants another task than the reported one."""
    reported = list(reported)
    left_out = _identities(reported)
    examples = task.examples(split, count)
    if any(prompt_sha256(example.prompt) in left_out for example in examples):
        examples = task.examples(split, count + len(left_out))
    pairs = ((example.prompt, task.encode(lm.tokenizer, example.prompt)) for example in examples)
    return _choose(lm, pairs, count, max_new_tokens or task.max_new_tokens, reported)


def tatoeba_prompts(
    lm: LanguageModel,
    archive: Path | str,
    count: int,
    *,
    max_new_tokens: int,
    sentences: tuple[int, int] = (1, 6),
    template: str = "<s>{prompt}<sep>",
    reported: Iterable[str] = (),
    seed: int = 0,
) -> list[Prompt]:
    """French entries of Tatoeba (sentences, most of them), drawn without replacement and joined to paragraphs.

    Args:
        lm: The model.
        archive: ``fra-eng.zip`` of manythings.org/anki, or the ``fra.txt`` in it.
        count: Number of prompts.
        max_new_tokens: Bound on a response.
        sentences: Fewest and most entries of a paragraph, drawn uniformly.
        template: Text around a paragraph.
        reported: Prompts that will be reported; an entry with a sentence that occurs in one of them is left out.
        seed: Of the drawing.

    Raises:
        InputError: If the archive cannot be used, the bounds do not rise from 1, or it holds too few sentences.
    """
    low, high = sentences
    if not 1 <= low <= high:
        raise InputError(f"sentences = {sentences}: must rise from 1")
    if "{prompt}" not in template:
        raise InputError(f"template = {template!r}: must contain {{prompt}}")
    reported = list(reported)
    known = "\n".join(" ".join(text.split()) for text in reported)
    pool = [french for _, french in tatoeba_pairs(Path(archive))]
    draws = random.Random(seed)
    draws.shuffle(pool)

    def paragraphs() -> Iterator[tuple[str, Sequence[int]]]:
        # An entry can hold several sentences, of which one may be reported elsewhere.
        fresh = (entry for entry in pool if not any(part in known for part in SENTENCE_END.split(entry)))
        while True:
            drawn = list(islice(fresh, draws.randint(low, high)))
            if not drawn:
                return
            text = template.replace("{prompt}", " ".join(drawn))
            yield text, lm.tokenizer(text)["input_ids"]

    return _choose(lm, paragraphs(), count, max_new_tokens, reported)


def completion_prompts(
    lm: LanguageModel,
    path: Path | str,
    count: int,
    *,
    max_new_tokens: int,
    seed: int = 0,
    reported: Iterable[str] = (),
) -> list[Prompt]:
    """Beginnings of a file's texts, in its order, cut at random to completion tasks, as the paper does with C4.

    Of a text of L tokens the first n remain, n uniform in [min(32, L // 2), L] and at most 2048; texts of one token
    are passed over.

    Args:
        lm: The model.
        path: A JSON list of texts, JSON Lines with a field ``text`` (C4's form), or plain text with blank lines
            between its texts.
        count: Number of prompts.
        max_new_tokens: Bound on a response.
        seed: Of the cuts.
        reported: Prompts that will be reported.

    Raises:
        InputError: If the file cannot be used or holds too few texts.
    """
    longest = min(LONGEST_CUT_TOKENS, lm.shape.max_context - max_new_tokens)
    draws = random.Random(seed)

    def cuts() -> Iterator[tuple[str, Sequence[int]]]:
        for text in _texts(Path(path)):
            ids = lm.tokenizer(text)["input_ids"]
            low, high = min(SHORTEST_CUT_TOKENS, len(ids) // 2), min(len(ids), longest)
            if 1 <= low <= high:
                kept = ids[: draws.randint(low, high)]
                yield lm.tokenizer.decode(kept, skip_special_tokens=True), kept

    return _choose(lm, cuts(), count, max_new_tokens, reported)


def _choose(
    lm: LanguageModel,
    pairs: Iterable[tuple[str, Sequence[int]]],
    count: int,
    max_new_tokens: int,
    reported: Iterable[str],
) -> list[Prompt]:
    """The first ``count`` prompts that differ, fit, and are not reported.

    Raises:
        InputError: If there are fewer.
    """
    if count < 1:
        raise InputError(f"prompts = {count}: must be >= 1")
    seen = _identities(reported)
    chosen: list[Prompt] = []
    for text, ids in pairs:
        identity = prompt_sha256(text)
        if identity not in seen and len(ids) + max_new_tokens <= lm.shape.max_context:
            seen.add(identity)
            chosen.append(Prompt(identity, tuple(ids), max_new_tokens))
            if len(chosen) == count:
                return chosen
    raise InputError(
        f"prompts = {count}: the training text gives only {len(chosen)} that differ, are not reported, and fit "
        f"{lm.shape.max_context} tokens with max_new_tokens = {max_new_tokens}; ask for fewer or give more text"
    )


def _identities(texts: Iterable[str]) -> set[str]:
    return {prompt_sha256(text) for text in texts}


def _texts(path: Path) -> Iterator[str]:
    if path.suffix == ".jsonl":
        values: Iterable[Any] = (
            _text_of(line, f"{path}:{n}") for n, line in enumerate(_lines(path), 1) if line.strip()
        )
    elif path.suffix == ".json":
        values = read_json(path)
        if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
            raise InputError(f"{path}: must be a JSON list of texts")
    else:
        values = read_text(path).split("\n\n")
    return (text for text in values if text.strip())


def _lines(path: Path) -> list[str]:
    return read_text(path).split("\n")


def _text_of(line: str, where: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error.msg})") from None
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise InputError(f"{where}: must be an object with a field 'text'")
    return text
