from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from accuracy.model import load_tokenizer
from accuracy.reference import MODEL_FOLDER, SCHEDULER_FOLDER, encode_prompt
from hwsim.trace import InputError
from studies.demo.conversation import Engine
from studies.demo.model import DemoModel, default_cache

TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}] {{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def other(model: DemoModel, template: str | None) -> DemoModel:
    """The same weights as if they were another model's, with or without a chat template."""
    tokenizer = load_tokenizer(str(MODEL_FOLDER), "other")
    tokenizer.chat_template = template
    return DemoModel.of(replace(model.lm, name="other", model_sha256="0" * 64, tokenizer=tokenizer))


def test_the_shipped_model_says_that_it_only_translates_and_gives_its_examples(model):
    assert model.kind == "shipped"
    assert "can do nothing else: no chat, no questions" in model.about
    (prompt, reference), *rest = model.references.items()
    assert len(rest) == 5
    assert reference
    assert list(model.encode(prompt)) == encode_prompt(model.lm.tokenizer, prompt)
    assert model.encode(prompt, [("before", "answer")]) == model.encode(prompt)


def test_a_chat_model_reads_what_was_said_before_through_its_template(model):
    chat = other(model, TEMPLATE)
    assert chat.kind == "chat"
    assert "its own chat template" in chat.about
    assert chat.references == {}
    decode = chat.lm.tokenizer.decode
    second = chat.encode("they praise", [("you take", "tepadul")])
    assert len(second) > len(chat.encode("they praise"))
    text = decode(second, skip_special_tokens=True)
    assert text.index("you take") < text.index("tepadul") < text.index("they praise")


def test_a_model_without_a_template_completes_the_text_as_it_stands(model):
    plain = other(model, None)
    assert plain.kind == "completion"
    assert "it goes on where the prompt ends" in plain.about
    assert list(plain.encode("you take", [("a", "b")])) == plain.lm.tokenizer("you take")["input_ids"]


def test_a_template_that_refuses_is_one_line(model):
    broken = other(model, "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InputError, match="chat template of .*roles must alternate"):
        broken.encode("you")


def test_a_model_without_a_scheduler_of_its_own_says_how_to_get_one(model):
    engine = Engine(other(model, None))
    assert engine.learned is None
    assert engine.why_not_learned.startswith("no scheduler trained for other was given; make one with bittaper train-")
    assert f"--model {model.lm.folder} --widths 4,2 --out FOLDER and start the demo with" in engine.why_not_learned


def test_the_shipped_scheduler_is_not_offered_for_another_store_and_refused_when_asked_for(model):
    engine = Engine(model)
    assert engine.learned is None
    assert "was trained for another quantisation of selvic-llama" in engine.why_not_learned
    with pytest.raises(InputError, match="was trained for store_sha256 = .*; train a scheduler for this setting"):
        Engine(model, str(SCHEDULER_FOLDER))


def test_no_reference_no_bound_of_the_shipped_task_for_others(model):
    assert model.usual_tokens == 96
    small = replace(other(model, None).lm, shape=SimpleNamespace(max_context=64))
    assert DemoModel(small, "completion").usual_tokens == 32


def test_the_cache_follows_the_users_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "bittaper"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "bittaper"
