"""The model behind the page: found or quantised, told what it is, and how a prompt becomes its tokens."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hwsim.trace import InputError, shape_from_config

if TYPE_CHECKING:
    import torch

    from accuracy.model import LanguageModel

Kind = Literal["shipped", "chat", "completion"]
EXAMPLES = 6
LONGEST_TOKEN_CHARACTERS = 256
"""A prompt of more characters than this times the context is refused unread; tokenising megabytes takes minutes."""


@dataclass(frozen=True)
class DemoModel:
    """A language model and what the page says about it.

    Attributes:
        lm: The model.
        kind: ``shipped``: translates, with its own prompt form. ``chat``: its tokenizer has a chat template, and
            earlier turns are part of the prompt. ``completion``: goes on with the text as it stands.
    """

    lm: LanguageModel
    kind: Kind

    @classmethod
    def of(cls, lm: LanguageModel) -> DemoModel:
        """Tell the kind of a model."""
        from accuracy.model import weights_sha256
        from accuracy.reference import MODEL_FOLDER

        if lm.model_sha256 == weights_sha256(Path(MODEL_FOLDER)):
            return cls(lm, "shipped")
        return cls(lm, "chat" if getattr(lm.tokenizer, "chat_template", None) else "completion")

    @property
    def about(self) -> str:
        """What it is and can do, in a sentence or two."""
        size = f"{self.lm.shape.linear_weights():,} weights in its linear layers"
        if self.kind == "shipped":
            return (
                f"The shipped reference model ({size}) translates short paragraphs of plain English into Selvic, an "
                "invented language. It knows the words and sentence forms it was trained on and can do nothing else: "
                "no chat, no questions. Start from one of the example prompts; their correct translations are shown "
                "beneath the answers."
            )
        if self.kind == "chat":
            return (
                f"{self.lm.name} ({size}) is a chat model: prompts go through its own chat template, and what was "
                "said before in this tab is part of the next prompt."
            )
        return (
            f"{self.lm.name} ({size}) completes text: it goes on where the prompt ends, and each prompt stands alone."
        )

    @cached_property
    def references(self) -> dict[str, str]:
        """Example prompts with the one right answer to each; none but for the shipped model."""
        from accuracy.reference import examples

        return {one.prompt: one.reference for one in examples("val", EXAMPLES)} if self.kind == "shipped" else {}

    @property
    def usual_tokens(self) -> int:
        """A bound on responses to start with."""
        from accuracy.reference import MAX_NEW_TOKENS

        return MAX_NEW_TOKENS if self.kind == "shipped" else max(1, min(256, self.lm.shape.max_context // 2))

    def encode(self, prompt: str, turns: Sequence[tuple[str, str]] = ()) -> tuple[int, ...]:
        """The tokens of a prompt.

        Args:
            prompt: As it was typed.
            turns: Earlier prompts with their answers; only a chat model reads them.

        Raises:
            InputError: If the prompt is empty or far beyond the context, or the chat template refuses it.
        """
        from accuracy.model import quiet_transformers

        if not prompt.strip():
            raise InputError("prompt: empty; write something first")
        context = self.lm.shape.max_context
        if len(prompt) > LONGEST_TOKEN_CHARACTERS * context:
            raise InputError(
                f"prompt: {len(prompt):,} characters; {self.lm.name} holds at most {context:,} tokens, prompt and "
                "response together; shorten the prompt"
            )
        said = [
            {"role": role, "content": text}
            for asked, answered in turns
            for role, text in (("user", asked), ("assistant", answered))
        ]
        with quiet_transformers():  # it would warn the terminal of a long prompt, which the page refuses in words
            if self.kind != "chat":
                return tuple(self.lm.tokenizer(prompt)["input_ids"])
            return tuple(_apply_chat_template(self.lm.tokenizer, [*said, {"role": "user", "content": prompt}]))


def _apply_chat_template(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    """Tokens of a conversation up to where the answer begins; templates come with models and may raise anything."""
    try:
        encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    except Exception as error:
        raise InputError(f"chat template of {tokenizer.name_or_path}: {error}") from None
    ids: list[int] = encoded["input_ids"]
    return ids


def default_cache() -> Path:
    """Where stores are kept that the demo quantised itself."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bittaper"


def prepare_model(
    name: str | None,
    cache: Path,
    device: torch.device | str,
    dtype: torch.dtype | None = None,
    *,
    progress: bool = True,
) -> DemoModel:
    """Load a model; unquantised weights are quantised first, once, and standard error says so.

    Args:
        name: Store, model folder, hub name or map of widths to models; the shipped model by default.
        cache: Where the store of an unquantised model is kept.
        device: Where to compute.
        dtype: In what; the device's usual by default.
        progress: Show a progress bar while quantising.

    Raises:
        InputError: If there is no such model, it cannot be loaded or quantised, or the cache cannot be written.
    """
    from accuracy.model import load_model
    from accuracy.reference import MODEL_FOLDER

    source = name or str(MODEL_FOLDER)
    store = _store_of(source, cache, progress)
    return DemoModel.of(load_model(store or source, device=device, dtype=dtype))


def _store_of(source: str, cache: Path, progress: bool) -> Path | None:
    """The cached store of an unquantised model, made if it is not there; None for what needs none."""
    from accuracy.model import display_name, find_folder, is_store, read_config, weights_sha256
    from accuracy.quantization import quantize

    if Path(source).suffix == ".json" and not Path(source).is_dir():
        return None
    folder = find_folder(source)
    config = read_config(folder)
    if is_store(config) or "anyprec" in config:
        return None
    shape_from_config(config, display_name(folder))  # refuses what no later step could use
    store = cache / f"{display_name(folder)}-{weights_sha256(folder)[:12]}"
    if not store.exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            writable = os.access(cache, os.W_OK | os.X_OK)
        except OSError:
            writable = False
        if not writable:
            raise InputError(f"--cache {cache}: cannot be written; give a folder that can, or a store with --model")
        print(f"quantising {display_name(folder)} into {store}, once; later starts load it", file=sys.stderr)
        quantize(source, store, progress=progress)
    return store
