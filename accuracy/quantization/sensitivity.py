"""How much each weight matters: squared gradients of the language-modelling loss over calibration text."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from accuracy.quantization.calibration import MAX_TOKENS, make_calibrator
from accuracy.quantization.checkpoint import Checkpoint


def fisher_sensitivity(
    checkpoint: Checkpoint, texts: Sequence[str], *, max_tokens: int = MAX_TOKENS, progress: bool = True
) -> dict[str, Tensor]:
    """The diagonal of the empirical Fisher information of every linear layer, all of them at once.

    Each text gives one gradient of its mean next-token loss; their squares are summed. The model is run one block at a
    time, but the result is as large as its weights: a quantiser of large models takes it block by block, as
    :func:`accuracy.quantization.calibration.make_calibrator` gives it.

    Args:
        checkpoint: The unquantised model.
        texts: Calibration texts; each is cut to ``max_tokens`` and to the model's context.
        max_tokens: Longest part of a text that is read.
        progress: Show progress bars.

    Returns:
        Layer name, in the order of the model's blocks, to ``[N, K]`` float32.

    Raises:
        InputError: If a text has fewer than two tokens, or a gradient is not finite.
    """
    found: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        calibrator = make_calibrator(
            "fisher", checkpoint, texts, Path(folder), max_tokens=max_tokens, progress=progress
        )
        for block in list(calibrator.order):
            found.update(calibrator.measure(block))
            calibrator.advance(block, {})
    return {name: found[name] for name in checkpoint.linears}
