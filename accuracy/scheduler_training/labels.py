"""Labels: which candidate schedule each prompt needs, found by decoding it under every one (PMPD, Appendix A.1.2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from accuracy.decoding import Decoder, Prompt, Response, batches
from accuracy.metrics import Reference, get_metric
from accuracy.precision import PrecisionSwitch
from accuracy.scheduler_training.features import ALL_INPUTS, FeatureInput, FeatureRecorder, FixedClass
from accuracy.scheduler_training.label_store import LabelledPrompts, LabelRecord, LabelSettings, LabelWriter
from accuracy.schedulers import CandidateSet, UniformScheduler
from hwsim.trace import FULL_PRECISION_BITS, InputError, canonical_sha256

if TYPE_CHECKING:
    from accuracy.model import LanguageModel

SCORE = "fidelity_rouge_l"


def collect_labels(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    candidates: CandidateSet,
    out: Path | str,
    *,
    inputs: Sequence[FeatureInput] = ALL_INPUTS,
    batch_size: int = 32,
    progress: bool = True,
    switch: PrecisionSwitch | None = None,
) -> LabelledPrompts:
    """Decode every prompt under every class and at full precision, and keep the scores and the prompt's features.

    The classes share prefixes, and the features come out of the same prefill. One folder serves every network that
    reads one of ``inputs``. A run that was killed goes on at its first unfinished batch.

    Args:
        lm: The model, as a nested store that keeps its full precision.
        prompts: What to label.
        candidates: The classes.
        out: Folder of the labels.
        inputs: Features to record; all by default.
        batch_size: Prompts decoded together.
        progress: Show a progress bar.
        switch: How the width is set, where ``lm`` is not a model of any-precision layers.

    Raises:
        InputError: If a prompt or width cannot be used, there are fewer than two classes, or the folder holds labels
            with other settings.
    """
    check_candidates(candidates)
    if not inputs:
        raise InputError("inputs: none given; known: " + ", ".join(one.name for one in ALL_INPUTS))
    settings = LabelSettings(
        model_name=lm.name,
        model_sha256=lm.model_sha256,
        store_sha256=lm.store_sha256,
        dtype=str(next(lm.model.parameters()).dtype),
        layers=lm.shape.layers,
        widths=candidates.widths,
        points=candidates.points,
        prefill_weight_bits=candidates.prefill_weight_bits,
        inputs=tuple(one.name for one in inputs),
        score=SCORE,
        prompts=len(prompts),
        prompts_sha256=prompts_sha256(prompts),
        max_new_tokens=max((prompt.max_new_tokens for prompt in prompts), default=0),
        batch_size=batch_size,
    )
    decoder = Decoder(lm, switch)
    classes = [FixedClass(candidates, index) for index in range(candidates.classes)]
    full_precision = UniformScheduler(FULL_PRECISION_BITS)
    decoder.check(prompts, [*classes, full_precision])
    with LabelWriter(Path(out), settings) as writer:
        groups = batches(prompts, batch_size)
        numbers = {prompt.id: number for number, prompt in enumerate(prompts)}
        recorded = [FeatureInput.named(name) for name in writer.settings.inputs]
        with tqdm(total=len(prompts), desc="labels", unit="prompt", disable=not progress) as bar:
            for number, batch in enumerate(groups):
                if number not in writer.batches:
                    recorder = FeatureRecorder(candidates, candidates.classes - 1, recorded, lm.shape.layers)
                    grid = decoder.decode_batch(batch, [*classes[:-1], recorder, full_precision])
                    *by_class, full = grid.responses
                    records = [
                        LabelRecord(
                            number=numbers[prompt.id],
                            batch=number,
                            place=place,
                            batch_prompts=len(batch),
                            **_measure(prompt, [responses[place] for responses in by_class], full[place]),
                        )
                        for place, prompt in enumerate(batch)
                    ]
                    writer.add(number, records, [recorder.features[prompt.id] for prompt in batch])
                bar.update(len(batch))
    return LabelledPrompts.read(out)


def check_candidates(candidates: CandidateSet) -> CandidateSet:
    """Give the candidates back if there is something to choose between.

    Raises:
        InputError: If there is not.
    """
    if candidates.classes < 2:
        raise InputError(f"widths = {list(candidates.widths)}: a scheduler needs at least 2 widths to choose between")
    return candidates


def prompts_sha256(prompts: Sequence[Prompt]) -> str:
    """Hash of everything about prompts that decides their responses."""
    return canonical_sha256([[one.id, one.token_ids, one.max_new_tokens, one.min_new_tokens] for one in prompts])


def _measure(prompt: Prompt, by_class: Sequence[Response], full: Response) -> dict[str, Any]:
    """What a record says about a prompt and its responses."""
    metric, reference = get_metric(SCORE), Reference("", full)
    return {
        "id": prompt.id,
        "prompt_tokens": len(prompt.token_ids),
        "scores": tuple(metric.statistics(response, reference)[0] for response in by_class),
        "full_precision_score": metric.statistics(full, reference)[0],
        "decode_steps": tuple(len(response.decode_weight_bits) for response in by_class),
        "decode_bits": tuple(sum(response.decode_weight_bits) for response in by_class),
    }
