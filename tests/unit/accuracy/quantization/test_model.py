from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config

from accuracy.model import decoder_linears, load_model
from accuracy.quantization import NestedSettings, quantize
from hwsim.trace import InputError


@pytest.fixture
def copy(model_folder: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder("llama"), tmp_path / "copy"))


def hub_cache(folder: Path, name: str, cache: Path) -> None:
    """Lay a folder out as the hub's cache does."""
    root = cache / f"models--{name.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(folder, root / "snapshots" / commit)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)


def test_folder_gives_model_tokenizer_shape_and_hashes(model_folder: Callable[..., Path]) -> None:
    loaded = load_model(model_folder("llama"))
    assert loaded.name == model_folder("llama").name
    assert (loaded.shape.layers, loaded.shape.hidden_size, loaded.shape.kv_heads) == (2, 36, 1)
    assert loaded.model.dtype == torch.float32
    assert not loaded.model.training
    assert loaded.tokenizer("word1 word2").input_ids == [4, 5]
    assert len(loaded.config_sha256) == len(loaded.model_sha256) == 64
    assert loaded.store_sha256 is None


def test_hashes_follow_the_content(copy: Path) -> None:
    before = load_model(copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(dict(reversed(config.items())), indent=7))
    assert load_model(copy).config_sha256 == before.config_sha256
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    changed = load_model(copy)
    assert changed.config_sha256 != before.config_sha256
    assert changed.model_sha256 == before.model_sha256


def test_hub_name_is_found_in_the_hubs_cache(
    model_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_cache(model_folder("llama"), "someone/tiny", tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    loaded, expected = load_model("someone/tiny"), load_model(model_folder("llama"))
    assert loaded.name == "someone/tiny"
    assert loaded.model_sha256 == expected.model_sha256
    tokens = torch.tensor([[1, 2, 3]])
    assert torch.equal(loaded.model(tokens).logits, expected.model(tokens).logits)


def test_nested_store_is_recognised_in_a_folder_and_in_the_hubs_cache(
    model_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = quantize(model_folder(), tmp_path / "store", NestedSettings(2, 3), progress=False)
    assert load_model(tmp_path / "store").store_sha256 == summary.store_sha256
    hub_cache(tmp_path / "store", "someone/nested", tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert load_model("someone/nested").store_sha256 == summary.store_sha256


@pytest.mark.parametrize("name", ["/no/such/folder", "./none", "../none", "a/b/c", ""])
def test_folder_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="no such folder") as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


def test_name_neither_here_nor_on_the_hub_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"^someone/none: no such folder, and no such model"):
        load_model("someone/none")


def test_file_instead_of_a_folder_is_refused(copy: Path) -> None:
    with pytest.raises(InputError, match="is a file"):
        load_model(copy / "model.safetensors")
    with pytest.raises(InputError, match="no map of widths to models"):
        load_model(copy / "config.json")


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no config\.json"):
        load_model(tmp_path)


def test_folder_without_weights_is_refused(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        load_model(copy)
    assert "\n" not in str(caught.value)


def test_cut_weights_are_refused(copy: Path) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-64])
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model(copy)


def test_weights_of_another_shape_are_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(InputError, match=r"9 weights are missing .* model\.layers\.2\."):
        load_model(copy)
    (copy / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    with pytest.raises(InputError):
        load_model(copy)


def test_unknown_architecture_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "lama"}))
    with pytest.raises(InputError, match="unknown model_type 'lama'; did you mean 'llama'"):
        load_model(copy)


def test_code_that_comes_with_a_model_is_never_run(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "evil.py").write_text(f"open({str(copy / 'ran')!r}, 'w')\nraise SystemExit(3)\n")
    load_model(copy)
    assert not (copy / "ran").exists()


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.target), "w")


def test_pickle_with_code_in_it_is_refused_and_not_run(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": Payload(copy / "ran")}, copy / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model(copy)
    assert not (copy / "ran").exists()


@pytest.mark.parametrize("family", ["llama", "phi", "gpt_neox", "opt", "gemma"])
def test_decoder_linears_are_the_blocks_and_nothing_else(family: str, model_folder: Callable[..., Path]) -> None:
    loaded = load_model(model_folder(family))
    linears = decoder_linears(loaded.model)
    assert not [name for name in linears if "lm_head" in name or "embed" in name]
    assert sum(linear.weight.numel() for linear in linears.values()) == loaded.shape.linear_weights()


def test_conv1d_layers_are_refused_by_name() -> None:
    model = AutoModelForCausalLM.from_config(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=32))
    with pytest.raises(InputError, match=r"'transformer\.h\.0\.attn\.c_attn' is a Conv1D"):
        decoder_linears(model)


def test_unusual_linear_is_refused_by_name(model_folder: Callable[..., Path]) -> None:
    class ScaledLinear(nn.Linear):
        pass

    model = load_model(model_folder()).model
    model.model.layers[1].mlp.up_proj = ScaledLinear(36, 50)
    with pytest.raises(InputError, match=r"'model\.layers\.1\.mlp\.up_proj' is a ScaledLinear"):
        decoder_linears(model)


def test_folder_without_a_tokenizer_is_refused_even_where_transformers_would_make_one(
    model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(model_folder("gemma"), tmp_path / "copy"))
    for file in copy.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match=r"copy: holds no tokenizer; save one there"):
        load_model(copy)
