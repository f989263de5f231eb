from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwsim.trace import read_json
from studies import cli
from studies.large_model.model import RandomLlama, write_random_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model, and texts in both forms."""
    folder = tmp_path_factory.mktemp("model")
    write_random_llama(folder, RandomLlama(128, 192, 2, 4, 2, 300))
    (folder / "texts.txt").write_text("one short text\n\nand another,\nof two lines\n")
    (folder / "texts.json").write_text(json.dumps(["one short text", "and another,\nof two lines"]))
    return folder


def quantize(capsys: pytest.CaptureFixture[str], folder: Path, out: Path, *options: str) -> dict[str, object]:
    assert cli.main(["quantize", str(folder), str(out), *options, "--json", "--quiet"]) == 0
    summary: dict[str, object] = json.loads(capsys.readouterr().out)
    return summary


@pytest.mark.parametrize(
    ("options", "quantizer", "widths"),
    [
        ("--max-bits 4", "nested-kmeans", "234"),
        ("--min-bits 3 --max-bits 5 --joint-bits 4", "nested-kmeans-joint-4", "345"),
        ("--max-bits 3 --sensitivity fisher --calibration TEXTS.txt", "nested-kmeans-fisher", "23"),
        ("--max-bits 3 --sensitivity hessian --calibration TEXTS.json", "nested-kmeans-hessian", "23"),
        ("--max-bits 2 --outlier-share 0.01", "nested-kmeans-sparse-magnitude-0.01", "2"),
        ("--method rtn --bits 3 --symmetric --group-size 32", "rtn", "3"),
        ("--method gptq --bits 4 --damping 0.02 --calibration TEXTS.txt", "gptq", "4"),
    ],
)
def test_every_method_makes_the_store_it_was_asked_for(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, options: str, quantizer: str, widths: str
) -> None:
    words = [word.replace("TEXTS", str(folder / "texts")) for word in options.split()]
    summary = quantize(capsys, folder, tmp_path / "store", *words)
    config = read_json(tmp_path / "store" / "config.json")["quantization_config"]
    assert config["quantizer"] == quantizer
    assert list(summary["bits_per_weight"]) == list(widths)  # type: ignore[call-overload]
    assert (config["min_bits"], config["max_bits"]) == (int(widths[0]), int(widths[-1]))


def test_average_bits_are_met_by_outliers(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    summary = quantize(capsys, folder, tmp_path / "s", "--min-bits", "2", "--max-bits", "2", "--average-bits", "3.39")
    assert summary["bits_per_weight"] == {"2": pytest.approx(3.39, abs=0.005)}


def test_texts_are_the_same_from_json_and_from_paragraphs(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    stores = [
        quantize(capsys, folder, tmp_path / kind, "--sensitivity", "fisher", "--calibration", f"{folder}/texts.{kind}")
        for kind in ("txt", "json")
    ]
    assert stores[0]["store_sha256"] == stores[1]["store_sha256"]
