"""Teach transformers to load and save nested stores: ``AutoModelForCausalLM.from_pretrained(folder)``.

Importing :mod:`accuracy.quantization` registers the quantisation method ``any_precision``. The model runs at its
widest nested width until :func:`accuracy.linear.set_weight_bits` says otherwise, under ``generate()`` too.
``save_pretrained`` writes every stored number unchanged, but none of the checksums that
:func:`accuracy.quantization.load_store` asks for: that folder is for transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import safe_open
from torch import nn
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from accuracy.model import QUANT_METHOD, decoder_linears
from accuracy.quantization.assembly import nest_linears
from accuracy.quantization.manifest import QuantizationConfig
from accuracy.quantization.storage import sparse_counts
from hwsim.trace import InputError, from_validation


@register_quantization_config(QUANT_METHOD)
class AnyPrecisionConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """A store's ``quantization_config`` as transformers carries it around."""

    def __init__(self, **fields: Any) -> None:
        """Check and keep the fields of :class:`QuantizationConfig`.

        Raises:
            InputError: If one breaks its bounds.
        """
        try:
            self.stored = QuantizationConfig.model_validate(fields)
        except ValidationError as error:
            raise from_validation(error, "quantization_config") from None
        self.quant_method = self.stored.quant_method

    def to_dict(self) -> dict[str, Any]:
        """The fields as they are stored."""
        return self.stored.model_dump()


@register_quantizer(QUANT_METHOD)
class AnyPrecisionQuantizer(HfQuantizer):  # type: ignore[misc]
    """Puts any-precision layers where the stored tensors belong, before transformers loads them."""

    requires_calibration = True

    def _process_model_before_weight_loading(self, model: nn.Module, **options: Any) -> None:
        files = [Path(file) for file in options.get("checkpoint_files") or []]
        if not files:
            raise InputError("a nested store loads from its safetensors files only, not from a state dict")
        nest_linears(
            model,
            self.quantization_config.stored,
            full_precision=_keeps_full_precision(files, decoder_linears(model)),
            sparse_values=sparse_counts(files),
        )

    def is_serializable(self) -> bool:
        """``save_pretrained`` works."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Codebooks are not trained."""
        return False


def _keeps_full_precision(files: list[Path], linears: dict[str, nn.Linear]) -> bool:
    """Whether the unquantised weights are among the stored tensors."""
    first = f"{next(iter(linears))}.weight"
    for path in files:
        with safe_open(path, framework="pt") as file:
            if first in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                return True
    return False
