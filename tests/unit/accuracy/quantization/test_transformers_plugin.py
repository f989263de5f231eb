from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from accuracy.decoding import Decoder, Prompt
from accuracy.linear import nested_linears, set_weight_bits, set_weight_cache, stored_widths
from accuracy.model import load_model
from accuracy.quantization import AnyPrecisionConfig, NestedSettings, load_store, quantize
from accuracy.quantization.gptq import GptqSettings
from accuracy.quantization.method import Method
from accuracy.quantization.rtn import RtnSettings
from accuracy.schedulers import UniformScheduler
from hwsim.trace import InputError, read_json

PROMPT = torch.tensor([[1, 5, 9]])


@pytest.fixture(scope="module", params=["llama", "gemma", "opt"])
def store(
    request: pytest.FixtureRequest, model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("stores") / request.param
    quantize(model_folder(request.param), out, NestedSettings(2, 4, group_size=20), progress=False)
    return out


def test_transformers_loads_what_load_store_loads_and_generates_the_same(store: Path) -> None:
    theirs, ours = AutoModelForCausalLM.from_pretrained(store), load_store(store).model
    assert stored_widths(theirs) == stored_widths(ours) == (2, 3, 4, 16)
    expected = ours.state_dict()
    assert theirs.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in theirs.state_dict().items())
    for bits in (2, 3, 4, 16):
        tokens = []
        for model in (theirs, ours):
            set_weight_bits(model, bits)
            tokens.append(model.generate(PROMPT, max_new_tokens=6, do_sample=False, eos_token_id=None))
        assert torch.equal(*tokens)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_codebooks_keep_their_numbers_whatever_the_model_computes_in(dtype: torch.dtype, store: Path) -> None:
    stored = load_file(store / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(store, dtype=dtype)
    assert model.dtype == dtype
    layers = {name: module for name, module in model.named_modules() if module in set(nested_linears(model))}
    for name, layer in layers.items():
        for part in ("planes", "lut2", "lut3", "lut4", "weight"):
            tensor = layer.get_buffer(part)
            assert tensor.dtype == stored[f"{name}.{part}"].dtype
            assert torch.equal(tensor, stored[f"{name}.{part}"])
    assert model(PROMPT).logits.dtype == dtype


FROM_PRETRAINED = """
import sys
{imports}
assert ("torch" in sys.modules) == {torch_loaded}
from transformers import {name}
import torch
model = {name}.from_pretrained(sys.argv[1])
accuracy.set_weight_bits(model, 3)
print(accuracy.stored_widths(model), model(torch.tensor([[1, 5, 9]])).logits[0, -1].tolist())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("imports", "torch_loaded", "name"),
    [
        ("import accuracy", False, "AutoModelForCausalLM"),
        ("import accuracy", False, "LlamaForCausalLM"),
        ("from transformers import AutoModelForCausalLM; import accuracy", True, "AutoModelForCausalLM"),
    ],
)
def test_importing_accuracy_is_all_that_transformers_needs(
    imports: str, torch_loaded: bool, name: str, model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    quantize(model_folder("llama"), tmp_path / "s", NestedSettings(2, 4), progress=False)
    code = FROM_PRETRAINED.format(imports=imports, torch_loaded=torch_loaded, name=name)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "s")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    model = load_store(tmp_path / "s").model
    set_weight_bits(model, 3)
    assert done.stdout.strip() == f"(2, 3, 4, 16) {model(PROMPT).logits[0, -1].tolist()}"


def stored_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {key: tensor for file in folder.glob("*.safetensors") for key, tensor in load_file(file).items()}


def assert_same_tensors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor)


@pytest.mark.parametrize("loader", [AutoModelForCausalLM.from_pretrained, lambda folder: load_store(folder).model])
@pytest.mark.parametrize(("max_shard_size", "files"), [("5GB", 1), ("20KB", 3)])
def test_save_pretrained_round_trips_bit_for_bit(
    loader: Callable[[Path], Any], max_shard_size: str, files: int, store: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    model = loader(store)
    # Neither a width in use nor a cached weight may change what is stored.
    set_weight_bits(model, 2)
    model(PROMPT)
    model.save_pretrained(saved, max_shard_size=max_shard_size)
    assert len(list(saved.glob("*.safetensors"))) >= files
    assert_same_tensors(stored_tensors(saved), stored_tensors(store))
    assert (
        read_json(saved / "config.json")["quantization_config"]
        == (read_json(store / "config.json")["quantization_config"])
    )
    again = AutoModelForCausalLM.from_pretrained(saved)
    assert_same_tensors(dict(again.state_dict()), dict(loader(store).state_dict()))
    again.save_pretrained(tmp_path / "twice")
    assert_same_tensors(stored_tensors(tmp_path / "twice"), stored_tensors(store))


@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"])
def test_saved_model_with_its_tokenizer_is_a_store_again(max_shard_size: str, store: Path, tmp_path: Path) -> None:
    original = load_store(store)
    saved = tmp_path / "saved"
    AutoModelForCausalLM.from_pretrained(store).save_pretrained(saved, max_shard_size=max_shard_size)
    with pytest.raises(InputError, match=r"saved: holds no tokenizer; save one there"):
        load_store(saved)
    original.tokenizer.save_pretrained(saved)
    for loaded in (load_store(saved), load_model(saved)):
        assert_same_tensors(dict(loaded.model.state_dict()), dict(original.model.state_dict()))
        assert loaded.shape.sha256() == original.shape.sha256()
        assert (loaded.name, loaded.model_sha256) == ("saved", loaded.store_sha256)
    part = load_store(saved, max_bits=3)
    assert stored_widths(part.model) == (2, 3)
    assert torch.equal(part.model(PROMPT).logits, logits_at(original.model, 3))


def logits_at(model: Any, bits: int) -> torch.Tensor:
    set_weight_bits(model, bits)
    return model(PROMPT).logits


def test_part_of_the_widths_can_be_saved_as_a_smaller_store(store: Path, tmp_path: Path) -> None:
    load_store(store, max_bits=3).model.save_pretrained(tmp_path / "saved")
    whole, part = (AutoModelForCausalLM.from_pretrained(folder) for folder in (store, tmp_path / "saved"))
    assert stored_widths(part) == (2, 3)
    assert torch.equal(logits_at(part, 2), logits_at(whole, 2))


def test_generate_says_what_our_decoder_says_at_every_width(store: Path) -> None:
    decoder, theirs = Decoder(load_store(store)), AutoModelForCausalLM.from_pretrained(store)
    prompts = [
        Prompt(str(ids), ids, max_new_tokens=8, min_new_tokens=8) for ids in ((1, 5, 9), (1, 33), (1, 60, 7, 12))
    ]
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    responses = set()
    for bits in (2, 3, 4, 16):
        expected = decoder.decode(prompts, UniformScheduler(bits))
        responses.update(response.tokens for response in expected)
        for cached in (True, False):
            set_weight_bits(theirs, bits)
            set_weight_cache(theirs, cached)
            for prompt, response in zip(prompts, expected, strict=True):
                tokens = theirs.generate(torch.tensor([prompt.token_ids]), **options)
                assert tuple(tokens[0, len(prompt.token_ids) :].tolist()) == response.tokens
    assert len(responses) > 2


def test_device_map_is_understood(store: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(store, device_map="cpu")
    assert torch.equal(logits_at(model, 3), logits_at(load_store(store).model, 3))


def test_sparse_part_is_loaded(store: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(store, tmp_path / "sparse"))
    tensors = load_file(folder / "model.safetensors")
    layer = next(key for key in tensors if key.endswith(".planes")).removesuffix(".planes")
    N = tensors[f"{layer}.planes"].shape[1]
    tensors[f"{layer}.sparse_rows"] = torch.tensor([0, *([2] * N)], dtype=torch.int32)
    tensors[f"{layer}.sparse_cols"] = torch.tensor([3, 7], dtype=torch.int32)
    tensors[f"{layer}.sparse_vals"] = torch.tensor([1.5, -2.0], dtype=torch.float16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    plain, sparse = AutoModelForCausalLM.from_pretrained(store), AutoModelForCausalLM.from_pretrained(folder)
    added = sparse.get_submodule(layer).dequantize(3).float() - plain.get_submodule(layer).dequantize(3).float()
    expected = torch.zeros_like(added)
    expected[0, 3], expected[0, 7] = 1.5, -2.0
    torch.testing.assert_close(added, expected, rtol=0, atol=2e-3)
    sparse.save_pretrained(tmp_path / "again")
    assert_same_tensors(stored_tensors(tmp_path / "again"), tensors)


def test_configuration_out_of_bounds_is_named(store: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(store, tmp_path / "bad"))
    config = read_json(folder / "config.json")
    config["quantization_config"]["max_bits"] = 12
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="quantization_config: max_bits = 12"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_quantising_while_loading_is_refused(model_folder: Callable[..., Path]) -> None:
    settings = AnyPrecisionConfig(min_bits=2, max_bits=4, group_size=None, quantizer="nested-kmeans")
    with pytest.raises(ValueError, match="does require the model to be pre-quantized"):
        AutoModelForCausalLM.from_pretrained(model_folder(), quantization_config=settings)


def test_configuration_can_be_printed(store: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(store)
    assert '"any_precision"' in repr(model.config)
    assert "widths=(2, 3, 4, 16), weight_bits=4" in repr(model)


def test_decoder_without_its_head_loads_from_a_store(store: Path) -> None:
    whole, decoder = AutoModelForCausalLM.from_pretrained(store), AutoModel.from_pretrained(store)
    for model in (whole, decoder):
        set_weight_bits(model, 3)
    expected = whole(PROMPT, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(decoder(PROMPT).last_hidden_state, expected)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda tensors, layer: tensors.pop(f"{layer}.lut3"), r"lut3' is missing"),
        (lambda tensors, layer: tensors.pop(f"{layer}.weight"), r"weight' is missing"),
        (
            lambda tensors, layer: tensors.update({f"{layer}.planes": tensors[f"{layer}.planes"][:3].clone()}),
            r"planes' is I32 \[3, .*must be I32 \[4, ",
        ),
        (
            lambda tensors, layer: tensors.update({f"{layer}.lut2": tensors[f"{layer}.lut2"].float()}),
            r"lut2' is F32 .* must be F16",
        ),
        (
            lambda tensors, layer: tensors.update(
                {
                    f"{layer}.sparse_rows": torch.full((len(tensors[f"{layer}.lut2"]) + 1,), 5, dtype=torch.int32),
                    f"{layer}.sparse_cols": torch.zeros(1, dtype=torch.int32),
                    f"{layer}.sparse_vals": torch.zeros(1).half(),
                }
            ),
            r"sparse_rows' must rise from 0 to 1",
        ),
    ],
)
def test_damaged_store_is_refused_by_tensor_and_not_filled_up(
    change: Callable[[dict[str, torch.Tensor], str], object], named: str, store: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(store, tmp_path / "damaged"))
    tensors = load_file(folder / "model.safetensors")
    change(tensors, sorted(key for key in tensors if key.endswith(".planes"))[-1].removesuffix(".planes"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=named) as caught:
        AutoModelForCausalLM.from_pretrained(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "widths"),
    [
        (RtnSettings(3), (3,)),
        (RtnSettings(4, group_size=16, symmetric=True, keep_full_precision=True), (4, 16)),
        (GptqSettings(3, group_size=20), (3,)),
        (NestedSettings(2, 4, keep_full_precision=False, outlier_share=0.01), (2, 3, 4)),
        (NestedSettings(2, 2, outlier_share=0.02), (2, 16)),
    ],
)
def test_stores_of_every_method_load_save_and_run_alike(
    method: Method, widths: tuple[int, ...], model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    texts = ["word1 word2 word3 word4 word5 word6"]
    quantize(model_folder("phi3"), tmp_path / "s", method, calibration=texts, progress=False)
    ours = load_store(tmp_path / "s").model
    ours.save_pretrained(tmp_path / "saved")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert_same_tensors(stored_tensors(tmp_path / "saved"), stored_tensors(tmp_path / "s"))
    assert stored_widths(ours) == stored_widths(theirs) == widths
    assert {layer.sparse_vals is not None for layer in nested_linears(theirs)} == {
        getattr(method, "outlier_share", 0) > 0
    }
    for bits in widths:
        expected = logits_at(ours, bits)
        assert expected.isfinite().all()
        assert torch.equal(logits_at(theirs, bits), expected)
        set_weight_cache(theirs, False)
        torch.testing.assert_close(logits_at(theirs, bits), expected, rtol=1e-4, atol=1e-4)
        set_weight_cache(theirs, True)
