"""Nested ("any-precision") weight quantisation: quantise once, run at every stored width."""

from accuracy.quantization.nested import NestedMatrix, NestedSettings, quantize_matrix
from accuracy.quantization.pipeline import StoreSummary, quantize
from accuracy.quantization.sensitivity import fisher_sensitivity
from accuracy.quantization.storage import load_store

__all__ = [
    "NestedMatrix",
    "NestedSettings",
    "StoreSummary",
    "fisher_sensitivity",
    "load_store",
    "quantize",
    "quantize_matrix",
]
