from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from accuracy.linear import nested_linears, set_weight_bits, stored_widths
from accuracy.model import decoder_linears, load_model
from accuracy.quantization import GptqSettings, NestedSettings, load_store, quantize
from accuracy.quantization.parts import Parts
from accuracy.quantization.widths import WastefulWidthWarning
from hwsim.trace import InputError

TOKENS = torch.tensor([[1, 5, 9, 33, 60, 7]])


@torch.no_grad()
def changed_copy(folder: Path, out: Path, change: Callable[[torch.nn.Module], None]) -> Path:
    """A model folder with other weights."""
    shutil.copytree(folder, out)
    model = load_model(folder).model
    change(model)
    model.save_pretrained(out)
    return out


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(TOKENS).logits


def test_summary_counts_what_was_quantised(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    source = load_model(model_folder("llama"))
    summary = quantize(model_folder("llama"), tmp_path / "s", NestedSettings(2, 6), progress=False)
    assert summary.weights == source.shape.linear_weights()
    assert summary.linears == 2 * 7
    store = load_store(tmp_path / "s")
    assert summary.store_sha256 == store.store_sha256
    read = [layer.planes[:3].numel() * 32 + layer.lut(3).numel() * 16 for layer in nested_linears(store.model)]
    assert summary.bits_per_weight[3] == pytest.approx(sum(read) / summary.weights)
    assert list(summary.relative_error) == [2, 3, 4, 5, 6]
    assert all(after < before for before, after in pairwise(summary.relative_error.values()))
    assert summary.stored_bytes < (tmp_path / "s" / "model.safetensors").stat().st_size


def test_model_of_zeros_is_reproduced_without_error(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    def clear(model: torch.nn.Module) -> None:
        for linear in decoder_linears(model).values():
            linear.weight.zero_()

    source = load_model(changed_copy(model_folder("llama"), tmp_path / "zeros", clear))
    summary = quantize(tmp_path / "zeros", tmp_path / "s", NestedSettings(2, 3), progress=False)
    assert summary.relative_error == {2: 0.0, 3: 0.0}
    assert torch.equal(logits(load_store(tmp_path / "s").model), logits(source.model))


def test_calibration_text_changes_the_codebooks(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = model_folder("llama")
    settings = NestedSettings(2, 3, sensitivity="fisher")
    fisher = quantize(folder, tmp_path / "f", settings, calibration=["word1 word2 word3"], progress=False)
    plain = quantize(folder, tmp_path / "p", NestedSettings(2, 3), progress=False)
    assert fisher.relative_error[2] > plain.relative_error[2]


def test_fisher_without_calibration_text_is_refused(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs calibration texts"):
        quantize(model_folder(), tmp_path / "s", NestedSettings(sensitivity="fisher"), progress=False)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 70_000.0])
def test_weight_that_no_codebook_holds_is_refused_by_name_and_nothing_is_written(
    model_folder: Callable[..., Path], tmp_path: Path, value: float
) -> None:
    def spoil(model: torch.nn.Module) -> None:
        model.model.layers[1].mlp.down_proj.weight[3, 4] = value

    source = changed_copy(model_folder("llama"), tmp_path / "spoilt", spoil)
    with pytest.raises(InputError, match=r"model\.layers\.1\.mlp\.down_proj\.weight: 1 of 1800 .* at \[3, 4\]"):
        quantize(source, tmp_path / "s", progress=False)
    assert [file.name for file in tmp_path.iterdir()] == ["spoilt"]


def test_store_cannot_be_quantised_again(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    quantize(model_folder(), tmp_path / "s", NestedSettings(2, 3), progress=False)
    with pytest.raises(InputError, match="is a nested store already"):
        quantize(tmp_path / "s", tmp_path / "t", progress=False)


def test_run_that_was_killed_goes_on_where_it_was_to_the_same_store(
    model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    source, out = model_folder(), tmp_path / "store"
    first, second = "part-model.layers.0.json", "part-model.layers.1.json"
    for moment, left in (("before", []), ("after", [first]), ("before", [first]), ("after", [first, second])):
        process = multiprocessing.get_context("fork").Process(target=_quantize_and_die, args=(source, out, moment))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        assert not out.exists()
        assert sorted(file.name for file in tmp_path.glob("store.partial/part-*.json")) == left
    again = quantize(source, out, RESUMED, calibration=CALIBRATION, progress=False)
    whole = quantize(source, tmp_path / "whole", RESUMED, calibration=CALIBRATION, progress=False)
    assert again.store_sha256 == whole.store_sha256
    assert again.relative_error == whole.relative_error
    assert sorted(file.name for file in tmp_path.iterdir()) == ["store", "whole"]


RESUMED = GptqSettings(3, keep_full_precision=True)
CALIBRATION = ["word1 word2 word3 word4", "word9 word8"]


def _quantize_and_die(source: Path, out: Path, moment: str) -> None:
    """Quantise in a process that dies before or after it adds its first part."""
    torch.set_num_threads(1)
    add = Parts.add

    def add_and_die(parts: Parts, *part: Any) -> None:
        if moment == "after":
            add(parts, *part)
        os.kill(os.getpid(), signal.SIGKILL)

    Parts.add = add_and_die  # type: ignore[method-assign]
    quantize(source, out, RESUMED, calibration=CALIBRATION, progress=False)


def test_widths_that_read_more_than_they_save_are_named(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.warns(WastefulWidthWarning, match=r"s: .*width 5 reads \d+\.\d bits per weight, .* unquantised"):
        quantize(model_folder(), tmp_path / "s", NestedSettings(2, 5), progress=False)


def test_unfinished_run_with_other_settings_is_refused_and_kept(
    model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    partial = tmp_path / "s.partial"
    partial.mkdir()
    (partial / "run.json").write_text('{"method": "nested", "max_bits": 4}')
    with pytest.raises(InputError, match=r"s\.partial: holds an unfinished run with .* finish that one, or remove"):
        quantize(model_folder(), tmp_path / "s", progress=False)
    assert (partial / "run.json").exists()


def test_real_model_is_close_at_eight_bits_and_worse_with_every_bit_less(shared_data: Path, tmp_path: Path) -> None:
    source = load_model(shared_data / "models" / "stories260K")
    quantize(shared_data / "models" / "stories260K", tmp_path / "store", progress=False)
    nested = load_store(tmp_path / "store")
    tokens = source.tokenizer("Once upon a time, there was a little girl named Lily.", return_tensors="pt").input_ids
    assert torch.equal(
        tokens, nested.tokenizer("Once upon a time, there was a little girl named Lily.", return_tensors="pt").input_ids
    )
    with torch.no_grad():
        expected = source.model(tokens).logits
        errors = {}
        for bits in stored_widths(nested.model):
            set_weight_bits(nested.model, bits)
            errors[bits] = float((nested.model(tokens).logits - expected).norm() / expected.norm())
    assert errors[8] < 0.005
    assert errors[16] < 0.001
    assert all(after < before for before, after in pairwise(errors[bits] for bits in (2, 3, 4, 6, 8)))
