"""A user's own metric is found by its module, tried before anything is decoded, and known by its own name."""

import re

import pytest

from accuracy.metrics import METRICS, find_metric, get_metric
from accuracy.metrics.base import _OWN
from hwsim.trace import InputError

MODULE = """
import numpy as np
from accuracy.metrics import Metric
from accuracy.statistics import mean

def recall(responses, references):
    pairs = zip(responses, references, strict=True)
    return np.array([[len(set(r.text.split()) & set(g.gold.split()))] for r, g in pairs], dtype=float)

good = Metric("own_recall", "maximize", "gold", recall, mean, "words found")
def made():
    return Metric("own_made", "maximize", "gold", recall, mean, "words found")
taken = Metric("bleu", "maximize", "gold", recall, mean, "words found")
one_argument = Metric("own_bad", "maximize", "gold", recall, lambda sums: sums[..., 0], "no count")
flat = Metric("own_flat", "maximize", "gold", lambda r, g: np.zeros(2), lambda sums, n: sums, "no columns")
number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    name = f"own_{re.sub(r'[^a-z0-9]', '_', tmp_path.name.lower())}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(METRICS, "_factories", dict(METRICS._factories))
    monkeypatch.setattr("accuracy.metrics.base._OWN", dict(_OWN))
    return name


def test_an_own_metric_is_the_same_however_it_is_asked_for(module):
    for attribute, name in (("good", "own_recall"), ("made", "own_made")):
        metric = find_metric(f"{module}:{attribute}")
        assert metric.name == name
        assert find_metric(f"{module}:{attribute}") is metric
        assert get_metric(name) is metric
    assert find_metric("bleu").name == "bleu"


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("taken", "is called 'bleu' like another; give it another name"),
        ("one_argument", r"fails on two words \(TypeError: .*takes 1 positional argument but 2 were given\)"),
        ("flat", r"have the form \(2,\), must be \(2, D\)"),
        ("number", "must name an accuracy.metrics.Metric, or a function that makes one"),
        ("nothing", "must name an accuracy.metrics.Metric"),
    ],
)
def test_an_own_metric_that_cannot_score_is_refused(module, attribute, message):
    with pytest.raises(InputError, match=message):
        find_metric(f"{module}:{attribute}")


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(InputError, match=r"module 'nowhere_at_all' cannot be imported"):
        find_metric("nowhere_at_all:x")
