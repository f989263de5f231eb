"""Nested ("any-precision") weight quantisation: quantise once, run at every stored width.

Importing it registers the stored format with transformers (:mod:`accuracy.quantization.transformers_plugin`).
"""

from accuracy.quantization.nested import NestedMatrix, NestedSettings, quantize_matrix
from accuracy.quantization.original_format import load_original, write_original
from accuracy.quantization.pipeline import StoreSummary, quantize
from accuracy.quantization.sensitivity import fisher_sensitivity
from accuracy.quantization.storage import load_store
from accuracy.quantization.transformers_plugin import AnyPrecisionConfig

__all__ = [
    "AnyPrecisionConfig",
    "NestedMatrix",
    "NestedSettings",
    "StoreSummary",
    "fisher_sensitivity",
    "load_original",
    "load_store",
    "quantize",
    "quantize_matrix",
    "write_original",
]
