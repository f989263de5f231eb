"""How much each weight matters: squared gradients of the language-modelling loss over calibration text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from accuracy.model import LanguageModel, decoder_linears
from hwsim.trace import InputError

MAX_TOKENS = 512


def fisher_sensitivity(
    language_model: LanguageModel, texts: Sequence[str], *, max_tokens: int = MAX_TOKENS, progress: bool = True
) -> dict[str, Tensor]:
    """The diagonal of the empirical Fisher information of every linear layer.

    Each text gives one gradient of its mean next-token loss; their squares are summed. That is the second-order
    weight of a weight's error: loss increase ~ 1/2 sum F_ii (w_i - q_i)^2.

    Args:
        language_model: The unquantised model; its gradients are used and cleared, its weights untouched.
        texts: Calibration texts; each is cut to ``max_tokens`` and to the model's context.
        max_tokens: Longest part of a text that is read.
        progress: Show a progress bar.

    Returns:
        Layer name to ``[N, K]`` float32 on the CPU.

    Raises:
        InputError: If a text has fewer than two tokens, or a gradient is not finite.

    Source: Kim et al., "SqueezeLLM", arXiv:2306.07629, section 4.1.
    """
    model, linears = language_model.model, decoder_linears(language_model.model)
    sums = {name: torch.zeros(linear.weight.shape) for name, linear in linears.items()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    limit = min(max_tokens, language_model.shape.max_context)
    try:
        model.requires_grad_(False)
        for linear in linears.values():
            linear.weight.requires_grad_(True)
        for number, text in enumerate(tqdm(texts, desc="sensitivity", unit="text", disable=not progress)):
            tokens = language_model.tokenizer(text, return_tensors="pt").input_ids[:, :limit].to(model.device)
            if tokens.shape[1] < 2:
                raise InputError(f"calibration text {number} has {tokens.shape[1]} tokens; must have at least 2")
            model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
            for name, linear in linears.items():
                assert linear.weight.grad is not None
                sums[name] += linear.weight.grad.float().square().cpu()
                linear.weight.grad = None
    finally:
        model.requires_grad_(False)
        for parameter in trainable:
            parameter.requires_grad_(True)
            parameter.grad = None
    for name, total in sums.items():
        if not bool(total.isfinite().all()):
            raise InputError(f"{name}: squared gradients are not finite; load the model in float32")
    return sums
