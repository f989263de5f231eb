"""Nested ("any-precision") weight quantisation: quantise once, run at every stored width.

Names load on first use (PEP 562): transformers imports the plug-in in here while it is itself being imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accuracy.quantization.gptq import GptqSettings
    from accuracy.quantization.method import Method
    from accuracy.quantization.nested import NestedMatrix, NestedSettings, quantize_matrix
    from accuracy.quantization.original_format import load_original, write_original
    from accuracy.quantization.pipeline import StoreSummary, quantize
    from accuracy.quantization.rtn import RtnSettings
    from accuracy.quantization.sensitivity import fisher_sensitivity
    from accuracy.quantization.storage import load_store
    from accuracy.quantization.transformers_plugin import AnyPrecisionConfig

_HOMES = {
    "AnyPrecisionConfig": "accuracy.quantization.transformers_plugin",
    "GptqSettings": "accuracy.quantization.gptq",
    "Method": "accuracy.quantization.method",
    "NestedMatrix": "accuracy.quantization.nested",
    "NestedSettings": "accuracy.quantization.nested",
    "RtnSettings": "accuracy.quantization.rtn",
    "StoreSummary": "accuracy.quantization.pipeline",
    "fisher_sensitivity": "accuracy.quantization.sensitivity",
    "load_original": "accuracy.quantization.original_format",
    "load_store": "accuracy.quantization.storage",
    "quantize": "accuracy.quantization.pipeline",
    "quantize_matrix": "accuracy.quantization.nested",
    "write_original": "accuracy.quantization.original_format",
}

__all__ = [
    "AnyPrecisionConfig",
    "GptqSettings",
    "Method",
    "NestedMatrix",
    "NestedSettings",
    "RtnSettings",
    "StoreSummary",
    "fisher_sensitivity",
    "load_original",
    "load_store",
    "quantize",
    "quantize_matrix",
    "write_original",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'accuracy.quantization' has no attribute '{name}'")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
