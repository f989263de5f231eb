"""Accuracy side: nested quantisation, PMPD decoding, tasks and evaluation.

Importing it is light, and enough for transformers to load nested stores::

    import accuracy
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("path/to/store")
    accuracy.set_weight_bits(model, 3)

The names below load on first use (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from accuracy.registration import register_with_transformers

if TYPE_CHECKING:
    from accuracy.linear import set_weight_bits, set_weight_cache, stored_widths
    from accuracy.model import LanguageModel, load_model
    from accuracy.quantization import quantize

_HOMES = {
    "LanguageModel": "accuracy.model",
    "load_model": "accuracy.model",
    "quantize": "accuracy.quantization",
    "set_weight_bits": "accuracy.linear",
    "set_weight_cache": "accuracy.linear",
    "stored_widths": "accuracy.linear",
}

__all__ = ["LanguageModel", "load_model", "quantize", "set_weight_bits", "set_weight_cache", "stored_widths"]

register_with_transformers()


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'accuracy' has no attribute '{name}'")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
