"""Labelled prompts made by hand, whose label can be read off their features, and small ones that were decoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from accuracy.scheduler_training.features import Features
from accuracy.scheduler_training.label_store import LabelledPrompts, LabelRecord, LabelSettings, LabelWriter

CLASSES, HEADS, KEY_DIM, VALUE_DIM = 4, 2, 3, 5
SCORES = {0: (9.0, 9.0, 9.0, 9.0), 1: (1.0, 9.0, 9.0, 9.0), 2: (1.0, 2.0, 9.0, 9.0), 3: (1.0, 2.0, 3.0, 9.0)}
"""Scores whose label is the key."""


def settings(prompts: int, **changes) -> LabelSettings:
    return LabelSettings(
        model_name="tiny",
        model_sha256="1" * 64,
        store_sha256="2" * 64,
        dtype="torch.float32",
        layers=2,
        widths=(3, 2),
        points=4,
        prefill_weight_bits=3,
        inputs=("kv-last",),
        score="fidelity_rouge_l",
        prompts=prompts,
        prompts_sha256="3" * 64,
        max_new_tokens=13,
        batch_size=8,
    ).model_copy(update=changes)


def record(number: int, label: int, batch: int, place: int, batch_prompts: int) -> LabelRecord:
    return LabelRecord(
        number=number,
        id=f"p{number}",
        prompt_tokens=4,
        scores=SCORES[label],
        full_precision_score=9.5,
        decode_steps=(12, 12, 12, 12),
        decode_bits=(24, 28, 32, 36),
        batch=batch,
        place=place,
        batch_prompts=batch_prompts,
    )


def telling_features(label: int, tokens: int, generator: torch.Generator) -> Features:
    """Values whose column ``label`` stands out in every head."""
    values = 0.3 * torch.randn(HEADS, tokens, VALUE_DIM, generator=generator)
    values[:, :, label] += 1
    return Features(torch.randn(HEADS, tokens, KEY_DIM, generator=generator).half(), values.half())


def labelled(folder: Path, labels: Sequence[int], batch_prompts: int = 8) -> LabelledPrompts:
    """Write a folder of prompts with these labels."""
    generator = torch.Generator().manual_seed(0)
    with LabelWriter(folder, settings(len(labels))) as writer:
        for batch, start in enumerate(range(0, len(labels), batch_prompts)):
            part = labels[start : start + batch_prompts]
            writer.add(
                batch,
                [record(start + place, label, batch, place, len(part)) for place, label in enumerate(part)],
                [{"kv-last": telling_features(label, 2 + place % 5, generator)} for place, label in enumerate(part)],
            )
    return LabelledPrompts.read(folder)
