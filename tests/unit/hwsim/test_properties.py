"""What must hold for every NPU, model, schedule and length."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hwsim.load import load_npu
from hwsim.metrics import SimulationResult
from hwsim.plan import PREFILL_STEP
from hwsim.precision import Precision
from hwsim.roofline import roofline_cycles
from hwsim.service import build_services
from hwsim.simulation import SimulationOptions, simulate
from hwsim.trace import InputError, Schedule, synthetic_trace
from hwsim.workload import Linear, prefill_step
from hwsim_strategies import ARRAYS, CORNERS, OVERRIDES, SEARCHED, WIDTH, corners, shapes, workloads

BANDWIDTH = "memory.bandwidth_bytes_per_s"
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _simulate(overrides, shape, trace, *, engine="fast", **options):
    """Simulate, or say None where a buffer is too small for one tile."""
    npu = load_npu("pmpd-4k", overrides)
    try:
        return npu, simulate(npu, shape, trace, SimulationOptions(engine=engine, **options))
    except InputError as error:
        assert "half of the buffer holds" in str(error) or "the buffer holds" in str(error)
        return npu, None


def _some(found: tuple[object, SimulationResult | None]) -> SimulationResult:
    assume(found[1] is not None)
    return found[1]


@quick
@given(OVERRIDES, workloads())
def test_no_configuration_is_faster_than_its_roofline(overrides, workload):
    npu, result = _simulate(overrides, *workload)
    if result is not None:
        assert result.cycles >= roofline_cycles(npu, *workload)


@quick
@given(OVERRIDES, workloads())
def test_bytes_are_those_of_the_kinds_of_the_operations_and_of_the_steps(overrides, workload):
    result = _some(_simulate(overrides, *workload))
    operations = result.operations
    assert sum(result.bytes_by_kind.values()) == result.dram_bytes == result.columns.dram_bytes.sum()
    assert operations["dram_bytes"].sum() == result.dram_bytes
    for kind, size in result.bytes_by_kind.items():
        assert operations[f"{kind}_bytes"].sum() == size
    shape, trace = workload
    bucket = overrides["control.prefill_bucket_tokens"]
    prompts = [-(-sequence.prompt_tokens // bucket) * bucket for sequence in trace.sequences]
    tokens = sum(prompts) + trace.decode_steps()
    token_bytes = 2 * shape.layers * -(-shape.kv_heads * shape.head_dim * trace.header.kv_bits // 8)
    assert result.bytes_by_kind["kv_append"] == tokens * token_bytes


@quick
@given(OVERRIDES, workloads())
def test_no_unit_is_busier_than_time_allows(overrides, workload):
    result = _some(_simulate(overrides, *workload))
    assert all(0 <= share <= 1 for share in result.utilisation.values())
    assert result.busy_cycles["dram"] > 0


@settings(quick, max_examples=8)
@given(OVERRIDES, workloads())
def test_memo_and_exact_simulation_agree(overrides, workload):
    _, memo = _simulate(overrides, *workload, engine="events")
    _, exact = _simulate(overrides, *workload, engine="events", exact=True)
    if memo is not None:
        assert memo.columns.cycles.tolist() == exact.columns.cycles.tolist()


def _check_engines(overrides, workload):
    """Compare the engines; return the corners that the example hit."""
    npu, events = _simulate(overrides, *workload, engine="events")
    _, fast = _simulate(overrides, *workload)
    if events is None:
        assert fast is None
        return {"too small"}
    assert fast.columns.cycles.tolist() == events.columns.cycles.tolist()
    assert fast.columns.dram_bytes.tolist() == events.columns.dram_bytes.tolist()
    assert (fast.engine, fast.events_simulated) == ("fast", 0)
    assert fast.energy_j == events.energy_j
    assert fast.switch_cycles == events.switch_cycles
    return {"simulated", *corners(npu, *workload, events)}


@settings(quick, max_examples=60)
@given(OVERRIDES, ARRAYS, workloads())
def test_the_fast_engine_equals_the_event_engine_to_the_cycle(overrides, array, workload):
    _check_engines({**overrides, **array}, workload)


@pytest.mark.slow
@settings(quick, max_examples=10)
@given(SEARCHED, workloads(longest_prompt=20))
def test_the_engines_agree_on_searched_tiles(overrides, workload):
    _check_engines(overrides, workload)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_fast_engine_equals_the_event_engine_to_the_cycle_at_length():
    hits = Counter()

    @settings(quick, max_examples=2100)
    @given(OVERRIDES, ARRAYS, workloads())
    def check(overrides, array, workload):
        hits.update(_check_engines({**overrides, **array}, workload))

    check()
    assert hits["simulated"] >= 2000
    missed = {corner: hits[corner] for corner in CORNERS if hits[corner] < 10}
    assert not missed


def _never_slower(workload, overrides, more):
    _, base = _simulate(overrides, *workload)
    if base is not None:
        _, better = _simulate({**overrides, **more}, *workload)
        assert (better.columns.cycles.cumsum() <= base.columns.cycles.cumsum()).all()
        # A step that drains sooner hides less of what it loads ahead: then only its end is sure to come no later.
        if overrides["control.prefetch"] == "none":
            assert (better.columns.cycles <= base.columns.cycles).all()


@quick
@given(OVERRIDES, workloads(), st.floats(1, 50))
def test_more_bandwidth_is_never_slower(overrides, workload, factor):
    _never_slower(workload, overrides, {BANDWIDTH: overrides[BANDWIDTH] * factor})


@quick
@given(OVERRIDES, workloads(), st.integers(1, 6))
def test_more_macs_are_never_slower(overrides, workload, doublings):
    _never_slower(workload, overrides, {"matrix.macs": overrides["matrix.macs"] << doublings})


ARRAY = st.tuples(st.integers(1, 70), st.integers(1, 70), st.integers(1, 20))


@quick
@given(OVERRIDES, workloads(), ARRAY, ARRAY, st.sampled_from(["mm", "mv"]))
def test_an_array_that_grows_in_any_dimension_by_any_number_is_never_slower(overrides, workload, array, more, which):
    # Whole array widths: ceil(n / N) never grows with N, whether or not N divides n, or the new N the old.
    shape = {"matrix.mm": list(array), "matrix.mv": list(array)}
    grown = [one + other for one, other in zip(array, more, strict=True)]
    _never_slower(workload, {**overrides, **shape}, {**shape, f"matrix.{which}": grown})


def test_a_systolic_array_that_grows_can_be_slower():
    # What it fills and drains grows with it, and a short product fills neither array.
    def cycles(size):
        array = {"matrix.kind": "systolic", "matrix.dataflow": "weight-stationary"}
        array |= {"matrix.mm": [size, size, 1], "matrix.mv": [size, size, 1]}
        return build_services(load_npu("pmpd-4k", array)).matrix.cycles(32, 32, 1)

    assert cycles(64) > cycles(32)


@quick
@given(OVERRIDES, workloads(), st.integers(2, 9))
def test_more_lanes_are_never_slower(overrides, workload, factor):
    _never_slower(workload, overrides, {"sfu.lanes": overrides["sfu.lanes"] * factor})


@quick
@given(OVERRIDES, workloads(), st.dictionaries(st.integers(2, 8), st.integers(2, 100), min_size=1))
def test_more_lookups_are_never_slower(overrides, workload, factors):
    rates = load_npu("pmpd-4k", {"matrix.macs": overrides["matrix.macs"]}).matrix.lookups_per_cycle
    more = {f"matrix.lookups_per_cycle.{bits}": rates[bits] * factor for bits, factor in factors.items()}
    _never_slower(workload, overrides, more)


@pytest.mark.slow
@settings(quick, max_examples=10)
@given(
    SEARCHED,
    workloads(longest_prompt=20),
    st.dictionaries(st.sampled_from(["weight", "kv", "codebook", "activation"]), st.floats(1, 20), min_size=1),
)
def test_more_buffer_is_never_slower_where_any_tile_that_fits_may_be_used(overrides, workload, factors):
    more = {f"buffers.{name}_kib": overrides[f"buffers.{name}_kib"] * factor for name, factor in factors.items()}
    _never_slower(workload, overrides, more)


def _with_lower_bits(trace, draw):
    """The trace with every width, phase by phase and run by run, as it was or lower."""
    sequences = []
    for sequence in trace.sequences:
        decode = tuple((draw(st.integers(2, bits)), count) for bits, count in sequence.decode_weight_bits)
        prefill = draw(st.integers(2, sequence.prefill_weight_bits))
        sequences.append(sequence.model_copy(update={"prefill_weight_bits": prefill, "decode_weight_bits": decode}))
    return trace.model_copy(update={"sequences": tuple(sequences)})


@quick
@given(OVERRIDES, workloads(width=st.integers(3, 8)), st.data())
def test_fewer_nested_bits_are_never_more_bytes_in_any_step(overrides, workload, data):
    # Fewer planes and smaller codebooks. What stays on chip between steps can cost more where bits change: a switch
    # reads codebooks anew or throws away what was prefetched, even a switch to fewer bits.
    overrides = {**overrides, "buffers.resident_codebook_kib": 0, "control.prefetch": "none"}
    shape, trace = workload
    _, base = _simulate(overrides, shape, trace)
    _, less = _simulate(overrides, shape, _with_lower_bits(trace, data.draw))
    if base is not None and trace.header.execution == "sequential":
        assert (less.columns.dram_bytes <= base.columns.dram_bytes).all()


@quick
@given(OVERRIDES, shapes(), st.integers(1, 100), st.integers(0, 8), st.integers(3, 8), st.data())
def test_fewer_bits_throughout_are_never_more_bytes(overrides, shape, prompt, steps, bits, data):
    def run(width):
        trace = synthetic_trace(shape, Schedule.uniform(width), prompt_tokens=prompt, decode_tokens=steps)
        return _simulate(overrides, shape, trace)[1]

    base = run(bits)
    if base is not None:
        assert run(data.draw(st.integers(2, bits - 1))).dram_bytes <= base.dram_bytes


@given(shapes(), st.integers(2, 8))
def test_nested_weights_are_fewer_bytes_than_fp16_where_rows_are_long_enough_for_their_codebook(shape, bits):
    def row_bytes(width):
        """Weights and codebook of one row of each linear layer, and its columns."""
        step = prefill_step(shape, Precision(width), 1)
        linears = [operator for run in step.runs for operator in run.block if isinstance(operator, Linear)]
        return [(linear.row_bytes + sum(linear.codebooks_row_bytes(16)), linear.k) for linear in linears]

    for (nested, k), (full, _) in zip(row_bytes(bits), row_bytes(16), strict=True):
        # b planes in words of 32 columns and 2^b fp16 entries, against 2 bytes a weight: at 8 bits, 512 columns pay.
        assert (nested <= full) == (4 * bits * -(-k // 32) + 2 * 2**bits <= 2 * k)


@quick
@given(OVERRIDES, shapes(), st.lists(WIDTH, min_size=1, max_size=4), st.integers(1, 60))
def test_a_batch_reads_each_plane_once_up_to_the_highest_width(overrides, shape, widths, prompt):
    def decode_step_bytes(batch):
        """Weight bytes of one decode step of the batch."""
        traces = [
            synthetic_trace(shape, Schedule.uniform(bits), prompt_tokens=prompt, decode_tokens=1) for bits in batch
        ]
        sequences = [
            trace.sequences[0].model_copy(update={"id": str(index), "batch_id": 0})
            for index, trace in enumerate(traces)
        ]
        header = traces[0].header.model_copy(update={"execution": "batched", "schedule": None})
        result = _some(
            _simulate(
                {**overrides, "buffers.activation_kib": 8192, "control.prefetch": "none"},
                shape,
                traces[0].model_copy(update={"header": header, "sequences": tuple(sequences)}),
            )
        )
        assert (result.columns.step != PREFILL_STEP).sum() == 1
        operations = result.operations
        return operations[operations["phase"] == "decode"]["weights_bytes"].sum()

    nested = [bits for bits in widths if bits != 16]
    expected = sum(decode_step_bytes([bits]) for bits in ({max(nested)} if nested else set()) | (set(widths) & {16}))
    biases = decode_step_bytes(widths) - expected
    # A layer's bias is read once, too, where planes and unquantised weights are both read.
    assert biases == 0 or (nested and 16 in widths and biases < 0 and (shape.attention_bias or shape.mlp_bias))
