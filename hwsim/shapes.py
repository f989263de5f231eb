"""Built-in model shapes, and shapes from a Hugging Face ``config.json``."""

from __future__ import annotations

from pathlib import Path

from hwsim.trace import InputError, ModelShape, read_json, shape_from_config, unknown_name

# Source: each model's published config.json.
_SHAPES: dict[str, ModelShape] = {
    shape.name: shape
    for shape in (
        ModelShape(
            name="vicuna-7b",
            layers=32,
            hidden_size=4096,
            ffn_size=11008,
            heads=32,
            kv_heads=32,
            head_dim=128,
            vocab_size=32000,
            max_context=4096,
            mlp="gated",
        ),
        ModelShape(
            name="mobilellama-1.4b",
            layers=24,
            hidden_size=2048,
            ffn_size=5632,
            heads=16,
            kv_heads=16,
            head_dim=128,
            vocab_size=32000,
            max_context=2048,
            mlp="gated",
        ),
        ModelShape(
            name="phi-1.5",
            layers=24,
            hidden_size=2048,
            ffn_size=8192,
            heads=32,
            kv_heads=32,
            head_dim=64,
            vocab_size=51200,
            max_context=2048,
            mlp="two-matrix",
            activation="gelu",
            norm="layernorm",
            parallel_attention=True,
            rotary_fraction=0.5,
            attention_bias=True,
            mlp_bias=True,
        ),
        ModelShape(
            name="stablelm-zephyr-3b",
            layers=32,
            hidden_size=2560,
            ffn_size=6912,
            heads=32,
            kv_heads=32,
            head_dim=80,
            vocab_size=50304,
            max_context=4096,
            mlp="gated",
            norm="layernorm",
            rotary_fraction=0.25,
        ),
        ModelShape(
            name="llama-3-8b",
            layers=32,
            hidden_size=4096,
            ffn_size=14336,
            heads=32,
            kv_heads=8,
            head_dim=128,
            vocab_size=128256,
            max_context=8192,
            mlp="gated",
        ),
        ModelShape(
            name="longchat-13b",
            layers=40,
            hidden_size=5120,
            ffn_size=13824,
            heads=40,
            kv_heads=40,
            head_dim=128,
            vocab_size=32000,
            max_context=16384,
            mlp="gated",
        ),
    )
}
SHAPE_NAMES: tuple[str, ...] = tuple(_SHAPES)
"""Models whose shape has a name."""


def load_shape(name_or_path: str | Path) -> ModelShape:
    """Load a model shape.

    Args:
        name_or_path: One of :data:`SHAPE_NAMES`, a ``config.json``, or a folder that holds one.

    Raises:
        InputError: If the name is unknown or the file cannot be used.
    """
    if str(name_or_path) in _SHAPES:
        return _SHAPES[str(name_or_path)]
    path = Path(name_or_path)
    if path.is_dir():
        path = path / "config.json"
    elif path.suffix != ".json":
        raise unknown_name("model", str(name_or_path), SHAPE_NAMES)
    config = read_json(path)
    if not isinstance(config, dict):
        raise InputError(f"{path}: must be a JSON object, is {type(config).__name__}")
    return shape_from_config(config, path.resolve().parent.name if path.name == "config.json" else path.stem)
