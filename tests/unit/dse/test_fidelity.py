"""A handful of steps tells the trace: exactly where steps do not depend on their context, else within two per mille."""

from __future__ import annotations

import json

import pytest

from dse.fidelity import ShortTrace
from dse.simulator import Simulator
from dse.sketch import NODES, sketch_of
from dse.space import Design
from dse.study import parse_study
from hwsim import load_shape
from hwsim.trace import InputError, Schedule, synthetic_trace, write_trace

FIVE, MIXED, SPLIT = Schedule.uniform(5), Schedule.from_pairs(6, [(0, 5), (40, 3)]), Schedule.uniform(3, 6)
NPUS = (
    {},
    {"memory.bandwidth_bytes_per_s": 2e9, "sfu.lanes": 2},
    {"matrix.macs": 256, "buffers.weight_kib": 64},
    {"control.prefetch": "planned"},
    {"control.prefetch": "assume-unchanged", "buffers.resident_codebook_kib": 64},
)
TOLERANCE = 2e-3


@pytest.fixture
def shape(tmp_path):
    path = tmp_path / "tiny" / "config.json"
    path.parent.mkdir()
    fields = {
        "model_type": "llama",
        "num_hidden_layers": 3,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "vocab_size": 512,
        "max_position_embeddings": 4096,
    }
    path.write_text(json.dumps(fields))
    return load_shape(str(path))


@pytest.fixture
def simulator(tmp_path, shape):
    def simulator(**changes):
        fields = {
            "workloads": [
                {"model": str(tmp_path / "tiny" / "config.json"), "prompt_tokens": 60, "decode_tokens": 160},
                {"model": str(tmp_path / "tiny" / "config.json"), "prompt_tokens": 7, "decode_tokens": 90, "weight": 3},
            ],
            "npu": "pmpd-4k",
            "schedules": [plan.label() for plan in (FIVE, MIXED, SPLIT)],
            "objectives": [{"name": "decode_tokens_per_s", "direction": "maximize"}],
        }
        return Simulator(parse_study(fields | changes, "study.yaml"))

    return simulator


def compare(simulator, designs, tolerance):
    short = ShortTrace(simulator)
    for design, found in zip(designs, short.many(designs), strict=True):
        full = simulator(design)
        assert found == {name: pytest.approx(value, rel=tolerance) for name, value in full.items()}
    return short


@pytest.mark.parametrize("aggregate", [pytest.param("weighted", marks=pytest.mark.slow), "worst"])
def test_equal_to_the_full_trace_where_steps_do_not_depend_on_context(simulator, aggregate):
    flat = {"control.decode_bucket_tokens": 512}
    designs = [Design({**npu, **flat}, plan) for npu in NPUS[:2] for plan in (FIVE, MIXED, SPLIT)]
    compare(simulator(aggregate=aggregate), designs, 1e-12)


@pytest.mark.parametrize("npu", [NPUS[0], NPUS[1], *(pytest.param(npu, marks=pytest.mark.slow) for npu in NPUS[2:])])
def test_within_two_per_mille_of_the_full_trace_elsewhere(simulator, npu):
    short = compare(simulator(), [Design(npu, plan) for plan in (FIVE, MIXED, SPLIT)], TOLERANCE)
    assert short.designs == 3
    assert 0 < short.steps <= 2 * 8 * NODES


def test_the_analytic_mode_is_linear_and_hence_told_but_for_rounding(simulator):
    compare(simulator(mode="pmpd-analytic"), [Design({}, MIXED)], 1e-4)


def test_designs_on_one_npu_share_their_steps(simulator):
    short = ShortTrace(simulator())
    short(Design({}, FIVE))
    before = short.steps
    assert short.many([Design({}, FIVE)]) == [short(Design({}, FIVE))]
    assert short.steps == before
    short(Design({}, MIXED))
    assert short.steps < 3 * before


@pytest.mark.slow
def test_batches_and_the_learned_scheduler_are_told_too(simulator, shape, tmp_path):
    paths = []
    for name, changes in (
        ("batched", {"execution": "batched"}),
        ("learned", {"scheduler": "learned", "schedule": None}),
    ):
        trace = synthetic_trace(shape, MIXED, prompt_tokens=30, decode_tokens=80, sequences=4)
        sequences = [
            one.model_copy(update={"batch_id": index // 2, "prompt_tokens": 30 + 9 * index})
            for index, one in enumerate(trace.sequences)
        ]
        write_trace(tmp_path / name, trace.header.model_copy(update=changes), sequences)
        paths.append(str(tmp_path / name))
    for path in paths:
        told = simulator(workloads=[{"trace": path}], schedules=None)
        compare(told, [Design(npu, None) for npu in NPUS[:2]], TOLERANCE)


def test_what_hwsim_refuses_is_refused_in_its_words(simulator):
    judge = simulator()
    designs = [Design({"matrix.macs": 5000}, FIVE), Design({"memory.capacity_bytes": 1000}, FIVE), Design({}, FIVE)]
    *refused, found = ShortTrace(judge).many(designs)
    assert found == pytest.approx(judge(designs[-1]), rel=TOLERANCE)
    for design, error in zip(designs, refused, strict=False):
        with pytest.raises(InputError) as full:
            judge(design)
        assert str(error) == str(full.value)
        with pytest.raises(InputError):
            ShortTrace(judge)(design)


def test_a_sketch_of_few_steps_holds_them_all(shape):
    trace = synthetic_trace(shape, FIVE, prompt_tokens=5, decode_tokens=2)
    told = sketch_of(trace, resident_codebooks=False)
    assert told.exact and len(told.nodes) == 3
    assert told.weights.sum(axis=1).tolist() == [3, 1, 3, 2]
