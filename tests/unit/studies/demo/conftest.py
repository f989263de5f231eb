"""A demo on the shipped model with a small store, and engines whose model the test holds by the hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from accuracy.quantization import NestedSettings, load_store, quantize
from accuracy.reference import MODEL_FOLDER
from gate import Gate
from hwsim.trace import Schedule
from studies.demo.conversation import Engine
from studies.demo.model import DemoModel


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "selvic"
    quantize(MODEL_FOLDER, folder, NestedSettings(max_bits=4), progress=False)
    return folder


@pytest.fixture(scope="session")
def model(store) -> DemoModel:
    return DemoModel.of(load_store(store))


@pytest.fixture
def engine(model) -> Engine:
    return Engine(model)


@pytest.fixture
def gate(engine, monkeypatch):
    """Holds every pass of the model of ``engine`` until the test lets it run."""
    gate = Gate()
    gate.shut()
    handle = engine.model.lm.model.register_forward_pre_hook(gate.wait)
    yield gate
    gate.open()
    assert engine.model.lm.lock.acquire(timeout=60)  # no stream of this test runs into the next one
    engine.model.lm.lock.release()
    handle.remove()


def token(
    text: str, *, index: int = 0, bits: int = 4, finish: str | None = None, schedule: Schedule | None = None
) -> SimpleNamespace:
    """A streamed token, as far as rendering looks at it."""
    return SimpleNamespace(
        text=text,
        index=index,
        weight_bits=bits,
        prefill=index == 0,
        pass_ns=2_000_000,
        finish_reason=finish,
        schedule=schedule,
    )
