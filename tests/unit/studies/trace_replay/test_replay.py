from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from hwsim import load_npu, load_shape
from hwsim.trace import InputError, Trace, TraceHeader, TraceModel, TraceSequence, write_trace
from studies.trace_replay import replay as study
from studies.trace_replay.run import Settings, run_trace_replay


def measured_trace(
    times_us: dict[str, list[tuple[int, float]]], *, model: str = "mobilellama-1.4b", device: str = "test device"
) -> Trace:
    """Sequences by id, each a list of (weight bits, microseconds of the step)."""
    shape = load_shape(model)
    header = TraceHeader(model=TraceModel(name=model, shape=shape), task="t", scheduler="static", device=device)
    sequences = tuple(
        TraceSequence(
            id=name,
            prompt_tokens=5,
            generated_tokens=len(steps) + 1,
            prefill_weight_bits=4,
            decode_weight_bits=tuple((bits, 1) for bits, _ in steps),
            finish_reason="length",
            prefill_ns=10,
            step_ns=tuple(round(1e3 * time) for _, time in steps),
        )
        for name, steps in times_us.items()
    )
    return Trace(header=header, sequences=sequences)


def write(path: Path, trace: Trace) -> Path:
    write_trace(path, trace.header, trace.sequences)
    return path


PROPORTIONAL = [(4, 400.0)] * 10 + [(2, 200.0)] * 10
FLAT = [(4, 300.0)] * 3 + [(3, 300.0)] * 9


def test_both_clocks_stand_beside_each_other_for_every_step() -> None:
    found = study.replay("t", measured_trace({"a": FLAT, "b": PROPORTIONAL}), load_npu("pmpd-4k"))
    steps = found.steps
    assert list(steps["sequence"]) == ["a"] * 12 + ["b"] * 20
    assert list(steps["weight_bits"]) == [bits for bits, _ in FLAT + PROPORTIONAL]
    assert steps["measured_us"].tolist() == pytest.approx([time for _, time in FLAT + PROPORTIONAL])
    # Token 0 comes from the prefill of 5 tokens; the first decode step attends over them.
    assert steps["context"].iloc[0] == 5
    assert (steps["simulated_us"] > 0).all()
    # The NPU reads fewer bits, so every 2-bit step of b is quicker than every 4-bit step.
    own = steps[steps["sequence"] == "b"]
    assert own[own["weight_bits"] == 2]["simulated_us"].max() < own[own["weight_bits"] == 4]["simulated_us"].min()


def test_elasticity_is_one_where_time_follows_the_bits_and_zero_where_it_does_not() -> None:
    trace = measured_trace({"follows": PROPORTIONAL, "flat": FLAT})
    switches = study.switches_table([study.replay("t", trace, load_npu("pmpd-4k"))])
    measured = switches[switches["clock"] == "test device"].set_index("sequence")
    assert measured.loc["follows", "elasticity"] == pytest.approx(1.0)
    assert measured.loc["follows", "step"] == 10
    assert measured.loc["flat", "elasticity"] == pytest.approx(0.0)
    assert (measured.loc["flat", "n_before"], measured.loc["flat", "n_after"]) == (3, study.WINDOW)
    simulated = switches[switches["clock"] == "pmpd-4k (simulated)"]["elasticity"]
    # Neither lm_head nor KV cache shrinks with the weights.
    assert ((simulated > 0.5) & (simulated < 1)).all()


def test_rising_and_repeated_switches_are_counted_one_by_one() -> None:
    alternating = [(4, 100.0), (3, 50.0), (4, 100.0), (3, 50.0)]
    switches = study.switches_table([study.replay("t", measured_trace({"a": alternating}), load_npu("pmpd-4k"))])
    measured = switches[switches["clock"] == "test device"]
    assert list(measured["step"]) == [1, 2, 3]
    assert list(measured["n_after"]) == [1, 1, 1]
    assert measured["elasticity"].tolist() == pytest.approx([math.log(2) / math.log(4 / 3)] * 3)


def test_a_trace_without_switches_has_empty_tables_with_columns() -> None:
    switches = study.switches_table([study.replay("t", measured_trace({"a": [(3, 1.0)] * 4}), load_npu("pmpd-4k"))])
    assert switches.empty
    assert "elasticity" in switches.columns
    assert study.elasticity_table(switches).empty


def test_another_model_is_simulated_only_when_asked_and_labelled() -> None:
    trace, npu = measured_trace({"a": PROPORTIONAL}), load_npu("pmpd-4k")
    own, other = study.replay("t", trace, npu), study.replay("t", trace, npu, load_shape("phi-1.5"))
    assert (own.model, own.simulated_model) == ("mobilellama-1.4b", "mobilellama-1.4b")
    assert (other.model, other.simulated_model) == ("mobilellama-1.4b", "phi-1.5")
    assert not own.steps["simulated_us"].equals(other.steps["simulated_us"])


def test_untimed_sequences_are_refused_by_name(tmp_path: Path) -> None:
    trace = measured_trace({"a": PROPORTIONAL, "b": PROPORTIONAL})
    untimed = trace.sequences[1].model_copy(update={"step_ns": None})
    path = write(tmp_path / "t.jsonl", Trace(header=trace.header, sequences=(trace.sequences[0], untimed)))
    with pytest.raises(InputError, match=r"sequence 'b' has no step_ns \(1 of 2\).*--batch-size 1"):
        study.read_measured(path)


def test_a_trace_without_decode_steps_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", measured_trace({"a": []}))
    with pytest.raises(InputError, match="no decode step"):
        study.read_measured(path)


def test_a_run_writes_tables_provenance_and_figure_for_several_traces(tmp_path: Path) -> None:
    fast = write(tmp_path / "fast.jsonl", measured_trace({"a": PROPORTIONAL}, device="one"))
    slow = write(tmp_path / "slow.jsonl", measured_trace({"1": FLAT, "2": FLAT + FLAT}, device="two"))
    out = tmp_path / "out"
    tables = run_trace_replay(Settings(out, [fast, slow], progress=False))
    assert list(tables["elasticity"]["clock"]) == ["one", "pmpd-4k (simulated)"] + ["two", "pmpd-4k (simulated)"] * 2
    for name in ("steps", "widths", "switches", "elasticity"):
        assert len(pd.read_csv(out / f"{name}.csv")) == len(tables[name])
    assert (out / "trace_replay.png").stat().st_size > 10_000
    assert '"sha256"' in (out / "manifest.json").read_text()
    assert "measured: two" in (out / "trace_replay.svg").read_text()


def test_two_traces_of_one_name_are_refused_before_anything_runs(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", measured_trace({"a": FLAT}))
    with pytest.raises(InputError, match="--trace t: given twice"):
        run_trace_replay(Settings(tmp_path / "out", [path, path], progress=False))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_without_a_trace_one_is_recorded_on_this_cpu(tmp_path: Path) -> None:
    tables = run_trace_replay(Settings(tmp_path, prompts=2, progress=False))
    assert set(tables["steps"]["device"]) == {"cpu"}
    assert set(tables["steps"]["weight_bits"]) == {4, 3}
    assert tables["steps"]["sequence"].nunique() == 2
