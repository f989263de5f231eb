from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from hwsim.trace import InputError
from kernels.bench.tables import TABLES
from studies.gpu_speedups.device import device_tables
from studies.gpu_speedups.paper import mixtures
from studies.gpu_speedups.run import Settings, run_gpu_speedups

# Invented times of an invented device: only the arithmetic is under test.
TIME_US = {16: 120.0, 4: 40.0, 3: 30.0, 2: 20.0}


def write_results(folder: Path, widths: tuple[int, ...] = (16, 4, 3, 2)) -> Path:
    folder.mkdir(parents=True)
    linears = [
        {
            **dict.fromkeys(TABLES["linears"], ""),
            "operation": operation,
            "N": N,
            "K": K,
            "M": M,
            "weight_bits": bits,
            "device": "GPU",
            "status": "ok",
            "decoder": decoder,
            "l2_state": cache,
            "p50_us": TIME_US[bits] * factor,
        }
        for N, K in ((4096, 4096), (4096, 11008))
        for bits in widths
        for cache, factor in (("cold", 1.0), ("warm", 0.5))
        # What must not be taken: other batches, fused operations, other decoders, wrong results.
        for operation, M, decoder, factor in (
            ("linear", 1, "permute" if bits < 16 else "", factor),
            ("linear", 8, "permute", 7.0),
            ("swiglu", 1, "permute", 7.0),
            *([("linear", 1, "grid", 7.0)] if bits < 16 else []),
        )
    ]
    linears.append(linears[0] | {"p50_us": 1.0, "status": "wrong: error 1; not timed"})
    decode = [
        {
            **dict.fromkeys(TABLES["decode"], ""),
            "model": "vicuna-7b",
            "run": str(bits),
            "device": "GPU",
            "status": "ok",
            "p50_us": 0.0,
            "decode_tokens_per_s": 1e6 / TIME_US[bits],
        }
        for bits in widths
    ]
    decode.append(decode[0] | {"run": "p3:3>2@128", "decode_tokens_per_s": 1.0})
    pd.DataFrame(linears).to_csv(folder / "linears.csv", index=False)
    pd.DataFrame(decode).to_csv(folder / "decode.csv", index=False)
    return folder


def test_device_tables_weigh_the_measured_times_as_the_paper_does(tmp_path: Path) -> None:
    mixed = mixtures()
    tables = device_tables([write_results(tmp_path / "gpu")], mixed)
    layers, steps = tables["device_table3"], tables["device_table6"]
    assert list(zip(layers["what"], layers["l2_state"], strict=True)) == [
        ("attention", "cold"),
        ("attention", "warm"),
        ("mlp", "cold"),
        ("mlp", "warm"),
    ]
    share = mixed["vicuna-7b"].high_share
    for table in (layers, steps):
        assert set(table["model"]) == {"vicuna-7b"}
        assert set(table["device"]) == {"GPU"}
        assert table["baseline_h"].tolist() == pytest.approx([4.0] * len(table))
        assert table["pmpd"].tolist() == pytest.approx([120 / (share * 30 + (1 - share) * 20)] * len(table))
    assert layers[layers["l2_state"] == "warm"]["fp16_us"].tolist() == pytest.approx([60.0, 60.0])


def test_a_run_with_a_device_writes_its_tables(tmp_path: Path) -> None:
    tables = run_gpu_speedups(Settings(tmp_path / "out", (write_results(tmp_path / "gpu"),)))
    assert len(pd.read_csv(tmp_path / "out" / "device_table3.csv")) == len(tables["device_table3"]) == 4


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"linears.csv: missing; --measured takes a folder"):
        device_tables([tmp_path], mixtures())


def test_results_of_other_columns_are_refused(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "gpu")
    pd.read_csv(folder / "decode.csv").drop(columns="run").to_csv(folder / "decode.csv", index=False)
    with pytest.raises(InputError, match=r"decode.csv: has no column run"):
        device_tables([folder], mixtures())


def test_results_cut_before_any_model_was_whole_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model was measured at fp16 and both of its widths"):
        device_tables([write_results(tmp_path / "gpu", (16, 3))], mixtures())
