"""Train the shipped reference model: ``python -m accuracy.reference.train --out FOLDER``.

One CPU thread by default. The result follows from the arguments, the seed and the versions of torch and the
processor's arithmetic alone; a killed run goes on from its last checkpoint when started again with the same folder,
to another number of steps if another is given.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accuracy.reference.draw import Draws
from accuracy.reference.generator import TASK_NAME, TASK_VERSION, stream_examples
from accuracy.reference.tokenization import BOS, EOS, PAD, save_tokenizer, special_id, train_tokenizer
from hwsim.trace import InputError, collect_provenance, write_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

TOKENIZER_EXAMPLES = 20_000
BATCHES_PER_BUCKET = 16
"""Batches cut from one sorted stretch of examples, so that little of a batch is padding."""
CHECKPOINT_SECONDS = 60
MEASURED_STEPS = 30
"""Steps after which `--minutes` becomes a number of steps."""
IGNORED_LABEL = -100


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides the weights."""

    steps: int = 3_000
    batch_examples: int = 16
    learning_rate: float = 3e-3
    warmup_steps: int = 150
    final_learning_rate_share: float = 0.02
    weight_decay: float = 0.1
    gradient_norm: float = 1.0
    seed: int = 0
    first_example: int = 0
    hidden_size: int = 192
    layers: int = 4
    intermediate_size: int = 384
    heads: int = 6
    kv_heads: int = 2


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to `final_learning_rate_share` of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    floor = config.final_learning_rate_share
    return config.learning_rate * (floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2)


def stream_batches(tokenizer: Tokenizer, config: TrainingConfig) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield input ids and next-token labels, both ``[B, T]``; only tokens of the reference and </s> are labelled."""
    import torch

    pad, eos = special_id(PAD), special_id(EOS)
    examples = islice(stream_examples("train"), config.first_example, None)
    draws = Draws(f"batch order {config.seed}")
    while True:
        rows: list[tuple[list[int], int]] = []
        for example in islice(examples, config.batch_examples * BATCHES_PER_BUCKET):
            prompt = tokenizer.encode(example.prompt).ids
            rows.append(
                (prompt + tokenizer.encode(example.reference, add_special_tokens=False).ids + [eos], len(prompt))
            )
        rows.sort(key=lambda row: len(row[0]))
        starts = list(range(0, len(rows), config.batch_examples))
        while starts:
            start = starts.pop(draws.below(len(starts)))
            batch = rows[start : start + config.batch_examples]
            length = max(len(ids) for ids, _ in batch)
            inputs = torch.full((len(batch), length - 1), pad)
            labels = torch.full((len(batch), length - 1), IGNORED_LABEL)
            for row, (ids, prompt_length) in enumerate(batch):
                inputs[row, : len(ids) - 1] = torch.tensor(ids[:-1])
                labels[row, prompt_length - 1 : len(ids) - 1] = torch.tensor(ids[prompt_length:])
            yield inputs, labels


def build_model(tokenizer: Tokenizer, config: TrainingConfig) -> Any:
    """Make an untrained Llama whose special token ids are those of the tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(config.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.hidden_size // config.heads,
            max_position_embeddings=512,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            pad_token_id=special_id(PAD),
            bos_token_id=special_id(BOS),
            eos_token_id=special_id(EOS),
        )
    )


def target_loss(model: Any, inputs: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over labelled positions; no mask is needed because padding only follows what counts."""
    from torch.nn import functional

    hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state
    labelled = labels != IGNORED_LABEL
    return functional.cross_entropy(model.lm_head(hidden[labelled]), labels[labelled])


def train(out: Path, config: TrainingConfig, minutes: float | None = None, start: Path | None = None) -> None:
    """Train, or go on with training, and save the model folder into `out`.

    Args:
        out: Folder of the finished model; the checkpoint lies in it until training ends.
        config: What decides the weights.
        minutes: If given, the number of steps is set from the speed of the first steps instead of `config.steps`.
        start: Folder of a model whose weights training starts from, with an optimizer that starts afresh.

    Raises:
        InputError: If there is no step to train, or `out` holds a checkpoint of other settings.
    """
    if config.steps < 1:
        raise InputError(f"steps = {config.steps}: must be at least 1")
    import torch
    from safetensors.torch import load_file
    from tqdm import tqdm

    out.mkdir(parents=True, exist_ok=True)
    checkpoint_path = out / "checkpoint.pt"
    tokenizer = train_tokenizer(
        text
        for example in islice(stream_examples("train"), TOKENIZER_EXAMPLES)
        for text in (example.prompt, example.reference)
    )
    save_tokenizer(tokenizer, out)
    model = build_model(tokenizer, config)
    if start is not None:
        model.load_state_dict(load_file(start / "model.safetensors"), strict=False)  # lm_head is tied, not stored
    decayed = [weight for weight in model.parameters() if weight.dim() > 1]
    kept = [weight for weight in model.parameters() if weight.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": kept, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
    )
    step, seconds, tokens, mean_loss = 0, 0.0, 0, math.nan
    if checkpoint_path.exists():
        state = torch.load(checkpoint_path, weights_only=True)
        step, seconds, tokens, mean_loss = (state[key] for key in ("step", "seconds", "tokens", "loss"))
        if state["config"] | {"steps": 0} != asdict(config) | {"steps": 0}:
            raise InputError(f"{checkpoint_path}: made with other settings; give the same ones or another --out")
        if minutes is not None:
            config = TrainingConfig(**state["config"])
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])

    def save_checkpoint() -> None:
        state = {
            "step": step, "seconds": seconds, "tokens": tokens, "loss": mean_loss, "config": asdict(config),
            "model": model.state_dict(), "optimizer": optimizer.state_dict(),
        }  # fmt: skip
        torch.save(state, checkpoint_path.with_suffix(".tmp"))
        checkpoint_path.with_suffix(".tmp").replace(checkpoint_path)

    model.train()
    batches = islice(stream_batches(tokenizer, config), step, None)
    bar = tqdm(total=config.steps, initial=step, unit="step", mininterval=5)
    saved_at = time.monotonic()
    while step < config.steps:
        inputs, labels = next(batches)
        started = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        loss = target_loss(model, inputs, labels)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_norm)
        optimizer.step()
        step += 1
        tokens += inputs.numel()
        seconds += time.monotonic() - started
        mean_loss = loss.item() if math.isnan(mean_loss) else 0.98 * mean_loss + 0.02 * loss.item()
        bar.set_postfix(loss=f"{mean_loss:.4f}", refresh=False)
        bar.update()
        if minutes is not None and step == MEASURED_STEPS:
            config = replace(config, steps=int(minutes * 60 / (seconds / step)))
            bar.total = config.steps
        if time.monotonic() - saved_at > CHECKPOINT_SECONDS:
            save_checkpoint()
            saved_at = time.monotonic()
    bar.close()
    model.eval()
    model.half().save_pretrained(out)
    record = {
        "task": TASK_NAME, "task_version": TASK_VERSION, "config": asdict(config), "parameters": model.num_parameters(),
        "train_examples": step * config.batch_examples, "train_tokens_padded": tokens, "train_seconds": round(seconds),
        "final_loss": round(mean_loss, 4), "provenance": collect_provenance(),
    }  # fmt: skip
    write_json(out / "training.json", record)
    checkpoint_path.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    import torch

    defaults = TrainingConfig()
    parser = argparse.ArgumentParser(prog="python -m accuracy.reference.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model; start again with it to resume")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="set the number of steps from the speed of the first ones")
    length.add_argument("--steps", type=int, default=defaults.steps, help="training steps (default %(default)s)")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of the initial weights and the batch order")
    parser.add_argument("--start", type=Path, help="folder of a model to start from")
    parser.add_argument("--first-example", type=int, default=0, help="of the train split (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    config = TrainingConfig(steps=options.steps, seed=options.seed, first_example=options.first_example)
    train(options.out, config, options.minutes, options.start)


if __name__ == "__main__":
    main()
