from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from accuracy.decoding import Decoder, Prompt
from accuracy.linear import nested_linears, set_weight_bits, set_weight_cache, stored_widths
from accuracy.model import load_model
from accuracy.multi_model import MultiModelLinear, load_multi_model
from accuracy.quantization import GptqSettings, NestedSettings, quantize
from accuracy.reference import MODEL_FOLDER
from accuracy.schedulers import StaticScheduler, UniformScheduler
from accuracy.tasks import make_task
from hwsim.trace import FULL_PRECISION_BITS, InputError, Schedule, file_sha256


@pytest.fixture(scope="module")
def gptq(tmp_path_factory) -> Path:
    """Two GPTQ stores of the shipped model, and the file that maps widths to them."""
    folder = tmp_path_factory.mktemp("gptq")
    texts = [example.prompt for example in make_task("selvic").examples("calib", 8)]
    for bits in (4, 3):
        quantize(MODEL_FOLDER, folder / f"gptq-{bits}", GptqSettings(bits=bits), calibration=texts, progress=False)
    (folder / "map.json").write_text(json.dumps({"4": "gptq-4", "3": "gptq-3", "16": str(MODEL_FOLDER)}))
    return folder


def prompts(lm, count: int = 2) -> list[Prompt]:
    task = make_task("selvic")
    return [
        Prompt(example.id, tuple(task.encode(lm.tokenizer, example.prompt)), 16)
        for example in task.examples("val", count)
    ]


def test_every_width_answers_as_its_own_model_does(gptq):
    together = load_model(gptq / "map.json")
    assert stored_widths(together.model) == (3, 4, 16)
    asked = prompts(together)
    for bits, path in ((3, gptq / "gptq-3"), (4, gptq / "gptq-4"), (16, MODEL_FOLDER)):
        alone = Decoder(load_model(path)).decode(asked, UniformScheduler(bits))
        ours = Decoder(together).decode(asked, UniformScheduler(bits))
        assert [one.tokens for one in ours] == [one.tokens for one in alone]


def test_a_falling_schedule_begins_as_the_high_model_and_goes_on_with_its_kv_cache(gptq):
    lm = load_model(gptq / "map.json")
    asked = prompts(lm, 2)
    decoder = Decoder(lm)
    high = decoder.decode(asked, UniformScheduler(4))
    mixed = decoder.decode(asked, StaticScheduler(Schedule.from_label("p4:4>3@10")))
    for one, other in zip(high, mixed, strict=True):
        assert one.tokens[:11] == other.tokens[:11]
        assert other.decode_weight_bits == (4,) * 10 + (3,) * (len(other.tokens) - 11)


def test_results_name_all_parts(gptq):
    lm, source = load_model(gptq / "map.json"), load_model(MODEL_FOLDER)
    assert (lm.name, lm.model_sha256, lm.config_sha256) == (source.name, source.model_sha256, source.config_sha256)
    assert lm.quantizer == "one model a width: gptq"
    two = load_multi_model({4: gptq / "gptq-4", 3: gptq / "gptq-3"})
    assert len({lm.store_sha256, two.store_sha256, load_model(gptq / "gptq-4").store_sha256}) == 3
    assert two.folder is None
    assert lm.folder == gptq / "map.json"


def test_a_layer_multiplies_with_the_weights_of_the_width_in_use():
    torch.manual_seed(0)
    plain, other = nn.Linear(7, 5), nn.Linear(7, 5)
    layer = MultiModelLinear({16: plain, 8: other})
    x = torch.randn(2, 7)
    for bits, weights in ((16, plain), (8, other)):
        set_weight_bits(layer, bits)
        assert torch.equal(layer(x), functional.linear(x, weights.weight, weights.bias))
    with pytest.raises(InputError, match="weight_bits = 4: not stored; stored widths: 8, 16"):
        set_weight_bits(layer, 4)


def test_a_store_may_give_several_widths_and_dequantised_copies_can_be_left_out(gptq, tmp_path):
    nested = tmp_path / "nested"
    quantize(MODEL_FOLDER, nested, NestedSettings(min_bits=2, max_bits=3), progress=False)
    lm = load_multi_model({4: gptq / "gptq-4", 2: nested, 16: nested}, weight_cache=False)
    assert stored_widths(lm.model) == (2, 4, 16)
    assert lm.quantizer.startswith("one model a width: gptq, ")
    asked = prompts(lm, 1)
    decoder = Decoder(lm)
    small = decoder.decode(asked, UniformScheduler(4))
    assert all(not layer.derived_tensors() for layer in nested_linears(lm.model))
    set_weight_cache(lm.model, True)
    assert [one.tokens for one in decoder.decode(asked, UniformScheduler(4))] == [one.tokens for one in small]
    assert decoder.decode(asked, UniformScheduler(FULL_PRECISION_BITS))


def changed_store(store: Path, out: Path, name: str) -> Path:
    """A copy of a store in which one tensor differs, its checksums put right."""
    shutil.copytree(store, out)
    file = out / "model.safetensors"
    tensors = load_file(file)
    tensors[name] = tensors[name] + 1
    save_file(tensors, file, metadata={"format": "pt"})
    manifest = json.loads((out / "store.json").read_text())
    manifest["files"]["model.safetensors"] = file_sha256(file)
    (out / "store.json").write_text(json.dumps(manifest))
    return out


def test_stores_that_differ_beyond_their_linear_layers_are_refused_by_name(gptq, tmp_path):
    name = "model.norm.weight"
    other = changed_store(gptq / "gptq-3", tmp_path / "other", name)
    with pytest.raises(InputError, match=f"differ in '{name}'; only the linear layers of the blocks may differ"):
        load_multi_model({4: gptq / "gptq-4", 3: other})


def test_stores_of_different_models_are_refused(gptq, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(gptq / "gptq-3", other)
    manifest = json.loads((other / "store.json").read_text())
    manifest["model_sha256"] = "0" * 64
    (other / "store.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="were made from different models \\(000000000000, "):
        load_multi_model({4: gptq / "gptq-4", 3: other})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "empty; name at least one model"),
        ({"9": "x"}, "must be 1..8"),
        ({"four": "x"}, "no map of widths to models"),
        ({"4": ""}, "at least 1 character"),
        ({"4": 3}, "must be a valid string"),
        ([1], "no map of widths to models"),
        ({"4": "nothing-there"}, "width 4: "),
        ({"5": "gptq-4"}, "has widths 4; give a model that has 5"),
        ({"4": str(MODEL_FOLDER)}, "has widths 16; give a model that has 4"),
    ],
)
def test_a_map_that_cannot_be_is_refused_in_one_line(gptq, content, message):
    file = gptq / "wrong.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        load_model(file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_map_that_is_missing_or_limited_is_refused(gptq):
    with pytest.raises(InputError, match="no such file"):
        load_model(gptq / "nothing.json")
    with pytest.raises(InputError, match="max_bits = 3: .* is a map of models"):
        load_model(gptq / "map.json", max_bits=3)
