"""The quantised models that the study measures, each built once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from accuracy.quantization import GptqSettings, Method, NestedSettings, quantize
from accuracy.quantization.checkpoint import Checkpoint
from accuracy.quantization.sparse import dense_bits, outlier_share_for
from hwsim.trace import write_json
from studies.pmpd.subjects import Subject

WIDTHS = (2, 3, 4)
"""The paper's nested store: seed 2, parent 4."""


@dataclass(frozen=True)
class Stores:
    """Stores of one subject, in one folder.

    Attributes:
        subject: Whose.
        folder: Where they lie; a store that is there is used again.
    """

    subject: Subject
    folder: Path

    def nested(self) -> Path:
        """The paper's setting: nested k-means weighted by squared gradients, 2..4 bits, and the unquantised weights."""
        return self._build("nested", NestedSettings(min_bits=WIDTHS[0], max_bits=WIDTHS[-1], sensitivity="fisher"))

    def dense_and_sparse(self, bits: int, average_bits: float) -> Path:
        """Dense-and-Sparse at an average width: planes of ``bits``, the rest of the average in the sparse part.

        The sparse part counts values, column indices and row pointers (the paper does not say what it counts); the
        codebooks, which a nested store has too, are left out on both sides. The outliers are those of the largest
        magnitude, as in the paper's code; clusters are weighted by squared gradients like the nested store's.

        Raises:
            InputError: If the average is too near to ``bits`` for the row pointers alone.
        """
        shapes = [tuple(linear.weight.shape) for linear in Checkpoint.open(self.subject.folder).linears.values()]
        weights = sum(N * K for N, K in shapes)
        dense = sum(dense_bits((N, K), bits) for N, K in shapes) / weights
        share = outlier_share_for(dense + average_bits - bits, [(N, K) for N, K in shapes], bits)
        method = NestedSettings(min_bits=bits, max_bits=bits, sensitivity="fisher", outlier_share=share)
        return self._build(f"dns-{bits}-{average_bits:.4f}", method)

    def gptq(self) -> Path:
        """GPTQ, one store per width, under one map for the multi-model reader; widths of the nested store and 16."""
        found = {str(bits): str(self._build(f"gptq-{bits}", GptqSettings(bits=bits)).resolve()) for bits in WIDTHS}
        path = self.folder / "gptq.json"
        write_json(path, {**found, "16": str(self.subject.folder.resolve())})
        return path

    def _build(self, name: str, method: Method) -> Path:
        out = self.folder / name
        if not out.is_dir():
            quantize(self.subject.folder, out, method, calibration=self.subject.calibration(), progress=False)
        return out
