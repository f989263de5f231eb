from __future__ import annotations

import json

import pytest

from hwsim.shapes import SHAPE_NAMES, load_shape
from hwsim.trace import InputError

# Weights of the decoder's linear layers, from layers x (attention + MLP) worked out by hand.
LINEAR_WEIGHTS = {
    "vicuna-7b": 32 * (4 * 4096**2 + 3 * 4096 * 11008),
    "mobilellama-1.4b": 24 * (4 * 2048**2 + 3 * 2048 * 5632),
    "phi-1.5": 24 * (4 * 2048**2 + 2 * 2048 * 8192),
    "stablelm-zephyr-3b": 32 * (4 * 2560**2 + 3 * 2560 * 6912),
    "llama-3-8b": 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336),
    "longchat-13b": 40 * (4 * 5120**2 + 3 * 5120 * 13824),
}


def test_all_published_shapes_are_there_with_their_sizes():
    assert set(SHAPE_NAMES) == set(LINEAR_WEIGHTS)
    for name, weights in LINEAR_WEIGHTS.items():
        assert load_shape(name).linear_weights() == weights


def test_a_config_file_and_its_folder_give_the_same_shape(tmp_path):
    folder = tmp_path / "my-llama"
    folder.mkdir()
    config = {
        "model_type": "llama",
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_attention_heads": 32,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
    }
    (folder / "config.json").write_text(json.dumps(config))
    shape = load_shape(folder)
    assert shape.name == "my-llama"
    assert shape == load_shape(folder / "config.json")
    assert shape.sha256() == load_shape("vicuna-7b").sha256()


@pytest.mark.parametrize("model", ["stories260K", "m30k-fren-2M", "fren-paragraphs-4M"])
def test_real_model_folders_load(shared_data, model):
    shape = load_shape(shared_data / "models" / model)
    assert shape.layers >= 1
    assert shape.linear_weights() > 100_000


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(InputError, match="unknown model 'vicuna-7'; did you mean 'vicuna-7b'"):
        load_shape("vicuna-7")


def test_a_bad_config_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(InputError, match="must be a JSON object"):
        load_shape(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        load_shape(tmp_path / "other.json")
