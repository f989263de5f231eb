"""A model that takes milliseconds, and an NPU with a name that means something in every markup."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def tiny_model(tmp_path: Path) -> Callable[[int], str]:
    """Write the config.json of a model of one layer with grouped heads that holds so many tokens."""

    def write(max_context: int) -> str:
        folder = tmp_path / f"tiny-{max_context}"
        folder.mkdir()
        config = {
            "model_type": "llama",
            "num_hidden_layers": 1,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 96,
            "vocab_size": 128,
            "max_position_embeddings": max_context,
        }
        (folder / "config.json").write_text(json.dumps(config))
        return str(folder)

    return write


@pytest.fixture
def odd_name() -> str:
    """Mathtext, Markdown and HTML at once."""
    return r"$x^{2$ _a_ <b>`|c` \frac [x](y)"


@pytest.fixture
def odd_npu(tmp_path: Path, odd_name: str) -> str:
    """A copy of edge-lpddr4 called so."""
    from hwsim.load import read_npu_text

    path = tmp_path / "odd.yaml"
    text = read_npu_text("edge-lpddr4")[0]
    path.write_text(text.replace("\nname: edge-lpddr4\n", f"\nname: {json.dumps(odd_name)}\n"))
    return str(path)
