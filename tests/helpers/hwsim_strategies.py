"""What hwsim's tests share: a tiny model, and hypothesis strategies for NPUs, models and traces.

Add a new option of the NPU to :data:`OVERRIDES` and, if it can be hit or missed, to :func:`corners`; every property
and the long comparison of the engines then cover it.
"""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st

from hwsim.config import NpuConfig
from hwsim.load import load_npu
from hwsim.metrics import SimulationResult
from hwsim.trace import ModelShape, Schedule, Trace, synthetic_trace

TINY = ModelShape(
    name="tiny",
    layers=3,
    hidden_size=96,
    ffn_size=250,
    heads=6,
    kv_heads=2,
    head_dim=16,
    vocab_size=500,
    max_context=512,
    mlp="gated",
)

NESTED = st.integers(2, 8)
WIDTH = st.one_of(NESTED, st.just(16))
LONGEST_DECODE = 8
SPARSE = {"density": {"q_proj": 0.7, "k_proj": 0.125, "up_proj": 0.5, "down_proj": 1.0}}


@st.composite
def shapes(draw) -> ModelShape:
    kv_heads = draw(st.sampled_from([1, 2, 3, 4]))
    return ModelShape(
        name="random",
        layers=draw(st.integers(1, 5)),
        hidden_size=draw(st.sampled_from([8, 48, 64, 100, 256, 512])),
        ffn_size=draw(st.integers(8, 700)),
        heads=kv_heads * draw(st.sampled_from([1, 2, 4])),
        kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([4, 20, 32, 64])),
        vocab_size=draw(st.integers(2, 3000)),
        max_context=4096,
        mlp=draw(st.sampled_from(["gated", "two-matrix"])),
        parallel_attention=draw(st.booleans()),
        rotary_fraction=draw(st.sampled_from([0.0, 0.25, 1.0])),
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        tied_embeddings=draw(st.booleans()),
    )


_MEMORY = load_npu("pmpd-4k").memory.model_dump()
SECOND_MEMORIES = st.builds(
    lambda holds, bandwidth: {
        **_MEMORY,
        "bandwidth_bytes_per_s": bandwidth,
        "holds": sorted(holds),
        "technology": "ddr4",
    },
    st.sets(st.sampled_from(["kv", "embedding", "activations"]), min_size=1),
    st.floats(1e8, 1e12),
)

# Buffers down to one tile, arrays and buses from starved to abundant, functions from free to dominant. What is drawn
# less often stands behind copies of the usual value.
OVERRIDES = st.fixed_dictionaries(
    {
        "matrix.macs": st.integers(6, 16).map(lambda exponent: 1 << exponent),
        "memory.bandwidth_bytes_per_s": st.floats(1e8, 2e12),
        "memory.channels": st.sampled_from([1, 3, 32]),
        "memory.timing.controller_latency_ns": st.sampled_from([0, 40, 900]),
        "memory.timing.bank_groups": st.sampled_from([1, 4]),
        "memory.timing.ccd_l_bursts": st.sampled_from([1.0, 1.5, 2.0]),
        "second_memory": st.one_of(st.none(), st.none(), st.none(), SECOND_MEMORIES),
        "clock_hz": st.sampled_from([225e6, 1e9, 1.7e9]),
        "sfu.lanes": st.sampled_from([1, 16, 512]),
        "buffers.weight_kib": st.sampled_from([4, 9, 64, 1024]),
        "buffers.kv_kib": st.sampled_from([4, 33, 512]),
        "buffers.codebook_kib": st.sampled_from([2, 5, 256]),
        "buffers.activation_kib": st.sampled_from([4, 20, 8192]),
        "buffers.resident_codebook_kib": st.sampled_from([0, 0, 4, 4096]),
        "control.issue_cycles": st.sampled_from([0, 1, 30]),
        "control.sync_cycles": st.sampled_from([0, 16]),
        "control.prefill_bucket_tokens": st.sampled_from([1, 1, 32]),
        "control.decode_bucket_tokens": st.sampled_from([1, 1, 16]),
        "control.prefetch": st.sampled_from(["none", "none", "planned", "assume-unchanged"]),
        "matrix.pipeline_cycles": st.sampled_from([0, 16, 300]),
        "matrix.bit_serial": st.sampled_from([False, False, True]),
        "matrix.sparsity": st.sampled_from([None, None, SPARSE]),
    }
)
# Other arrays than the canonical ones that ``matrix.macs`` makes; drawn as often as those.
_SYSTOLIC = {"matrix.kind": "systolic", "matrix.bit_serial": False, "matrix.sparsity": None}
ARRAYS = st.sampled_from(
    [
        *[{}] * 3,
        {"matrix.mm": [8, 16, 16], "matrix.mv": [64, 16, 1], "matrix.cores": 4},
        *(
            _SYSTOLIC | {"matrix.dataflow": dataflow, "matrix.mm": array, "matrix.mv": array}
            for dataflow, array in (("output-stationary", [24, 1, 9]), ("weight-stationary", [9, 24, 1]))
        ),
    ]
)
# A search tries many tiles for every step, so it is drawn where it is asked for.
SEARCHED = OVERRIDES.map(lambda overrides: {**overrides, "control.tiling": "search", "control.prefetch": "none"})


@st.composite
def schedules(draw, width=WIDTH) -> Schedule:
    """Up to three switches, or one at every step."""
    if draw(st.integers(0, 4)) == 0:
        high, low = draw(st.tuples(width, width))
        return Schedule.from_pairs(high, [(step, low if step % 2 else high) for step in range(LONGEST_DECODE)])
    starts = draw(st.lists(st.integers(0, LONGEST_DECODE - 1), max_size=3))
    pairs = [(0, draw(width)), *((start, draw(width)) for start in starts)]
    return Schedule.from_pairs(draw(width), pairs)


@st.composite
def workloads(draw, width=WIDTH, longest_prompt=60) -> tuple[ModelShape, Trace]:
    """A model and a trace of it: one sequence, or several, one after another or in batches, of widths of their own."""
    shape = draw(shapes())
    bits = {
        "kv_bits": draw(st.sampled_from([4, 8, 16])),
        "lm_head_bits": draw(st.sampled_from([4, 8, 16])),
        "activation_bits": draw(st.sampled_from([8, 16])),
    }
    lines = []
    for index in range(draw(st.sampled_from([1, 1, 2, 3]))):
        one = synthetic_trace(
            shape,
            draw(schedules(width)),
            prompt_tokens=draw(st.one_of(st.integers(1, 3), st.integers(1, longest_prompt))),
            decode_tokens=draw(st.integers(0, LONGEST_DECODE)),
            **bits,
        )
        batch = draw(st.integers(0, 1))
        lines.append(one.sequences[0].model_copy(update={"id": str(index), "batch_id": batch}))
    header = one.header.model_copy(
        update={
            "schedule": None,
            "scheduler": draw(st.sampled_from(["static", "static", "learned"])),
            "execution": draw(st.sampled_from(["sequential", "batched"])),
        }
    )
    return shape, Trace(header=header, sequences=tuple(lines))


CORNERS = frozenset(
    {
        "a buffer of one tile",
        "a batch",
        "a batch of several widths",
        "a model of one layer",
        "a prompt of one token",
        "a second memory",
        "a spill",
        "a switch at every step",
        "bit-serial",
        "bound by the matrix unit",
        "bound by the memory",
        "bound by the SFU",
        "buckets",
        "no decode step",
        "prefetch",
        "prefetched for nothing",
        "resident codebooks",
        "several cores",
        "sparsity",
        "systolic",
        "the learned scheduler",
    }
)


def corners(npu: NpuConfig, shape: ModelShape, trace: Trace, result: SimulationResult) -> set[str]:
    """Which of :data:`CORNERS` a simulation is an example of."""
    busiest = max(result.busy_cycles, key=result.busy_cycles.__getitem__)
    bound = {"matrix": "bound by the matrix unit", "dram": "bound by the memory", "sfu": "bound by the SFU"}
    batched = trace.header.execution == "batched" and (result.columns.tokens > 1).any()
    steps = [sequence.expand() for sequence in trace.sequences]
    widest_row = -(-max(shape.hidden_size, shape.ffn_size) // 32) * 4 * max(result.columns.weight_bits)
    found = {
        bound.get(busiest, ""): result.utilisation[busiest] > 0.5,
        "a buffer of one tile": npu.buffers.weight_kib * 512 < 2 * widest_row,
        "a batch": batched,
        "a batch of several widths": batched and len({bits for widths in steps for bits in widths}) > 1,
        "a model of one layer": shape.layers == 1,
        "a prompt of one token": any(sequence.prompt_tokens == 1 for sequence in trace.sequences),
        "a second memory": npu.second_memory is not None,
        "a spill": result.bytes_by_kind["activations"] > 0,
        "a switch at every step": any(
            len(widths) > 2 and all(left != right for left, right in pairwise(widths)) for widths in steps
        ),
        "bit-serial": npu.matrix.bit_serial,
        "buckets": npu.control.prefill_bucket_tokens > 1 or npu.control.decode_bucket_tokens > 1,
        "no decode step": result.decode_steps == 0,
        "prefetch": npu.control.prefetch != "none",
        "prefetched for nothing": result.bytes_by_kind["thrown_away"] > 0,
        "resident codebooks": npu.buffers.resident_codebook_kib > 0,
        "several cores": npu.matrix.cores > 1,
        "sparsity": npu.matrix.sparsity is not None,
        "systolic": npu.matrix.kind == "systolic",
        "the learned scheduler": trace.header.scheduler == "learned",
    }
    return {name for name, hit in found.items() if hit and name}
