"""The search loop of `kernels tune`, with an injected clock and injected times."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kernels import KernelError
from kernels.config import GemmConfig, GemvConfig
from kernels.tune import Measured, Product, TuneOptions, TuneSummary, candidates, products, tune
from kernels.tuning import Choice, TuningTable, load_table

HEADER = TuningTable("NVIDIA Test", "9.0", "580", "2.11.0", "3.6.0", "2026-11-21")
SMALL = TuneOptions(models=("mobilellama-1.4b",), widths=(4,), vectors=(1, 16), candidates=5)


class Bench:
    """A GPU by arithmetic: each timing takes a second, and a time depends on the choice alone."""

    def __init__(self, decoder: str | None = None) -> None:
        self.now, self.timed, self.prepared = 0.0, [], []
        self.decoder = decoder
        self.broken: dict[str, Exception] = {}

    def __call__(self, product: Product) -> Measured:
        self.prepared.append(product)
        if product.case.name in self.broken:
            raise self.broken[product.case.name]

        def time_us(choice: Choice) -> float:
            self.now += 1.0
            self.timed.append((product, choice))
            if choice.path in self.broken:
                raise self.broken[choice.path]
            return time_of(choice, product.M)

        return Measured(self.decoder or ("grid" if product.uniform else "permute"), 64, time_us)


def time_of(choice: Choice, M: int) -> float:
    if isinstance(choice.config, GemvConfig):
        return 10.0 + choice.config.stages - choice.config.rows / 64 + choice.config.splits / 100
    if isinstance(choice.config, GemmConfig):
        return M / 10 + choice.config.splits / 100
    return 20.0


def run(
    bench: Bench, path: Path, options: TuneOptions = SMALL, header: TuningTable = HEADER
) -> tuple[TuneSummary, list[str]]:
    said: list[str] = []
    return tune(options, path, header, bench, say=said.append, clock=lambda: bench.now), said


def test_fastest_candidate_of_every_product_is_written(tmp_path: Path) -> None:
    bench = Bench()
    summary, said = run(bench, tmp_path / "t.json")
    wanted = products(SMALL)
    assert list(summary.measured) == [product.name for product in wanted]
    assert (summary.kept, summary.failed, summary.left) == ((), {}, ())
    assert len(said) == len(wanted)
    assert said[0].startswith(f"[1/{len(wanted)}] 2048x2048 linear, 4 bits, M = 1: gemv rows ")
    table = load_table(tmp_path / "t.json")
    assert table == replace(summary.table, entries=table.entries)
    by_key = {entry.key: entry for entry in table.entries}
    for product in wanted:
        entry = by_key[product.key("grid" if product.uniform else "permute")]
        choices = candidates(product, 64, SMALL.candidates)
        best = min(choices, key=lambda choice: time_of(choice, product.M))
        assert Choice(entry.path, entry.config) == best
        assert entry.p50_us == pytest.approx(time_of(best, product.M), abs=1e-4)


def test_crossover_goes_to_whichever_path_is_faster(tmp_path: Path) -> None:
    options = replace(SMALL, vectors=(16, 512))
    run(Bench(), tmp_path / "t.json", options)
    for entry in load_table(tmp_path / "t.json").entries:
        assert entry.path == ("gemm" if entry.M == 16 else "dequantize")


def test_out_of_time_leaves_the_rest_and_a_second_run_completes_it(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    whole, _ = run(Bench(), tmp_path / "whole.json")
    minutes = 12 / 60
    first, _ = run(Bench(), path, replace(SMALL, minutes=minutes))
    # Twelve seconds of one second a candidate: two products of five each, and a third one begun.
    assert len(first.measured) == 2
    assert len(first.left) == len(products(SMALL)) - 2
    assert len(load_table(path).entries) == 2
    bench = Bench()
    second, _ = run(bench, path)
    assert second.kept == first.measured
    assert second.measured == first.left
    assert not [product for product in bench.prepared if product.name in first.measured]
    assert sorted(load_table(path).entries, key=lambda entry: entry.key) == sorted(
        whole.table.entries, key=lambda entry: entry.key
    )


def test_killed_run_keeps_what_was_measured(tmp_path: Path) -> None:
    bench = Bench()
    killed = products(SMALL)[3].case.name
    bench.broken[killed] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run(bench, tmp_path / "t.json")
    kept = load_table(tmp_path / "t.json").entries
    assert kept
    second, _ = run(Bench(), tmp_path / "t.json")
    assert len(second.kept) == len(kept)
    assert len(second.measured) == len(products(SMALL)) - len(kept)


def test_candidate_that_fails_is_recorded_with_its_reason_and_the_others_are_timed(tmp_path: Path) -> None:
    bench = Bench()
    bench.broken["gemm"] = RuntimeError("out of resource: shared memory\nmore")
    run(bench, tmp_path / "t.json")
    for entry in load_table(tmp_path / "t.json").entries:
        if entry.M == 16:
            assert (entry.path, len(entry.failed)) == ("dequantize", 5)
            assert all(reason.startswith("gemm rows ") for reason in entry.failed)
            assert all(reason.endswith("RuntimeError: out of resource: shared memory") for reason in entry.failed)
        else:
            assert (entry.path, entry.failed) == ("gemv", ())


def test_product_of_which_nothing_runs_fails_and_the_next_goes_on(tmp_path: Path) -> None:
    bench = Bench()
    bench.broken["gemv"] = KernelError("wrong result")
    gone = products(SMALL)[-1].case.name
    bench.broken[gone] = MemoryError("no room")
    summary, said = run(bench, tmp_path / "t.json")
    for product in products(SMALL):
        if product.case.name == gone:
            assert summary.failed[product.name] == "MemoryError: no room"
        elif product.M == 1:
            count = len(candidates(product, 64, SMALL.candidates))
            assert summary.failed[product.name].count("KernelError: wrong result") == count
        else:
            assert product.name in summary.measured
    assert sum(": failed: " in line for line in said) == len(summary.failed)


def test_width_whose_grids_are_not_recognised_is_written_once(tmp_path: Path) -> None:
    summary, _ = run(Bench("permute"), tmp_path / "t.json")
    table = load_table(tmp_path / "t.json")
    assert len({entry.key for entry in table.entries}) == len(table.entries) == len(summary.measured)
    assert len(summary.kept) == len(summary.measured)


@pytest.mark.parametrize(("field", "value"), [("device", "NVIDIA A100"), ("triton", "3.9.0"), ("driver", "1")])
def test_table_of_another_device_or_version_is_not_mixed_in(field: str, value: str, tmp_path: Path) -> None:
    run(Bench(), tmp_path / "t.json", replace(SMALL, minutes=0.1))
    bench = Bench()
    with pytest.raises(KernelError, match=rf"t.json: {field} = .* here it is '{value}'; move the file away"):
        run(bench, tmp_path / "t.json", header=replace(HEADER, **{field: value}))
    assert not bench.timed


def test_goals_come_first_and_every_product_once() -> None:
    found = products(TuneOptions())
    assert len({product.name for product in found}) == len(found)
    assert found[0].name == "4096x4096 linear, 4 bits, M = 1"
    ranks = [(product.uniform, 1 < product.M <= 8) for product in found]
    assert ranks == sorted(ranks)


def test_default_is_the_first_candidate_and_few_are_the_nearest() -> None:
    product = products(TuneOptions())[0]
    every = candidates(product, 64, 1000)
    few = candidates(product, 64, 4)
    assert few == every[:4]
    assert len(every) == len(set(every)) > 12
    crossover = candidates(replace(product, M=64), 64, 3)
    assert [choice.path for choice in crossover] == ["dequantize", "gemm", "gemm", "gemm"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": ("gpt",)}, "shape 'gpt': unknown"),
        ({"widths": (9,)}, r"--widths 9: must be 2\.\.8"),
        ({"vectors": (0,)}, "--vectors 0: must be >= 1"),
        ({"candidates": 0}, "--candidates 0: must be >= 1"),
        ({"minutes": 0.0}, "--minutes 0: must be above 0"),
    ],
)
def test_options_nothing_can_be_tuned_for_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        TuneOptions(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_tuning_is_refused_and_nothing_written(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    from kernels.tune_gpu import tune_device

    with pytest.raises(KernelError, match="no GPU is visible: timing needs an NVIDIA GPU; nothing was measured"):
        tune_device(SMALL, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_every_choice_runs_and_is_checked_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    code = """
import torch
from kernels.bench.problems import LinearCase
from kernels.tune import Product, candidates
from kernels.tune_gpu import GpuMeasure
for swiglu in (False, True):
    for uniform in (False, True):
        for M in (2, 9):
            product = Product(LinearCase(32, 256, swiglu, ()), 3, uniform, M)
            found = GpuMeasure(torch.device("cpu"), None, 0)(product)
            for choice in candidates(product, found.block_bytes, 1):
                assert found.time_us(choice) == 0.0
print("checked")
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "checked", done.stderr[-2000:]
