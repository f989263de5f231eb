"""Teach transformers to load and save nested stores: ``AutoModelForCausalLM.from_pretrained(folder)``.

``import accuracy`` registers the quantisation method ``any_precision`` (:mod:`accuracy.registration`). The model runs
at its widest nested width until :func:`accuracy.set_weight_bits` says otherwise, under ``generate()`` too, and keeps
dequantised weights until :func:`accuracy.set_weight_cache` says otherwise. ``save_pretrained`` writes every stored
number unchanged; such a folder loads here and with :func:`accuracy.load_model`, but names no source and has no
checksums.

transformers imports this module in the middle of its own import, so what needs all of transformers is imported late.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from accuracy.registration import QUANT_METHOD
from hwsim.trace import InputError, from_validation

if TYPE_CHECKING:
    from torch import nn

    from accuracy.quantization.manifest import QuantizationConfig


@register_quantization_config(QUANT_METHOD)
class AnyPrecisionConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """A store's ``quantization_config`` as transformers carries it around."""

    def __init__(self, **fields: Any) -> None:
        """Check and keep the fields of :class:`QuantizationConfig`.

        Raises:
            InputError: If one breaks its bounds.
        """
        from accuracy.quantization.manifest import QuantizationConfig

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
        from accuracy.quantization.assembly import OptionalParts, check_headers, nest_linears
        from accuracy.quantization.storage import read_headers

        files = [Path(file) for file in options.get("checkpoint_files") or []]
        if not files:
            raise InputError("a nested store loads from its safetensors files only, not from a state dict")
        headers = read_headers(files)
        prefix = model.base_model_prefix
        if not hasattr(model, str(prefix)):
            # The decoder without its head, as AutoModel makes it, has no such name before its own.
            headers = {name.removeprefix(f"{prefix}."): header for name, header in headers.items()}
        nest_linears(model, self.quantization_config.stored, OptionalParts.of(headers))
        check_headers(model, headers, files[0].parent)

    def _process_model_after_weight_loading(self, model: nn.Module, **options: Any) -> nn.Module:
        from accuracy.linear import set_weight_cache
        from accuracy.quantization.assembly import check_sparse_parts

        check_sparse_parts(model, type(model).__name__)
        set_weight_cache(model, True)
        return model

    def is_serializable(self) -> bool:
        """``save_pretrained`` works."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Codebooks are not trained."""
        return False


def mark_quantized(model: Any, stored: QuantizationConfig) -> None:
    """Let a model that was not loaded by transformers be saved by ``save_pretrained`` as one that was."""
    quantizer = AnyPrecisionQuantizer(AnyPrecisionConfig(**stored.model_dump()), pre_quantized=True)
    model.hf_quantizer = quantizer
    quantizer.postprocess_model(model)
