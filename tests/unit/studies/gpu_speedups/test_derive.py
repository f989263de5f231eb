from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsim import load_shape
from studies.gpu_speedups import command
from studies.gpu_speedups.derive import derive_layers, predict_end_to_end, step_ms
from studies.gpu_speedups.paper import BASELINE, END_TO_END, PMPD, Mixture, Published, latencies_us, mixtures, published


def test_mean_bits_are_the_means_over_the_tasks_of_appendix_a5() -> None:
    bits = {model: one.mean_decode_bits for model, one in mixtures().items()}
    assert bits == pytest.approx(
        {"vicuna-7b": 7.07 / 3, "mobilellama-1.4b": 10.02 / 3, "phi-1.5": 7.01 / 2, "stablelm-zephyr-3b": 3.34}
    )


def test_every_layer_of_every_model_has_a_latency_at_every_width() -> None:
    latencies = latencies_us()
    for model in mixtures():
        names = {name for name, _, _ in load_shape(model).block_linears()}
        for gpu in ("RTX 4090", "A40"):
            for bits in (16, 2, 3, 4):
                assert {key[3] for key in latencies if key[:3] == (gpu, model, bits)} == names


def test_all_entries_of_table_3_but_one_follow_from_tables_7_and_8() -> None:
    derived = derive_layers(published(), latencies_us(), mixtures())
    assert len(derived) == 32
    (odd,) = [one for one in derived if not one.agrees]
    assert (odd.gpu, odd.model, odd.method, odd.what) == ("RTX 4090", "mobilellama-1.4b", "pmpd", "attention")
    # f = 0.34: 5 / (0.34 x 4 + 0.66 x 3)
    assert odd.derived == pytest.approx(5 / 3.34)


def test_a_mixture_weighs_by_steps() -> None:
    mixture = Mixture("m", 4, 3, "static", 3.25, 1)
    assert mixture.high_share == pytest.approx(0.25)
    assert mixture.mix(100.0, 20.0) == pytest.approx(40.0)
    assert Mixture("m", 4, 2, "static", 3.0, 1).high_share == pytest.approx(0.5)


@settings(max_examples=30)
@given(
    rest_ms=st.floats(0.01, 50),
    times=st.tuples(st.floats(50, 500), st.floats(20, 45), st.floats(5, 19)),
    bits=st.floats(3, 4),
)
def test_a_step_with_a_constant_rest_is_predicted_exactly(
    rest_ms: float, times: tuple[float, float, float], bits: float
) -> None:
    latencies = {("G", "vicuna-7b", width, "k_proj"): time for width, time in zip((16, 4, 3), times, strict=True)}
    mixed = {"vicuna-7b": Mixture("vicuna-7b", 4, 3, "static", bits, 1)}
    full, high, low = (step_ms(latencies, "G", "vicuna-7b", width) for width in (16, 4, 3))
    assert full == pytest.approx(32 * times[0] / 1e3)
    share = bits - 3
    truth = (full + rest_ms) / (share * high + (1 - share) * low + rest_ms)
    entries = [
        Published("Table 6", "G", "vicuna-7b", BASELINE, END_TO_END, (full + rest_ms) / (high + rest_ms)),
        Published("Table 6", "G", "vicuna-7b", PMPD, END_TO_END, truth),
    ]
    (found,) = predict_end_to_end(entries, latencies, mixed)
    assert found.rest_ms == pytest.approx(rest_ms, rel=1e-6)
    assert found.predicted_pmpd == pytest.approx(truth)
    assert found.verdict == "predicted"
    assert found.published_baseline <= found.predicted_pmpd <= found.bound


def test_the_a40_entries_of_table_6_are_predicted_and_two_of_the_4090_cannot_be() -> None:
    found = {(one.gpu, one.model): one for one in predict_end_to_end(published(), latencies_us(), mixtures())}
    assert {one.verdict for (gpu, _), one in found.items() if gpu == "A40"} == {"predicted"}
    assert all(abs(one.error) < 0.025 for (gpu, _), one in found.items() if gpu == "A40")
    phi, vicuna = found["RTX 4090", "phi-1.5"], found["RTX 4090", "vicuna-7b"]
    assert (phi.verdict, vicuna.verdict) == ("impossible", "above bound")
    assert phi.rest_ms < 0
    assert vicuna.bound < vicuna.published_pmpd


def test_the_command_writes_tables_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    command.run(parser.parse_args(["--out", str(tmp_path)]))
    assert "31 of 32 entries agree" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "table6.csv")) == 8
    assert (tmp_path / "gpu_speedups.svg").stat().st_size > 10_000
