"""Every input of a co-design run is refused before the model is quantised, with what to do."""

import json
from types import SimpleNamespace

import pytest
import yaml

from accuracy.tasks import make_task
from hwsim import load_npu
from hwsim.load import read_npu_text
from hwsim.trace import InputError
from studies.codesign.inputs import (
    NPU_FILE,
    STUDY_FILE,
    Settings,
    check_lengths,
    check_metrics,
    check_prompts,
    chosen_widths,
    keep_npu,
    read_template,
)
from studies.common.tasks import TaskChoice


@pytest.fixture
def narrow(tmp_path):
    """An own NPU file that reads 2, 3, 4 and 16 bits."""
    value = yaml.safe_load(read_npu_text("pmpd-4k")[0])
    value["name"] = "narrow"
    value["matrix"] |= {"weight_widths": [2, 3, 4, 16], "lookups_per_cycle": {2: 4096, 3: 4096, 4: 4096}}
    path = tmp_path / "narrow.yaml"
    path.write_text(yaml.safe_dump(value))
    return path


def test_without_a_choice_the_npus_own_widths_are_measured(narrow):
    assert chosen_widths(None, load_npu("pmpd-4k")) == (2, 3, 4, 5, 6, 7, 8)
    assert chosen_widths(None, load_npu(narrow)) == (2, 3, 4)
    assert chosen_widths((4, 2), load_npu(narrow)) == (2, 4)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((8, 4), "--widths 8: narrow reads 2, 3, 4; choose those, or change weight_widths"),
        ((16, 4), "--widths 16: must be 1..8; full precision is measured in any case"),
        ((3,), "widths = 3: co-design needs two or more; narrow reads 2, 3, 4"),
    ],
)
def test_widths_that_cannot_be_compared_are_refused(narrow, asked, message):
    with pytest.raises(InputError, match=message):
        chosen_widths(asked, load_npu(narrow))


def test_an_own_npu_file_is_kept_and_another_one_does_not_replace_it(narrow, tmp_path):
    out = tmp_path / "out"
    assert keep_npu("pmpd-16k", out) == "pmpd-16k"
    assert not out.exists()
    assert keep_npu(str(narrow), out) == NPU_FILE
    assert (out / NPU_FILE).read_text() == narrow.read_text()
    assert keep_npu(str(narrow), out) == NPU_FILE
    kept = narrow.read_text()
    narrow.write_text(kept.replace("narrow", "other"))
    with pytest.raises(InputError, match="holds results of another NPU file; choose another --out"):
        keep_npu(str(narrow), out)
    assert (out / NPU_FILE).read_text() == kept


def test_an_own_exploration_takes_the_place_of_the_shipped_one(tmp_path):
    own = yaml.safe_load(STUDY_FILE.read_text()) | {"budget": 7, "npu": "pmpd-16k"}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(own))
    assert read_template(Settings(tmp_path, study=path)) == own | {"seed": 0}
    given = read_template(Settings(tmp_path, study=path, npu="pmpd-4k", budget=9, seed=3))
    assert (given["npu"], given["budget"], given["seed"]) == ("pmpd-4k", 9, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "own.yaml: not YAML"),
        ("- a", "own.yaml: a study file is a mapping of fields"),
        ("quality: q.json", "own.yaml: quality: is measured or made by this study; leave it out"),
        ("npu: pmpd-4k", "own.yaml: parameters: must have memory.bandwidth_bytes_per_s"),
        ("parameters: {memory.bandwidth_bytes_per_s: {type: log}}", "own.yaml: npu is missing"),
    ],
)
def test_an_exploration_that_cannot_be_used_is_named(tmp_path, text, message):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_template(Settings(tmp_path, study=path))


def own_data(path, count, **fields):
    path.write_text("".join(json.dumps({"prompt": f"p {i}", **fields}) + "\n" for i in range(count)))
    return path


def test_too_few_own_prompts_are_counted(tmp_path):
    data = own_data(tmp_path / "few.jsonl", 12, reference="r")
    settings = Settings(tmp_path, task=TaskChoice(data=str(data)))
    with pytest.raises(InputError, match=r"few.jsonl: split 'val' holds \d prompts: must be >= 8; give more data"):
        check_prompts(settings, make_task("file", path=data))
    more = own_data(tmp_path / "more.jsonl", 200, reference="r")
    check_prompts(Settings(tmp_path, task=TaskChoice(data=str(more))), make_task("file", path=more))


def test_a_prompt_longer_than_the_context_is_named_before_anything_runs(tmp_path):
    data = own_data(tmp_path / "long.jsonl", 60, reference="r")
    task = make_task("file", path=data, max_new_tokens=6)
    settings = Settings(tmp_path, task=TaskChoice(data=str(data)))
    lm = SimpleNamespace(
        name="tiny", shape=SimpleNamespace(max_context=8), tokenizer=lambda text: {"input_ids": [1, 2]}
    )
    check_lengths(settings, task, lm)
    lm.shape.max_context = 7
    with pytest.raises(InputError, match=r"prompt '\d+' of split 'val': 2 tokens .* tiny holds at most 7; shorten it"):
        check_lengths(settings, task, lm)


@pytest.mark.filterwarnings("ignore:.*no record has a field 'reference'")
def test_a_metric_that_needs_references_is_refused_where_there_are_none(tmp_path):
    task = make_task("file", path=own_data(tmp_path / "prompts.jsonl", 30))
    with pytest.raises(InputError, match="--metric bleu: task 'file' has no references; use fidelity_rouge_l"):
        check_metrics(Settings(tmp_path, metrics=("fidelity_rouge_l", "bleu")), task)
    with pytest.raises(InputError, match="did you mean 'bleu'"):
        check_metrics(Settings(tmp_path, metrics=("blue",)), task)
    check_metrics(Settings(tmp_path, metrics=("fidelity_rouge_l",)), task)
