"""BERTScore F1 with an encoder from a local folder or the hub.

Source: Zhang et al., "BERTScore: Evaluating Text Generation with BERT", ICLR 2020. The score is that of the
bert-score package, without idf weights and without rescaling by a baseline, as the paper reports it. The encoder is
loaded here and not there, because bert-score guesses from the characters of a path what kind of model it is (``t5``
anywhere in it, ``scibert`` at its start, which runs a shell command) and bounds a text only by what the tokenizer says.
It computes in float32; which texts share a batch moves a score by rounding error, about 0.00001 of 100.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download

from accuracy.decoding import Response
from accuracy.metrics.base import METRICS, Metric, Reference, ReferenceKind, metric_name
from accuracy.model import (
    CONFIG_NAME,
    LOAD_ERRORS,
    TOKENIZER_FILES,
    display_name,
    load_errors,
    load_tokenizer,
    quiet_transformers,
    weights_sha256,
)
from accuracy.statistics import Floats, mean
from hwsim.trace import InputError, canonical_sha256, file_sha256

DEFAULT_ENCODER = "roberta-large"
"""The package's choice for English, of which it takes layer 17; so does the paper."""
ENCODER_VARIABLE = "BITTAPER_ENCODER"
UNBOUNDED_TOKENS = 512
"""Where a tokenizer states no bound: the context of BERT and RoBERTa."""


class BertScorer:
    """Scores pairs of texts with one encoder, each pair once.

    Attributes:
        name: The encoder's folder name or hub name.
    """

    def __init__(self, encoder: Path | str, layer: int | None = None, *, batch_size: int = 64) -> None:
        """Choose the encoder; nothing is loaded before it is needed.

        Args:
            encoder: Folder, or hub name such as ``roberta-large``.
            layer: Layer (1-based) whose output is compared; by default the one that bert-score tuned for a model of
                this name, else the last.
            batch_size: Texts encoded together.
        """
        self.name = display_name(encoder)
        self._encoder, self._layer, self._batch_size = str(encoder), layer, batch_size
        self._folder: Path | None = None
        self._loaded: tuple[Any, Any] | None = None
        self._known: dict[tuple[str, str], float] = {}

    @property
    def folder(self) -> Path:
        """Where the encoder's files lie; a hub name is fetched, or found in the hub's cache.

        Raises:
            InputError: If there is no such encoder.
        """
        if self._folder is None:
            self._folder = _find_encoder(self._encoder)
        return self._folder

    @property
    def layer(self) -> int:
        """The layer (1-based) whose output is compared.

        Raises:
            InputError: If the encoder has no such layer.
        """
        from bert_score.utils import model2layers
        from transformers import AutoConfig

        with quiet_transformers(), load_errors(f"encoder '{self.name}'"):
            config = AutoConfig.from_pretrained(self.folder.resolve(), trust_remote_code=False)
        if config.is_encoder_decoder or not hasattr(config, "num_hidden_layers"):
            raise InputError(
                f"encoder '{self.name}': a {config.model_type} is no encoder alone; use one such as {DEFAULT_ENCODER}"
            )
        layers = int(config.num_hidden_layers)
        layer = model2layers.get(self.name, layers) if self._layer is None else self._layer
        if not 1 <= layer <= layers:
            raise InputError(f"layer = {layer}: encoder '{self.name}' has layers 1..{layers}")
        return int(layer)

    def settings(self) -> Mapping[str, Any]:
        """What decides the scores: the files of the encoder, and the layer."""
        files = sorted(file for pattern in TOKENIZER_FILES for file in self.folder.glob(pattern))
        hashes = {file.name: file_sha256(file) for file in (self.folder / CONFIG_NAME, *files)}
        return {
            "encoder": self.name,
            "encoder_sha256": canonical_sha256([weights_sha256(self.folder), hashes]),
            "layer": self.layer,
        }

    def scores(self, predictions: Sequence[str], references: Sequence[str]) -> list[float]:
        """F1 times 100 of each prediction against its reference: 0 where either is empty, 100 where both are equal."""
        pairs = list(zip(predictions, references, strict=True))
        for pair in pairs:
            if not all(map(str.strip, pair)):
                self._known[pair] = 0.0
            elif pair[0] == pair[1]:
                self._known[pair] = 100.0
        fresh = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if fresh:
            self._known.update(zip(fresh, self._score(fresh), strict=True))
        return [self._known[pair] for pair in pairs]

    def _score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        from bert_score.utils import bert_cos_score_idf

        model, tokenizer = self._load()
        weights = defaultdict(lambda: 1.0, {tokenizer.sep_token_id: 0.0, tokenizer.cls_token_id: 0.0})
        predictions, references = (list(side) for side in zip(*pairs, strict=True))
        device = next(model.parameters()).device
        found = bert_cos_score_idf(
            model, references, predictions, tokenizer, weights, device=device, batch_size=self._batch_size
        )
        f1: list[float] = (100 * found[:, 2].double()).tolist()
        return f1

    def _load(self) -> tuple[Any, Any]:
        """The encoder up to its layer, and its tokenizer."""
        if self._loaded is None:
            from transformers import AutoModel

            name, folder = f"encoder '{self.name}'", self.folder.resolve()
            with quiet_transformers(), load_errors(name):
                model = AutoModel.from_pretrained(
                    folder, num_hidden_layers=self.layer, dtype=torch.float32, trust_remote_code=False
                )
                tokenizer = _load_tokenizer(folder, name)
            tokenizer.model_max_length = min(tokenizer.model_max_length, _bound(model))
            self._loaded = model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer
        return self._loaded


def _load_tokenizer(folder: Path, name: str) -> Any:
    from transformers import AutoTokenizer, GPT2Tokenizer, RobertaTokenizer

    tokenizer = load_tokenizer(str(folder), name)
    if isinstance(tokenizer, GPT2Tokenizer | RobertaTokenizer):
        # bert-score asks for a space before the first word whenever it encodes, which transformers 5 ignores.
        tokenizer = AutoTokenizer.from_pretrained(folder, add_prefix_space=True, trust_remote_code=False)
    if len(tokenizer("word")["input_ids"]) <= len(tokenizer("")["input_ids"]):
        raise InputError(f"{name}: its tokenizer turns words into nothing; save it again with this transformers")
    return tokenizer


def _bound(model: Any) -> int:
    """Tokens that the encoder's positions hold, where its tokenizer says more or nothing."""
    positions = int(getattr(model.config, "max_position_embeddings", UNBOUNDED_TOKENS))
    if hasattr(getattr(model, "embeddings", None), "create_position_ids_from_input_ids"):
        positions -= model.config.pad_token_id + 1  # RoBERTa counts positions from behind its padding
    return min(positions, UNBOUNDED_TOKENS)


def _find_encoder(encoder: str) -> Path:
    path = Path(encoder).expanduser()
    if path.is_dir():
        return path
    try:
        return Path(snapshot_download(encoder, allow_patterns=[CONFIG_NAME, "*.safetensors", *TOKENIZER_FILES]))
    except LOAD_ERRORS:
        raise InputError(
            f"encoder '{encoder}': no such folder, and no such model in the hub's cache or on the hub; give the folder "
            f"of an encoder by --encoder or {ENCODER_VARIABLE}"
        ) from None


@lru_cache(maxsize=4)
def _scorer(encoder: str, layer: int | None) -> BertScorer:
    """One scorer per encoder, so that metrics share it and what it knows."""
    return BertScorer(encoder, layer)


def _metric(kind: ReferenceKind, encoder: Path | str | None = None, layer: int | None = None) -> Metric:
    scorer = _scorer(str(encoder or os.environ.get(ENCODER_VARIABLE) or DEFAULT_ENCODER), layer)

    def statistics_many(responses: Sequence[Response], references: Sequence[Reference]) -> Floats:
        ours, theirs = [one.text for one in responses], [one.text(kind) for one in references]
        scores = np.array(scorer.scores(ours, theirs), dtype=np.float64)
        if kind == "full-precision":
            scores[[a == b for a, b in zip(ours, theirs, strict=True)]] = 100.0
        return scores[:, None]

    against = "" if kind == "gold" else " against the full-precision output"
    return Metric(
        metric_name("bertscore", kind),
        "maximize",
        kind,
        statistics_many,
        mean,
        f"BERTScore F1 x 100{against} (bert-score, encoder {scorer.name}, no idf, not rescaled), mean over prompts",
        scorer.settings,
    )


METRICS.register("bertscore")(partial(_metric, "gold"))
METRICS.register("fidelity_bertscore")(partial(_metric, "full-precision"))
