"""Quantise, measure and keep; ``plot.py`` draws what this writes.

Every store is measured width by width, and each width's raw numbers are kept in ``work/`` as soon as they are there,
under the hash of the store's bytes and of the text they were measured on. What a method makes of a model is kept under
the hash of the method, the model, the calibration text and the quantisers' code. So a run that is killed goes on with
what is missing, and one after a change of code measures only the stores whose bytes came out different. A store is
removed once its numbers are kept.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import accuracy
from accuracy.model import LanguageModel, load_model, weights_sha256
from accuracy.quantization import quantize
from accuracy.quantization.checkpoint import Checkpoint
from accuracy.quantization.manifest import read_manifest
from accuracy.quantization.method import settings_of
from hwsim.trace import canonical_sha256, collect_provenance, file_sha256, write_json
from studies.common.journal import Journal
from studies.quantization_quality.measure import BATCH_SIZE, measure
from studies.quantization_quality.sizes import fp16_bytes, store_bytes
from studies.quantization_quality.subjects import Subject, quick_subject, shared_folder, subject_makers
from studies.quantization_quality.table import SEED, Row, make_row, pitch
from studies.quantization_quality.variants import Shapes, Variant, grid_average, make_variants

FULL = "full precision"
FULL_BITS = 16


@dataclass(frozen=True)
class Settings:
    """What a run is asked to do.

    Attributes:
        out: Folder of the results.
        quick: A few stores of the shipped model and a handful of text, for tests.
        progress: Show progress bars.
    """

    out: Path
    quick: bool = False
    progress: bool = True


def run_quantization_quality(settings: Settings) -> list[Row]:
    """Run what is missing; write tables, provenance and figures; return the rows of the main table."""
    from studies.quantization_quality.plot import write_figures

    begin = time.process_time()
    rows: list[Row] = []
    sizes: list[Row] = []
    pitches: list[Row] = []
    subjects: dict[str, Any] = {}
    makers = {"selvic": quick_subject} if settings.quick else subject_makers(shared_folder())
    for make in makers.values():
        subject = make()
        shapes = [(layer.out_features, layer.in_features) for layer in Checkpoint.open(subject.folder).linears.values()]
        variants, skipped = make_variants(shapes, quick=settings.quick)
        work = _Work(settings, subject, shapes)
        found = work.everything(variants)
        rows += _rows(subject, variants, found)
        sizes += (mine := _sizes(subject, variants, found, work.fp16_bytes()))
        pitches += _pitch(subject, mine, shapes)
        subjects[subject.name] = {
            "model_sha256": weights_sha256(subject.folder),
            "text": subject.text,
            "calibration_texts": len(subject.calibration),
            "calibration_sha256": canonical_sha256(subject.calibration),
            "answers": len(subject.answers),
            "prompts": len(subject.prompts),
            "measured_sha256": subject.measured_sha256(),
            "matrices": sorted(set(shapes)),
            "skipped": skipped,
        }
    _write(settings, {"quality": rows, "bytes": sizes, "nested_store": pitches}, subjects, time.process_time() - begin)
    write_figures(settings.out)
    return rows


class _Work:
    """The stores of one model, built and measured one after the other."""

    def __init__(self, settings: Settings, subject: Subject, shapes: Shapes) -> None:
        self._settings, self._subject, self._shapes = settings, subject, shapes
        self._folder = settings.out / "work"
        self._journal = Journal(self._folder / subject.name)
        self._model = weights_sha256(subject.folder)
        code = Path(accuracy.__file__).parent / "quantization"
        self._code = {path.name: file_sha256(path) for path in sorted(code.glob("*.py"))}

    def everything(self, variants: list[Variant]) -> dict[tuple[str, int], Any]:
        """Raw numbers by label and width, and under width 0 what is known of the store."""
        found: dict[tuple[str, int], Any] = {}
        total = 1 + sum(max(len(variant.widths), 1) for variant in variants)
        with tqdm(total=total, desc=self._subject.name, unit="row", disable=not self._settings.progress) as bar:
            found[FULL, FULL_BITS] = self._measured(self._model, FULL_BITS, lambda: load_model(self._subject.folder))
            bar.update()
            for variant in variants:
                for bits, value in self._variant(variant):
                    found[variant.label, bits] = value
                    bar.update(bits > 0 or not variant.widths)
        return found

    def fp16_bytes(self) -> Any:
        """Bytes of the unquantised model in fp16."""
        return self._journal.get_or(["fp16 bytes", self._model], lambda: fp16_bytes(self._subject.folder, self._shapes))

    def _measured(self, weights: str, bits: int, load: Callable[[], LanguageModel]) -> Any:
        """The raw numbers of weights of this hash at one width; loaded and measured only where none are kept."""
        key = ["measured", weights, bits, self._subject.measured_sha256(), torch.__version__]
        return self._journal.get_or(key, lambda: measure(load(), self._subject, bits))

    def _variant(self, variant: Variant) -> Iterator[tuple[int, Any]]:
        """Yield what is kept of a store (width 0) and of its widths; it is built only if something is missing."""
        texts = self._subject.calibration if variant.method.statistic != "none" else ()
        key = ["store", self._code, self._model, settings_of(variant.method), texts]
        folder = self._folder / "stores" / canonical_sha256(key)[:32]

        @cache
        def load() -> LanguageModel:
            if not folder.is_dir():
                quantize(self._subject.folder, folder, variant.method, calibration=texts, progress=False)
            return load_model(folder)

        store = self._journal.get_or(key, partial(_describe, load))
        yield 0, store
        for bits in variant.widths:
            yield bits, self._measured(store["store_sha256"], bits, load)
        shutil.rmtree(folder, ignore_errors=True)


def _describe(load: Callable[[], LanguageModel]) -> dict[str, Any]:
    folder = load().folder
    assert folder is not None
    _, manifest = read_manifest(folder)
    return {
        "store_sha256": manifest.store_sha256(),
        "bits_per_weight": {str(bits): value for bits, value in manifest.bits_per_weight.items()},
        "relative_error": {str(bits): value for bits, value in manifest.relative_error.items()},
        "bytes": store_bytes(folder),
    }


def _rows(subject: Subject, variants: list[Variant], found: dict[tuple[str, int], Any]) -> list[Row]:
    """The main table's rows of one model."""
    full = found[FULL, FULL_BITS]
    identity = {"model": subject.name, "quantizer": FULL, "bits": FULL_BITS, "matched_to": ""}
    empty = {"bits_per_weight": float(FULL_BITS), "store_bits_per_weight": float(FULL_BITS), "outlier_percent": 0.0}
    rows = [make_row({**identity, **empty, "relative_error": 0.0}, full, full, None)]
    plain = next(variant for variant in variants if variant.name == "nested" and variant.widths)
    for variant in variants:
        store = found[variant.label, 0]
        for bits in variant.widths:
            identity = {
                "model": subject.name,
                "quantizer": variant.name,
                "bits": bits,
                "matched_to": variant.matched_to,
                "bits_per_weight": variant.bits_per_weight[bits],
                "store_bits_per_weight": store["bits_per_weight"][str(bits)],
                "outlier_percent": 100 * getattr(variant.method, "outlier_share", 0.0),
                "relative_error": store["relative_error"][str(bits)],
            }
            beside = found[plain.label, bits] if variant is not plain and bits in plain.widths else None
            rows.append(make_row(identity, found[variant.label, bits], full, beside))
    return rows


def _sizes(
    subject: Subject, variants: list[Variant], found: dict[tuple[str, int], Any], unquantized: dict[str, int]
) -> list[Row]:
    """Bytes of every store of one model, the unquantised one in fp16 first."""
    stores = {"fp16 model": ("fp16 model", "", "16", unquantized)}
    for variant in variants:
        widths = variant.method.widths
        text = str(widths[0]) if len(widths) == 1 else f"{widths[0]}..{widths[-1]}"
        stores[variant.label] = (variant.name, variant.matched_to, text, found[variant.label, 0]["bytes"])
    return [
        {
            "model": subject.name,
            "quantizer": name,
            "matched_to": matched_to,
            "widths": widths,
            **sizes,
            "weight_file_over_fp16": sizes["weight_file_bytes"] / unquantized["weight_file_bytes"],
            "layers_over_fp16": _layers(sizes) / unquantized["fp16_bytes"],
        }
        for name, matched_to, widths, sizes in stores.values()
    ]


def _layers(sizes: dict[str, int]) -> int:
    return sum(sizes[f"{part}_bytes"] for part in ("planes", "codebook", "sparse", "fp16"))


def _pitch(subject: Subject, sizes: list[Row], shapes: Shapes) -> list[Row]:
    widths = [int(one["widths"]) for one in sizes if one["quantizer"] == "direct"]
    uniform = {f"{len(widths)} RTN or GPTQ models per row": sum(grid_average(shapes, bits) for bits in widths)}
    return pitch(subject.name, sizes, uniform, sum(N * K for N, K in shapes))


def _write(settings: Settings, tables: dict[str, list[Row]], subjects: dict[str, Any], cpu_s: float) -> None:
    import pandas as pd

    from hwsim.trace import atomic_writer

    for name, rows in tables.items():
        with atomic_writer(settings.out / f"{name}.csv") as file:
            pd.DataFrame(rows).to_csv(file, index=False, lineterminator="\n", float_format="%.6g")
    write_json(settings.out / "quantization_quality.json", {"schema_version": "1.0", **tables})
    provenance = collect_provenance(
        settings.out,
        device="cpu",
        dtype="float32",
        threads=torch.get_num_threads(),
        cores=len(os.sched_getaffinity(0)),
        seed=SEED,
        batch_size=BATCH_SIZE,
        quick=settings.quick,
        interval="95% percentile bootstrap over answers or prompts, 2000 resamples; differences are paired",
        cpu_s_of_the_last_call=round(cpu_s, 1),
    )
    write_json(
        settings.out / "manifest.json",
        {
            "schema_version": "1.0",
            "provenance": provenance,
            "models": subjects,
            "files_sha256": {f"{name}.csv": file_sha256(settings.out / f"{name}.csv") for name in tables},
        },
    )
