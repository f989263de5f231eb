from __future__ import annotations

import json
import shutil

import pytest
import torch

from accuracy.decoding import Decoder, Prompt
from accuracy.metrics import rouge_l
from accuracy.scheduler_training.features import ALL_INPUTS, FeatureInput
from accuracy.scheduler_training.label_store import LABELS_FILE, LabelledPrompts
from accuracy.scheduler_training.labels import collect_labels
from accuracy.schedulers import CandidateSet, StaticScheduler, UniformScheduler
from hwsim.trace import InputError

from ..conftest import FakeSwitch, tiny_llama
from .conftest import record

CANDIDATES = CandidateSet.of([4, 2])
PROMPTS = [Prompt(f"p{number}", tuple(3 + (number * step) % 50 for step in range(2 + number % 5)), 10 + number % 3)
           for number in range(10)]  # fmt: skip


def collect(out, prompts=PROMPTS, candidates=CANDIDATES, **options) -> LabelledPrompts:
    lm = tiny_llama()
    options = {"batch_size": 4, "progress": False, **options}
    return collect_labels(lm, prompts, candidates, out, switch=FakeSwitch(lm.model), **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("labels") / "run"
    collect(out)
    return out


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_label_is_the_first_class_as_good_as_the_last():
    assert [record(0, label, 0, 0, 1).label() for label in range(4)] == [0, 1, 2, 3]
    better = record(0, 3, 0, 0, 1).model_copy(update={"scores": (1.0, 8.0, 9.0, 3.0)})
    assert better.label() == 1, "a class may be better than the highest width"


def test_by_the_papers_text_the_label_has_the_words_of_full_precision_or_is_the_last():
    one = record(0, 1, 0, 0, 1)
    assert one.label("full-precision") == 3, "no class reaches 9.5"
    exact = one.model_copy(update={"scores": (1.0, 9.0, 9.5, 9.0)})
    assert exact.label("full-precision") == 2


def test_scores_bits_and_steps_are_those_of_decoding_each_class_alone(folder):
    lm = tiny_llama()
    decoder = Decoder(lm, FakeSwitch(lm.model))
    found = LabelledPrompts.read(folder).records
    for prompt, one in zip(PROMPTS, found, strict=True):
        (full,) = decoder.decode([prompt], UniformScheduler(16))
        for index, schedule in enumerate(CANDIDATES.schedules(prompt.max_new_tokens)):
            (response,) = decoder.decode([prompt], StaticScheduler(schedule))
            expected = rouge_l(response.text, full.text) if full.text else 100.0 * (not response.text)
            assert one.scores[index] == pytest.approx(expected)
            assert one.decode_steps[index] == len(response.decode_weight_bits)
            assert one.decode_bits[index] == sum(response.decode_weight_bits)
        assert one.full_precision_score == pytest.approx(100)
        assert one.prompt_tokens == len(prompt.token_ids)


def test_features_are_the_cache_and_the_activations_of_the_prefill(folder):
    labelled = LabelledPrompts.read(folder)
    lm = tiny_llama()
    FakeSwitch(lm.model).set(4)
    keys, values = (
        labelled.features(FeatureInput("kv", "last")),
        labelled.features(FeatureInput("activations", "first")),
    )
    caught: list[torch.Tensor] = []
    lm.model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    for prompt, kv, activations in zip(PROMPTS, keys, values, strict=True):
        with torch.inference_mode():
            cache = lm.model(input_ids=torch.tensor([prompt.token_ids]), use_cache=True).past_key_values
        assert torch.allclose(kv.keys.float(), cache.layers[-1].keys[0], rtol=2e-3, atol=1e-4)
        assert torch.allclose(kv.values.float(), cache.layers[-1].values[0], rtol=2e-3, atol=1e-4)
        assert torch.allclose(activations.values[0].float(), caught[-1][0], rtol=2e-3, atol=1e-4)
        assert activations.keys is activations.values
        assert kv.shape == (2, 8, 8)
        assert activations.shape == (1, 32, 32)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.62, 0.999])
def test_a_run_killed_anywhere_ends_with_the_same_files(folder, tmp_path, share):
    out = tmp_path / "run"
    shutil.copytree(folder, out)
    lines = (out / LABELS_FILE).read_bytes()
    (out / LABELS_FILE).write_bytes(lines[: int(share * len(lines))])
    with pytest.raises(InputError, match="of 10 prompts are labelled; run it to its end"):
        LabelledPrompts.read(out)
    collect(out)
    assert files(out) == files(folder)


def test_a_finished_folder_decodes_nothing(folder, monkeypatch):
    monkeypatch.setattr(Decoder, "decode_batch", None)
    again = collect(folder)
    assert [one.id for one in again.records] == [prompt.id for prompt in PROMPTS]


def test_a_folder_of_all_inputs_serves_one_of_them_and_not_the_other_way_round(folder, tmp_path):
    assert collect(folder, inputs=[FeatureInput()]).settings.inputs == tuple(one.name for one in ALL_INPUTS)
    one = collect(tmp_path / "one", inputs=[FeatureInput()])
    with pytest.raises(InputError, match="input 'activations-last' was not recorded; recorded: kv-last"):
        one.features(FeatureInput("activations"))
    with pytest.raises(InputError, match="holds a run with inputs"):
        collect(tmp_path / "one")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"candidates": CandidateSet.of([3, 2])}, r"holds a run with widths"),
        ({"prompts": PROMPTS[:8]}, "holds a run with prompts = 10, now 8"),
        ({"batch_size": 3}, "holds a run with batch_size = 4, now 3"),
    ],
)
def test_a_run_is_not_continued_with_other_settings(folder, change, named):
    with pytest.raises(InputError, match=named):
        collect(folder, **change)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"candidates": CandidateSet.of([4])}, r"widths = \[4\]: a scheduler needs at least 2"),
        ({"candidates": CandidateSet.of([8, 4])}, "weight_bits = 8: not stored"),
        ({"inputs": []}, "inputs: none given"),
        ({"prompts": [Prompt("long", (3,) * 95, 9)]}, "prompt 'long': 95 prompt tokens"),
    ],
)
def test_what_cannot_be_labelled_is_refused_before_anything_runs(tmp_path, change, named):
    with pytest.raises(InputError, match=named):
        collect(tmp_path / "run", **change)
    assert not (tmp_path / "run").exists()


def test_damage_is_named(folder, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(folder, out)
    path = out / "features" / "00001.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"00001\.safetensors: is damaged"):
        LabelledPrompts.read(out).features(FeatureInput())
    line = json.loads((out / LABELS_FILE).read_text().splitlines()[0])
    (out / LABELS_FILE).write_text(json.dumps(line | {"scores": "high"}) + "\n")
    with pytest.raises(InputError, match=r"labels\.jsonl:1: scores = 'high'"):
        LabelledPrompts.read(out)


def test_held_out_prompts_are_the_last_ones(folder):
    known, unseen = LabelledPrompts.read(folder).split(3)
    ids = [prompt.id for prompt in PROMPTS]
    assert [[one.id for one in part.records] for part in (known, unseen)] == [ids[:7], ids[7:]]
    for count in (0, 10):
        with pytest.raises(InputError, match=rf"held_out = {count}: must be 1\.\.9"):
            LabelledPrompts.read(folder).split(count)


def test_unknown_inputs_are_refused_with_a_suggestion():
    assert [FeatureInput.named(one.name) for one in ALL_INPUTS] == list(ALL_INPUTS)
    with pytest.raises(InputError, match="unknown scheduler input 'kv-lats'; did you mean 'kv-last'"):
        FeatureInput.named("kv-lats")


def test_blocks_are_counted_from_the_front():
    assert [FeatureInput("kv", block).block_index(5) for block in ("first", "middle", "last")] == [0, 2, 4]
    assert [FeatureInput("kv", block).block_index(1) for block in ("first", "middle", "last")] == [0, 0, 0]
    assert FeatureInput("activations", "middle").captured_blocks(4) == {2}
    assert FeatureInput("kv", "middle").captured_blocks(4) == frozenset()
