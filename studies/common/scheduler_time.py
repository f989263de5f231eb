"""How long the learned scheduler takes for one prompt on a GPU, for the shapes that the kernels are timed for."""

from __future__ import annotations

from typing import Any

from accuracy.scheduler_training.classifier import ClassifierShape, ScheduleClassifier, choose_classes
from accuracy.scheduler_training.features import KV_LAST, Features
from kernels.bench.session import Session, times
from kernels.bench.timing import percentiles
from kernels.shapes import find_shape

COLUMNS = (
    "model",
    "input",
    "prompt_tokens",
    "classes",
    "parameters",
    "p20_us",
    "p50_us",
    "p80_us",
    "n",
)
# As many as a training has by default.
_CLASSES = 4
_WARM_UP, _REPEATS = 10, 100


def scheduler_row(session: Session, model: str, prompt_tokens: int) -> dict[str, Any]:
    """Time one run, from keys and values on the GPU to the class on the host, with random weights.

    Args:
        session: The device.
        model: Named shape; its last block's keys and values are read, as in the paper.
        prompt_tokens: Length of the prompt.

    Returns:
        A row of :data:`COLUMNS`.
    """
    import torch

    shape = find_shape(model)
    sizes = {"heads": shape.kv_heads, "key_dim": shape.head_dim, "value_dim": shape.head_dim}
    # The hidden layer is as wide as its input unless a training says otherwise.
    network = ClassifierShape(hidden_size=shape.kv_width, classes=_CLASSES, **sizes)
    classifier = ScheduleClassifier(network).to(session.device).eval()
    keys, values = (
        torch.randn(shape.kv_heads, prompt_tokens, shape.head_dim, device=session.device).half() for _ in range(2)
    )

    def choose() -> int:
        return int(choose_classes(classifier.classify([Features(keys, values)], model))[0])

    measured = session.timer.step_times_us([choose] * (_WARM_UP + _REPEATS))[_WARM_UP:]
    return {
        "model": model,
        "input": KV_LAST.name,
        "prompt_tokens": prompt_tokens,
        "classes": _CLASSES,
        "parameters": network.parameters,
        **times(percentiles(measured)),
    }
