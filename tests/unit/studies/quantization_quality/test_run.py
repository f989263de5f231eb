from __future__ import annotations

import csv
import json

import pytest

from studies import cli
from studies.quantization_quality import run as study
from studies.quantization_quality.sizes import fp16_bytes, store_bytes
from studies.quantization_quality.variants import make_variants


@pytest.fixture
def few_stores(monkeypatch):
    """RTN at two widths beside the nested store, which the table pairs them with."""

    def make(shapes, *, quick):
        variants, skipped = make_variants(shapes, quick=quick)
        return [v for v in variants if v.name in {"nested", "direct"} or v.label == "rtn 2"], skipped

    monkeypatch.setattr(study, "make_variants", make)
    # Drawing takes longer than everything else here; the slow test below draws.
    monkeypatch.setattr("studies.quantization_quality.plot.write_figures", lambda folder: [])


@pytest.fixture
def counted(monkeypatch):
    """Count what is measured; stop the run before the third."""
    calls = []
    measure = study.measure

    def counting(lm, subject, bits):
        if len(calls) == counting.stop_before:
            raise KeyboardInterrupt
        calls.append(bits)
        return measure(lm, subject, bits)

    counting.stop_before = 3
    monkeypatch.setattr(study, "measure", counting)
    return calls, counting


def test_a_run_that_was_stopped_goes_on_and_measures_nothing_twice(few_stores, counted, tmp_path):
    calls, counting = counted
    settings = study.Settings(tmp_path, quick=True, progress=False)
    with pytest.raises(KeyboardInterrupt):
        study.run_quantization_quality(settings)
    assert not (tmp_path / "quality.csv").exists()
    counting.stop_before = None
    rows = study.run_quantization_quality(settings)
    assert len(calls) == len(rows) == 5
    assert study.run_quantization_quality(settings) == rows
    assert len(calls) == 5
    assert not list((tmp_path / "work" / "stores").iterdir())
    names = [(row["quantizer"], row["bits"]) for row in rows]
    assert names == [("full precision", 16), ("nested", 2), ("nested", 3), ("direct", 3), ("rtn", 2)]
    with (tmp_path / "quality.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["perplexity"]) for row in table] == pytest.approx([row["perplexity"] for row in rows], rel=1e-5)


def test_bytes_are_those_of_planes_codebooks_and_kept_weights(tmp_path):
    from accuracy.quantization import NestedSettings, quantize
    from accuracy.quantization.checkpoint import Checkpoint
    from accuracy.reference import MODEL_FOLDER

    linears = Checkpoint.open(MODEL_FOLDER).linears.values()
    shapes = [(layer.out_features, layer.in_features) for layer in linears]
    unquantized = fp16_bytes(MODEL_FOLDER, shapes)
    for keep in (False, True):
        out = tmp_path / str(keep)
        quantize(MODEL_FOLDER, out, NestedSettings(max_bits=3, keep_full_precision=keep), progress=False)
        found = store_bytes(out)
        assert found["planes_bytes"] == sum(3 * N * -(-K // 32) * 4 for N, K in shapes)
        assert found["codebook_bytes"] == sum(N * (4 + 8) * 2 for N, _ in shapes)
        assert found["fp16_bytes"] == (sum(2 * N * K for N, K in shapes) if keep else 0)
        assert found["sparse_bytes"] == 0
        assert found["other_bytes"] == unquantized["other_bytes"]
        assert found["weight_file_bytes"] == (out / "model.safetensors").stat().st_size
        assert found["file_bytes"] == sum(path.stat().st_size for path in out.iterdir())


@pytest.mark.slow
def test_the_quick_study_compares_every_kind_of_store(capsys, tmp_path):
    assert cli.main(["study", "quantization-quality", "--quick", "--out", str(tmp_path), "--quiet"]) == 0
    out = capsys.readouterr().out
    found = json.loads((tmp_path / "quantization_quality.json").read_text())
    kinds = {row["quantizer"] for row in found["quality"]}
    assert {"nested", "nested-fisher", "rtn", "gptq", "gptq-g64", "dns", "dns-fisher"} <= kinds
    for row in found["quality"]:
        assert row["log_perplexity_minus_full_low"] <= row["log_perplexity_minus_full"]
        if not row["quantizer"].startswith(("rtn", "gptq")):
            assert row["bits_per_weight"] == pytest.approx(row["store_bits_per_weight"], abs=0.005)
        assert row["quantizer"] in out
    for figure in ("perplexity", "fidelity", "two_bits", "bytes"):
        assert (tmp_path / f"{figure}.png").is_file()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["provenance"]["threads"].isdigit()
    assert set(manifest["models"]) == {"selvic"}
