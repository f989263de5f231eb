from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accuracy.scheduler_training.classifier import (
    POSITION_WIDTH,
    ClassifierShape,
    ScheduleClassifier,
    choose_classes,
    pad,
)
from accuracy.scheduler_training.features import Features
from hwsim.trace import InputError

SHAPE = ClassifierShape(heads=3, key_dim=5, value_dim=7, hidden_size=11, classes=4)


def classifier(seed: int = 0, **changes) -> ScheduleClassifier:
    torch.manual_seed(seed)
    made = ScheduleClassifier(SHAPE.model_copy(update=changes)).eval()
    with torch.no_grad():
        made.query.normal_()
    return made


def features(tokens: int, seed: int = 0, shape: ClassifierShape = SHAPE) -> Features:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda width: torch.randn(shape.heads, tokens, width, generator=generator).half()  # noqa: E731
    return Features(draw(shape.key_dim), draw(shape.value_dim))


def test_logits_follow_equations_4_and_5():
    network, one = classifier(), features(6)
    pooled = []
    for head in range(3):
        scores = [float(network.query[head].detach() @ key.float()) / math.sqrt(5) for key in one.keys[head]]
        weights = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
        pooled.append(sum(weight * value.float() for weight, value in zip(weights, one.values[head], strict=True)))
    expected = network.output(network.hidden(network.norm(torch.cat(pooled))).relu())
    assert torch.allclose(network.classify([one], "x")[0], expected, atol=1e-5)


@pytest.mark.parametrize("positions", [False, True])
def test_a_prompt_is_classified_alike_alone_and_padded_in_a_batch(positions):
    network = classifier(positions=positions)
    prompts = [features(tokens, seed=tokens) for tokens in (1, 9, 4)]
    together = network.classify(prompts, "x")
    alone = torch.cat([network.classify([one], "x") for one in prompts])
    assert torch.allclose(together, alone, atol=1e-5)


@given(st.permutations(range(8)))
def test_without_positions_the_order_of_the_tokens_does_not_matter(order):
    one = features(8)
    turned = Features(one.keys[:, list(order)], one.values[:, list(order)])
    network = classifier()
    assert torch.allclose(network.classify([one], "x"), network.classify([turned], "x"), atol=1e-5)


def test_with_positions_order_and_length_matter():
    network = classifier(positions=True)
    one = features(8)
    turned = Features(one.keys.flip(1), one.values.flip(1))
    assert not torch.allclose(network.classify([one], "x"), network.classify([turned], "x"), atol=1e-3)
    same = [Features(torch.ones(3, tokens, 5).half(), torch.ones(3, tokens, 7).half()) for tokens in (8, 9)]
    short, long = network.classify(same, "x")
    assert not torch.allclose(short, long, atol=1e-3)
    blind = classifier().classify(same, "x")
    assert torch.allclose(blind[0], blind[1], atol=1e-5), "without them equal tokens tell no length"


@pytest.mark.parametrize("positions", [False, True])
def test_parameters_are_counted_in_closed_form(positions):
    network = classifier(positions=positions)
    assert network.shape.parameters == sum(one.numel() for one in network.parameters())
    extra = POSITION_WIDTH * positions
    pooled = 3 * (7 + extra)
    assert network.shape.parameters == 3 * (5 + extra) + 2 * pooled + 11 * (pooled + 1) + 4 * (11 + 1)


def test_padding_keeps_every_prompt_at_the_front():
    keys, values, lengths = pad([features(2, 1), features(5, 2)])
    assert (keys.shape, values.shape, lengths.tolist()) == ((2, 3, 5, 5), (2, 3, 5, 7), [2, 5])
    assert torch.equal(keys[0, :, :2], features(2, 1).keys)
    assert not keys[0, :, 2:].any()


def test_features_of_another_shape_are_refused():
    other = features(3, shape=SHAPE.model_copy(update={"heads": 2}))
    with pytest.raises(
        InputError, match=r"here\.st: was trained for features .* = \(3, 5, 7\), the model gives \(2, 5, 7\)"
    ):
        classifier().classify([other], "here.st")


def test_the_most_probable_class_is_chosen_unless_a_sufficiency_is_asked_for():
    logits = torch.tensor([[0.3, 0.4, 0.2, 0.1], [0.1, 0.1, 0.1, 0.7]]).log()
    assert choose_classes(logits).tolist() == [1, 3]
    assert choose_classes(logits, 0.29).tolist() == [0, 2]
    assert choose_classes(logits, 0.69).tolist() == [1, 3]
    assert choose_classes(logits, 0.71).tolist() == [2, 3]
    assert choose_classes(logits, 1 - 1e-17).tolist() == [3, 3]


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=4), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_more_sufficiency_never_means_fewer_bits(logits, one, other):
    chosen = [int(choose_classes(torch.tensor([logits]), level)[0]) for level in sorted((one, other))]
    assert chosen == sorted(chosen)
