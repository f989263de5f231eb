from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from accuracy.decoding import Decoder, Prompt
from accuracy.scheduler_training.cost import measure_cost
from accuracy.scheduler_training.features import FeatureInput
from accuracy.scheduler_training.labels import collect_labels
from accuracy.scheduler_training.train import TrainingData, TrainingSettings, save_trained, train_classifier
from accuracy.schedulers import CandidateSet, LearnedScheduler, make_scheduler
from hwsim.trace import InputError

from .conftest import FakeSwitch, tiny_llama
from .scheduler_suite import check_scheduler

CANDIDATES = CandidateSet.of([4, 2])
PROMPTS = [Prompt(f"p{number}", tuple(3 + (7 * number + step) % 50 for step in range(2 + number % 6)), 13)
           for number in range(24)]  # fmt: skip
VARIANTS = {"kv-last": ("kv", "last", False), "activations": ("activations", "middle", True)}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """One file a variant, overfitted so that it chooses more than one class."""
    folder = tmp_path_factory.mktemp("learned")
    lm = tiny_llama()
    labels = collect_labels(lm, PROMPTS, CANDIDATES, folder / "labels", progress=False, switch=FakeSwitch(lm.model))
    settings = TrainingSettings(epochs=30, learning_rate=1e-2, patience=30, validation_share=0.5)
    for name, (source, block, positions) in VARIANTS.items():
        data = TrainingData(labels, FeatureInput(source, block), validation_share=settings.validation_share)
        trained = train_classifier(data, settings, positions=positions)
        save_trained(folder / f"{name}.safetensors", trained, data, settings, seed=0, training_text="random tokens")
    return {name: folder / f"{name}.safetensors" for name in VARIANTS}


@pytest.mark.parametrize("name", VARIANTS)
def test_it_does_what_every_scheduler_must(checkpoints, name):
    other = next(path for key, path in checkpoints.items() if key != name)
    check_scheduler(lambda: LearnedScheduler(checkpoints[name]), lambda: LearnedScheduler(other))


def test_it_plans_the_candidate_of_the_class_it_chooses(checkpoints):
    lm = tiny_llama()
    scheduler = make_scheduler("learned", checkpoint=checkpoints["kv-last"], lm=lm)
    chosen = []
    choose = scheduler.choose
    scheduler.choose = lambda prefill: chosen.append(choose(prefill)) or chosen[-1]
    responses = Decoder(lm, FakeSwitch(lm.model)).decode(PROMPTS, scheduler, batch_size=1)
    order = sorted(PROMPTS, key=lambda prompt: -len(prompt.token_ids))
    by_id = {response.prompt_id: response for response in responses}
    for prompt, one in zip(order, chosen, strict=True):
        plan = CANDIDATES.schedules(prompt.max_new_tokens)[one]
        assert list(by_id[prompt.id].decode_weight_bits) == plan.expand(len(by_id[prompt.id].tokens) - 1)
    assert len(set(chosen)) > 1


def test_more_sufficiency_costs_bits(checkpoints):
    lm = tiny_llama()
    decoder = Decoder(lm, FakeSwitch(lm.model))
    spent = []
    for sufficiency in (0.01, 0.5, 0.999999):
        scheduler = LearnedScheduler(checkpoints["kv-last"], lm, sufficiency=sufficiency)
        responses = decoder.decode(PROMPTS, scheduler, batch_size=8)
        spent.append([one.decode_weight_bits[0] for one in responses if one.decode_weight_bits])
    assert sum(spent[0]) < sum(spent[2])
    assert all(low <= middle <= high for low, middle, high in zip(*spent, strict=True))


def test_its_label_names_what_it_reads_and_its_rule(checkpoints):
    assert LearnedScheduler(checkpoints["kv-last"]).label.startswith("learned p4:4/2 N=4 kv-last ")
    strict = LearnedScheduler(checkpoints["activations"], sufficiency=0.8)
    assert strict.label.startswith("learned p4:4/2 N=4 activations-middle+positions ")
    assert strict.label.endswith(" >=0.8")
    assert strict.captured_blocks == {1}
    assert strict.widths() == {4, 2}


def test_models_and_settings_of_another_kind_are_refused(checkpoints):
    path = checkpoints["kv-last"]
    with pytest.raises(InputError, match=r"trained for widths = \[4, 2\], not \[4, 3\]"):
        LearnedScheduler(path, widths=[3, 4])
    with pytest.raises(InputError, match="trained for points = 4, not 6"):
        LearnedScheduler(path, points=6)
    with pytest.raises(InputError, match="sufficiency = 1: must lie between 0 and 1"):
        LearnedScheduler(path, sufficiency=1)
    other = SimpleNamespace(**{**vars(tiny_llama()), "model_sha256": "f" * 64})
    with pytest.raises(InputError, match="model_sha256 = 111111111111, not ffffffffffff"):
        LearnedScheduler(path, other)
    with pytest.raises(InputError, match="no such file"):
        make_scheduler("learned", checkpoint="nowhere")


def test_a_prefill_of_another_shape_is_refused_where_the_model_was_not_given(checkpoints):
    scheduler = LearnedScheduler(checkpoints["kv-last"])

    def prefill(layers, heads):
        states = torch.zeros(heads, 3, 8)
        cache = SimpleNamespace(layers=layers, keys=lambda _: states, values=lambda _: states)
        return SimpleNamespace(kv_cache=cache, max_new_tokens=9)

    assert scheduler.choose(prefill(2, 2)) in range(4)
    with pytest.raises(InputError, match="was trained for 2 decoder blocks; the model has 3"):
        scheduler.choose(prefill(3, 2))
    with pytest.raises(InputError, match=r"= \(2, 8, 8\), the model gives \(4, 8, 8\)"):
        scheduler.choose(prefill(2, 4))


def test_its_cost_is_counted_and_timed(checkpoints):
    lm = tiny_llama()
    for name, values_per_token in (("kv-last", 2 * (8 + 8)), ("activations", 32)):
        scheduler = LearnedScheduler(checkpoints[name], lm)
        cost = measure_cost(lm, scheduler, PROMPTS[:6], repeats=2, switch=FakeSwitch(lm.model))
        assert cost.parameters == scheduler.config.classifier.parameters
        assert cost.parameter_bytes == 4 * cost.parameters
        assert cost.feature_bytes == pytest.approx((2 + 3 + 4 + 5 + 6 + 7) / 6 * values_per_token * 4)
        assert cost.prefill_weight_bytes == lm.shape.linear_weights() * 4 / 8
        assert cost.plan_ns > 0 < cost.prefill_ns
        assert (cost.prompts, cost.repeats) == (6, 2)
    with pytest.raises(InputError, match="prompts = 0, repeats = 5"):
        measure_cost(lm, scheduler, [])
