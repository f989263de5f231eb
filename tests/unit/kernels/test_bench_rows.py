"""What the benchmark measures, on tiny layers and by a made-up clock: which rows, what they count, what stops them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from kernels.bench import linears, prefill
from kernels.bench.decode import DecodeSettings, decode_rows, decode_runs, needed_bytes, weight_bytes_per_step
from kernels.bench.linears import Variant, linear_rows, spread
from kernels.bench.prefill import DEQUANTIZED, FULL_PRECISION, FUSED, prefill_rows
from kernels.bench.problems import LinearCase, full_precision_problem, linear_cases, nested_problem
from kernels.bench.tables import PROVENANCE, TABLES
from kernels.bench.timing import plan_rotation
from kernels.shapes import SHAPES, DecoderShape, step_linears
from kernels.shapes import linears as shape_linears
from stand_in_clock import StandInTimer, stand_in_session

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TINY = LinearCase(16, 128, False, ("tiny down",))
PAIRS = LinearCase(16, 128, True, ("tiny gate_up",))
SHAPE = DecoderShape("tiny", 2, 32, 48, 2, 1, 16, 50, 32)


@pytest.fixture(autouse=True)
def _few_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two copies are enough where the clock is made up."""
    monkeypatch.setattr("kernels.bench.timing.ROTATION_BYTES", 1)


def test_every_linear_of_the_models_is_a_case_once_and_names_its_users() -> None:
    cases = linear_cases(tuple(SHAPES))
    assert len({(case.N, case.K, case.swiglu) for case in cases}) == len(cases)
    assert sum(len(case.used_by) for case in cases) == sum(len(shape_linears(shape)) for shape in SHAPES.values())
    by_name = {case.name: case for case in cases}
    assert by_name["22016x4096 swiglu"].used_by == ("vicuna-7b gate_up",)
    assert "llama-3-8b o" in by_name["4096x4096 linear"].used_by


def test_a_layer_gives_a_cold_and_a_warm_row_a_width_each_against_half_precision_of_the_same_cache() -> None:
    timer = StandInTimer(us_per_call=3.0)
    rows = list(linear_rows(stand_in_session(timer), TINY, [Variant(3)], 1))
    assert [(row["weight_bits"], row["l2_state"], row["status"]) for row in rows] == [
        (16, "cold", "ok"),
        (16, "warm", "ok"),
        (3, "cold", "ok"),
        (3, "warm", "ok"),
    ]
    cold, warm = rows[2:]
    # Planes, a table of eight entries a row, activations and outputs.
    bytes_per_call = 16 * 128 * 3 // 8 + 16 * 8 * 2 + 2 * (128 + 16)
    assert cold["bytes_per_call"] == bytes_per_call
    assert cold["gb_per_s"] == pytest.approx(bytes_per_call / 3.0 / 1e3)
    assert cold["share_of_copy"] == pytest.approx(bytes_per_call / 3e-6 / 1e12)
    assert warm["share_of_copy"] is None
    assert cold["times_fp16"] == warm["times_fp16"] == 1.0
    assert cold["rotation_bytes"] == plan_rotation(bytes_per_call, 1000).bytes
    assert set(cold) | {"item"} | set(PROVENANCE) == set(TABLES["linears"])


@pytest.mark.parametrize(
    ("case", "variant", "decoder", "table_bytes"),
    [
        (TINY, Variant(2), "permute", 16 * 4 * 2),
        (TINY, Variant(5), "lookup", 16 * 32 * 2),
        (TINY, Variant(4, uniform=True), "grid", 16 * 4),
        (PAIRS, Variant(4), "permute", 16 * 16 * 2),
        (PAIRS, Variant(8, uniform=True), "grid", 16 * 4),
    ],
)
def test_a_problem_is_right_and_counts_what_its_decoder_reads(
    case: LinearCase, variant: Variant, decoder: str, table_bytes: int
) -> None:
    problem = nested_problem(case, variant.weight_bits, 2, DEVICE, uniform=variant.uniform)
    assert problem.decoder == decoder
    width = 8 if case.swiglu else 16
    assert problem.bytes_per_call == 16 * 128 * variant.weight_bits // 8 + table_bytes + 2 * 2 * (128 + width)
    assert problem.out_shape == (2, width)
    # The default launch, said in full: no table is measured on a stand-in.
    assert problem.config.startswith("default: rows ") or DEVICE.type == "cuda"
    assert problem.error() < 1e-3


def test_half_precision_is_checked_but_may_round_its_partial_sums() -> None:
    problem = full_precision_problem(TINY, 3, DEVICE)
    assert problem.error() < problem.tolerance == 5e-3
    assert nested_problem(TINY, 4, 1, DEVICE, uniform=False).tolerance == 1e-3


@pytest.mark.parametrize("broken", ["wrong", "unwritten", "nan"])
def test_a_wrong_kernel_is_never_timed(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import kernels.gemv

    right = kernels.gemv.gemv

    def damaged(*arguments: object, out: torch.Tensor, **named: object) -> torch.Tensor:
        if broken != "unwritten":
            right(*arguments, out=out, **named)
            out[0, 0] = float("nan") if broken == "nan" else out[0, 0] + 1.0
        return out

    monkeypatch.setattr("kernels.gemv.gemv", damaged)
    timer = StandInTimer()
    rows = list(linear_rows(stand_in_session(timer), TINY, [Variant(4)], 1))
    assert len(rows) == 3
    assert str(rows[2]["status"]).startswith("wrong: error")
    assert not {"p50_us", "gb_per_s", "times_fp16"} & set(rows[2])
    # Half precision alone was timed: cold and warm.
    assert len(timer.graphs) == 2


def test_outputs_of_equal_copies_that_differ_drop_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linears, "spread", lambda outputs: 1e-9)
    cold = list(linear_rows(stand_in_session(), TINY, [Variant(4)], 1))[2]
    assert cold["status"] == "wrong: outputs of equal copies differ; times dropped"
    assert "p50_us" not in cold


def test_spread_is_the_largest_difference_and_nan_where_anything_is() -> None:
    first = torch.tensor([[4.0, 2.0]])
    assert spread([first, first.clone()]) == 0.0
    assert spread([first, torch.tensor([[4.0, 3.0]])]) == 0.25
    assert spread([first, torch.tensor([[4.0, float("nan")]])]) != spread([first])


def test_prefill_times_both_ways_over_m_against_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(prefill_rows(stand_in_session(), TINY, (4,), (16, 40)))
    assert [(row["weight_bits"], row["M"], row["method"]) for row in rows] == [
        (16, 16, FULL_PRECISION),
        (16, 40, FULL_PRECISION),
        (4, 16, FUSED),
        (4, 16, DEQUANTIZED),
        (4, 40, FUSED),
        (4, 40, DEQUANTIZED),
    ]
    assert all(row["status"] == "ok" and row["times_fp16"] == 1.0 for row in rows)
    assert rows[2]["tflop_per_s"] == pytest.approx(2 * 16 * 16 * 128 / 2.0 / 1e6)
    assert set(rows[2]) | {"item"} | set(PROVENANCE) == set(TABLES["prefill"])
    assert [row["tolerance"] for row in rows] == [5e-3, 5e-3, 1e-3, 5e-3, 1e-3, 5e-3]
    for name in ("TOLERANCE", "CUBLAS_TOLERANCE"):
        monkeypatch.setattr(prefill, name, 0.0)
    wrong = list(prefill_rows(stand_in_session(), TINY, (4,), (16,)))
    assert all(str(row["status"]).startswith("wrong") and "p50_us" not in row for row in wrong)


def test_a_response_is_decoded_at_every_width_and_under_both_schedules(tmp_path: Path) -> None:
    settings = DecodeSettings(prompt_tokens=4, decode_steps=5, switch_step=2)
    rows = list(decode_rows(stand_in_session(StandInTimer(us_per_call=50.0)), SHAPE, settings, tmp_path))
    assert [row["run"] for row in rows] == ["16", "4", "3", "2", "p4:4>3@2", "p3:3>2@2"]
    assert all(row["status"] == "ok" and row["times_fp16"] == 1.0 for row in rows)
    assert rows[4]["mean_decode_bits"] == pytest.approx((2 * 4 + 3 * 3) / 5)
    assert rows[4]["decode_tokens_per_s"] == pytest.approx(20_000)
    mixed = (2 * weight_bytes_per_step(SHAPE, 4) + 3 * weight_bytes_per_step(SHAPE, 3)) / 5
    assert rows[4]["weight_bytes_per_step"] == round(mixed)
    assert rows[3]["switch_us"] is None
    assert rows[4]["switch_us"] == 0.0
    assert set(rows[0]) | {"item"} | set(PROVENANCE) == set(TABLES["decode"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trace-tiny-3-2.jsonl", "trace-tiny-4-3.jsonl"]
    header, *sequences, trailer = map(json.loads, (tmp_path / "trace-tiny-4-3.jsonl").read_text().splitlines())
    assert header["schedule"]["decode"] == [{"start_step": 0, "weight_bits": 4}, {"start_step": 2, "weight_bits": 3}]
    assert "random" in header["provenance"]["weights"]
    assert trailer == {"record": "trailer", "sequences": len(sequences)}
    assert sequences[0]["step_ns"] == [50_000] * 5


def test_a_step_reads_planes_tables_and_lm_head() -> None:
    linears_bytes = sum(N * K * 3 // 8 + 2 * N * 8 for N, K in step_linears(SHAPE).values())
    assert weight_bytes_per_step(SHAPE, 3) == 2 * linears_bytes + 2 * 50 * 32
    full = sum(2 * N * K for N, K in step_linears(SHAPE).values())
    assert weight_bytes_per_step(SHAPE, 16) == 2 * full + 2 * 50 * 32


def test_responses_that_differ_from_run_to_run_drop_the_times(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from kernels.decoder import KernelDecoder

    step, calls = KernelDecoder.run, []

    def drifting(self: KernelDecoder, weight_bits: int) -> None:
        step(self, weight_bits)
        calls.append(weight_bits)
        self.tokens[0, 0] = len(calls)

    monkeypatch.setattr(KernelDecoder, "run", drifting)
    settings = DecodeSettings(prompt_tokens=4, decode_steps=2, switch_step=1)
    rows = list(decode_rows(stand_in_session(), SHAPE, settings, tmp_path))
    assert len(rows) == len(decode_runs(settings))
    assert all(row["status"] == "wrong: the same response differs from run to run; times dropped" for row in rows)
    assert not list(tmp_path.iterdir())


def test_a_model_too_large_for_the_gpu_is_left_out_with_the_numbers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("kernels.bench.session.Session.free_bytes", lambda self: 10**9)
    rows = list(decode_rows(stand_in_session(), SHAPES["vicuna-7b"], DecodeSettings(), tmp_path))
    needed = needed_bytes(SHAPES["vicuna-7b"])
    # Half precision alone takes 13.5 GB; both with what is made on the way must fit in 24 GB.
    assert 17e9 < needed < 22e9
    statuses = [row["status"] for row in rows]
    assert statuses == [f"skipped: needs {needed / 1e9:.1f} GB of GPU memory, 1.0 free"] * 6
