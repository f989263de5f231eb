"""Pruning by bounds gives the front of simulating everything, with fewer simulations and a true certificate."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dse
from dse.bounds import EXACT_METRICS, Roofline
from dse.dominance import non_dominated
from dse.exact import EnumeratedSearch
from dse.log import LOG_NAME, LogWriter, Outcome, read_log
from dse.objective import METRICS, losses, violations
from dse.problem import Problem, prepare
from dse.simulator import Simulator
from dse.space import Design, Space
from dse.study import parse_study
from hwsim import load_shape
from hwsim.trace import BittaperError, InputError, Schedule, synthetic_trace, write_trace


def loosened(npu, tightness=0.9):
    """Bounds of the closed-form NPU: its exact metrics, and up to a tenth too good a speed and energy."""

    def bounds(design):
        metrics = type(npu)()(design)
        share = tightness + (1 - tightness) * int(hashlib.sha256(design.key.encode()).hexdigest(), 16) / 2**256
        metrics["decode_tokens_per_s"] /= share
        metrics["energy_j_per_token"] *= share
        metrics["ttft_s"] *= share
        return metrics

    return bounds


@pytest.fixture
def study(study_fields):
    def study(**changes):
        return parse_study(study_fields | {"sampler": "exact", "budget": 500} | changes, "study.yaml")

    return study


def run(study, out, npu, **options):
    return dse.explore(study, out, evaluate=npu, bounds=loosened(npu), progress=False, **options)


def test_front_equals_that_of_simulating_everything(study, tmp_path, npu):
    limits = [
        {"name": "decode_tokens_per_s", "op": ">=", "bound": 20},
        {"name": "relative_quality", "op": ">=", "bound": 0.6},
        {"name": "area_mm2", "op": "<=", "bound": 10},
    ]
    found = run(study(constraints=limits), tmp_path / "exact", npu)
    simulated = len(npu.calls)
    everything = dse.explore(study(constraints=limits, sampler="auto"), tmp_path / "all", evaluate=npu, progress=False)
    columns = ["schedule", "matrix.macs", "memory.bandwidth_bytes_per_s", "decode_tokens_per_s"]
    key = ["decode_tokens_per_s", "schedule", "matrix.macs", "memory.bandwidth_bytes_per_s"]
    pd.testing.assert_frame_equal(
        found.pareto[columns].sort_values(key, ignore_index=True),
        everything.pareto[columns].sort_values(key, ignore_index=True),
    )
    assert simulated < len(everything.trials)


def test_a_finished_run_called_again_leaves_its_record_as_it_is(study, tmp_path, npu):
    def bounds(design):
        metrics = type(npu)()(design)
        if design.npu["matrix.macs"] > 8192:  # only confirming simulates these
            metrics["decode_tokens_per_s"] *= 2
        return metrics

    asked = study(confirmations=500, constraints=[{"name": "matrix.macs", "op": "<=", "bound": 8192}])
    first = dse.explore(asked, tmp_path, evaluate=npu, bounds=bounds, progress=False)
    assert first.certificate["largest_gap"]["decode_tokens_per_s"] == 2
    written = (tmp_path / LOG_NAME).read_bytes()
    assert dse.explore(asked, tmp_path, evaluate=npu, bounds=bounds, progress=False).certificate == first.certificate
    assert (tmp_path / LOG_NAME).read_bytes() == written


def test_certificate_accounts_for_every_design(study, tmp_path, npu):
    objectives = [
        {"name": "decode_tokens_per_s", "direction": "maximize"},
        {"name": "area_mm2", "direction": "minimize"},
    ]
    limits = [{"name": "decode_tokens_per_s", "op": ">=", "bound": 20}]
    found = run(study(objectives=objectives, constraints=limits, batch_size=1), tmp_path, npu)
    certificate = found.certificate
    assert certificate["complete"] and certificate["open"] == 0
    assert certificate["simulated"] + sum(certificate["pruned"].values()) == certificate["designs"] == 4 * 3 * 12
    assert certificate["simulated"] == len(found.trials)
    confirmed = certificate["confirmed"]
    assert confirmed["pruned"] == len(npu.calls) - len(found.trials)
    assert confirmed["pruned"] == min(20, sum(certificate["pruned"].values())) > 0
    assert (confirmed["front"], confirmed["engine"]) == (0, None)  # an evaluator that stands in has no other engine
    assert certificate["kept"] == len(found.pareto)
    assert set(certificate["pruned"]) == {"breaks decode_tokens_per_s >= 20", "dominated even by its bound"}
    assert 1 < certificate["largest_gap"]["decode_tokens_per_s"] <= 1 / 0.9 + 1e-9
    assert dse.load_exploration(tmp_path).certificate == certificate


@pytest.mark.parametrize("asked", [0, 3])
def test_a_study_says_how_many_designs_are_confirmed_and_is_the_same_study(asked, study, tmp_path, npu):
    limits = [{"name": "decode_tokens_per_s", "op": ">=", "bound": 20}]
    found = run(study(constraints=limits, confirmations=asked), tmp_path, npu)
    assert found.certificate["confirmed"]["pruned"] == asked
    again = run(study(constraints=limits), tmp_path, npu)  # the record of one goes on under the other
    pd.testing.assert_frame_equal(again.trials, found.trials)
    everything = min(20, sum(again.certificate["pruned"].values()))
    assert again.certificate["confirmed"]["pruned"] == everything > asked
    fewer = run(study(constraints=limits, confirmations=asked), tmp_path, npu)
    assert fewer.certificate["confirmed"]["pruned"] == everything  # what was confirmed stays so


def test_a_budget_too_small_leaves_the_certificate_open(study, tmp_path, npu):
    first = run(study(budget=5), tmp_path, npu).certificate
    assert not first["complete"] and first["open"] > 0 and first["confirmed"] is None
    assert run(study(), tmp_path, npu).certificate["complete"]


def test_exhausting_a_space_is_certified_too(study, tmp_path, npu):
    found = run(study(sampler="auto", batch_size=7), tmp_path, npu)
    certificate = found.certificate
    assert (certificate["complete"], certificate["simulated"], certificate["pruned"]) == (True, 84, {})
    assert certificate["kept"] == len(found.pareto) > 0 and certificate["largest_gap"] == {}


def test_auto_takes_bounds_where_there_are_some(study, tmp_path, npu):
    assert run(study(sampler="auto", budget=None, constraints=[]), tmp_path, npu).sampler == "exact"


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_stopped_run_goes_on_to_the_same_trials(study, tmp_path, npu, batch_size):
    config = study(batch_size=batch_size)
    whole = run(config, tmp_path / "whole", npu)
    pieces = type(npu)()

    def stopping(design):
        if len(pieces.calls) >= 9:
            raise KeyboardInterrupt
        return pieces(design)

    with pytest.raises(KeyboardInterrupt):
        dse.explore(config, tmp_path / "pieces", evaluate=stopping, bounds=loosened(npu), progress=False)
    resumed = run(config, tmp_path / "pieces", npu)
    pd.testing.assert_frame_equal(resumed.trials, whole.trials)
    assert resumed.certificate == whole.certificate


def test_reading_a_finished_study_again_adds_nothing_to_its_record(study, tmp_path, npu):
    run(study(), tmp_path, npu)
    before = (tmp_path / "trials.jsonl").read_bytes()
    run(study(), tmp_path, npu)
    assert (tmp_path / "trials.jsonl").read_bytes() == before


def test_a_wrong_bound_is_noticed(study, tmp_path, npu):
    def bounds(design):
        metrics = type(npu)()(design)
        return metrics | {"decode_tokens_per_s": metrics["decode_tokens_per_s"] * 0.99}

    with pytest.raises(BittaperError, match=r"decode_tokens_per_s = .* beats its bound .*the bound is wrong"):
        dse.explore(study(), tmp_path, evaluate=npu, bounds=bounds, progress=False)


def test_limits_beyond_every_bound_are_refused_without_simulating(study, tmp_path, npu):
    limits = [{"name": "decode_tokens_per_s", "op": ">=", "bound": 5000}]
    with pytest.raises(
        InputError, match=r"no design of 144 can keep the constraints: decode_tokens_per_s >= 5000 binds"
    ):
        run(study(constraints=limits), tmp_path, npu)
    assert npu.calls == []
    # The mended study may use the same folder: nothing was recorded that could be lost.
    assert len(run(study(), tmp_path, npu).trials) > 0


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("decode_tokens_per_s", "even the bound of the best one"),
        ("ttft_s", "the best of 4 simulated"),  # there is a fastest first token, but no slowest
    ],
)
def test_limits_that_only_simulating_refutes_are_refused_in_one_line(model, tmp_path, name, how):
    fields = {
        "workloads": [{"model": model, "prompt_tokens": 9, "decode_tokens": 40}],
        "npu": "pmpd-4k",
        "schedules": ["p4:4", "p4:3"],
        "parameters": {"matrix.macs": {"type": "categorical", "choices": [256, 1024]}},
        "objectives": [SPEED, AREA],
        "sampler": "exact",
    }
    problem = prepare(parse_study(fields, "s"))
    best = max(problem.metrics(design)[name] for design in problem.space.enumerate())
    study = parse_study(fields | {"constraints": [{"name": name, "op": ">=", "bound": best * 1.001}]}, "s")
    with pytest.raises(InputError, match=rf"no design of 4 can keep the constraints: .* binds: {how} is .* off$"):
        dse.explore(study, tmp_path / "out", progress=False)
    # The mended study may use the same folder.
    assert len(dse.explore(parse_study(fields, "s"), tmp_path / "out", progress=False).trials) > 0


def test_designs_the_npu_cannot_run_are_pruned(study, study_fields, tmp_path, npu):
    macs = {"type": "categorical", "choices": [4096, 1 << 20]}
    found = run(study(parameters=study_fields["parameters"] | {"matrix.macs": macs}), tmp_path, npu)
    assert found.certificate["pruned"]["cannot run"] == 4 * 7
    assert found.counts.invalid == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": {"x": {"type": "float", "low": 0, "high": 1}}}, "the space has a continuum of designs"),
        (
            {"parameters": {"x": {"type": "int", "low": 0, "high": 199999}}},
            "the space has 1400000 designs, at most 1000000",
        ),
    ],
)
def test_exact_is_refused_where_it_cannot_be(study, tmp_path, npu, changes, message):
    with pytest.raises(InputError, match=message):
        run(study(**changes), tmp_path, npu)


class Table:
    """A space of one integer parameter whose metrics and bounds are given."""

    def __init__(self, actual, bound):
        fields = {
            "workloads": [{"model": "m", "prompt_tokens": 1, "decode_tokens": 1}],
            "npu": "n",
            "schedules": ["p4:4"],
            "parameters": {"x": {"type": "int", "low": 0, "high": len(actual) - 1}},
            "objectives": [{"name": "ttft_s", "direction": "minimize"}, {"name": "e2e_s", "direction": "minimize"}],
        }
        study = parse_study(fields, "s")
        space = Space(study.parameters, [Schedule.uniform(4)])
        named = [dict(zip(("ttft_s", "e2e_s"), row, strict=True)) for row in actual]
        bounds = [dict(zip(("ttft_s", "e2e_s"), row, strict=True)) for row in bound]
        self.problem = Problem(
            study, space, None, {}, lambda d: named[d.npu["x"]], lambda d: bounds[d.npu["x"]], meaning={}
        )


ROW = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2), st.integers(0, 2))


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=20), st.integers(1, 3))
def test_nothing_on_the_front_is_ever_pruned(rows, batch_size):
    actual = [(float(a), float(b)) for a, b, _, _ in rows]
    bound = [(max(a - da, 0.5), max(b - db, 0.5)) for a, b, da, db in rows]
    problem = Table(actual, bound).problem
    search = EnumeratedSearch(problem, bounded=True, progress=False)
    seen = []
    while (batch := search.next_batch(len(seen), batch_size)).designs:
        designs = [problem.space.decode(design) for design in batch.designs]
        search.tell(batch, designs, [Outcome(0, problem.metrics(design)) for design in designs])
        seen += [design.npu["x"] for design in designs]
    points = np.array(actual)
    front = {i for i, p in enumerate(points) if not any((q <= p).all() and (q < p).any() for q in points)}
    assert front <= set(seen) and len(seen) == len(set(seen))


def test_a_design_that_could_not_be_evaluated_leaves_the_certificate_open():
    problem = Table([(1.0, 2.0), (2.0, 1.0), (3.0, 3.0)], [(1.0, 2.0), (2.0, 1.0), (3.0, 3.0)]).problem
    search = EnumeratedSearch(problem, bounded=True, progress=False)
    batch = search.next_batch(0, 2)
    designs = [problem.space.decode(design) for design in batch.designs]
    lost = Outcome(1, {}, "its worker process was ended", unknown=True)
    search.tell(batch, designs, [Outcome(0, problem.metrics(designs[0])), lost])
    certificate = search.certificate(None)
    assert (certificate["simulated"], certificate["open"], certificate["complete"]) == (1, 1, False)
    assert certificate["pruned"] == {"dominated even by its bound": 1}


@pytest.mark.parametrize("bits", [3, 5, 8, 16])
@pytest.mark.parametrize(
    "npu",
    [
        {},
        {"memory.bandwidth_bytes_per_s": 5e11},
        {"matrix.macs": 256},
        {"matrix.activation_bits": 16},
        {"control.prefetch": "assume-unchanged"},
        {"buffers.resident_codebook_kib": 512},
        {"matrix.bit_serial": True},
        {"control.decode_bucket_tokens": 16, "control.tiling": "search"},
    ],
)
def test_no_simulation_beats_the_roofline(tmp_path, bits, npu):
    (tmp_path / "config.json").write_text(
        '{"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 96, "intermediate_size": 250, '
        '"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 700, "max_position_embeddings": 128}'
    )
    fields = {
        "workloads": [{"model": str(tmp_path / "config.json"), "prompt_tokens": 9, "decode_tokens": 11}],
        "npu": "pmpd-4k",
        "schedules": [f"p{bits}:{bits}>4@5"],
        "objectives": [{"name": "ttft_s", "direction": "minimize"}],
    }
    study = parse_study(fields, "s")
    simulator = Simulator(study)
    assert study.schedules is not None
    design = Design(npu, study.schedules[0])
    actual, bound = simulator(design), Roofline(simulator)(design)
    assert actual.keys() == bound.keys()
    for name, value in actual.items():
        if name in EXACT_METRICS:
            assert value == pytest.approx(bound[name])
        elif METRICS[name].better == "maximize":
            assert value <= bound[name]
        else:
            assert value >= bound[name]


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(
        '{"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 256, "intermediate_size": 512, '
        '"num_attention_heads": 4, "vocab_size": 512, "max_position_embeddings": 128}'
    )
    return str(path)


def recorded(model, path, lengths):
    """A trace of responses of different lengths, each at its own widths."""
    trace = synthetic_trace(load_shape(model), Schedule.uniform(4), prompt_tokens=5, decode_tokens=4, sequences=3)
    sequences = [
        one.model_copy(
            update={"prompt_tokens": prompt, "generated_tokens": steps + 1, "decode_weight_bits": ((4, steps),)}
        )
        for one, (prompt, steps) in zip(trace.sequences, lengths, strict=True)
    ]
    write_trace(path, trace.header, sequences)
    return str(path)


SPEED = {"name": "decode_tokens_per_s", "direction": "maximize"}
BANDWIDTH = {"name": "bandwidth_bytes_per_s", "direction": "minimize"}
AREA = {"name": "area_mm2", "direction": "minimize"}
ENERGY = {"name": "energy_j_per_token", "direction": "minimize"}
BITS = {"name": "mean_decode_bits", "direction": "maximize"}
SLOWEST = {"name": "ttft_s", "direction": "maximize"}
HARDWARE = {
    "memory.bandwidth_bytes_per_s": {"type": "categorical", "choices": [4e9, 8e9, 16e9]},
    "matrix.macs": {"type": "categorical", "choices": [256, 1024, 4096]},
}
CONDITIONAL = {
    "matrix.bit_serial": {"type": "categorical", "choices": [False, True]},
    "buffers.weight_kib": {"type": "categorical", "choices": [0.05, 8, 64], "when": {"matrix.bit_serial": False}},
    "sfu.lanes": {"type": "categorical", "choices": [2, 16], "when": {"schedule.switches": [1]}},
}
CHAINED = {
    "control.prefetch": {"type": "categorical", "choices": ["none", "planned"]},
    "matrix.macs": {"type": "categorical", "choices": [4096]},
}
SPACES = {
    "two-objectives": ({}, [SPEED, AREA], []),
    "conditional": (CONDITIONAL, [SPEED, BANDWIDTH, BITS], [{"name": "area_mm2", "op": "<=", "bound": 3.5}]),
    "steps-that-depend-on-each-other": (CHAINED, [SPEED, AREA, BITS], []),
    "four-objectives": (
        {"cost.node": {"type": "categorical", "choices": ["14nm", "7nm"]}},
        [SPEED, AREA, ENERGY, BITS],
        [{"name": "ttft_s", "op": "<=", "bound": 0.4, "unit": "ms"}],
    ),
    "an-objective-without-a-bound": ({}, [SPEED, SLOWEST], []),
}


@pytest.mark.parametrize(
    ("space", "aggregate"),
    [
        ("two-objectives", "weighted"),
        ("conditional", "worst"),
        pytest.param("four-objectives", "weighted", marks=pytest.mark.slow),
        pytest.param("an-objective-without-a-bound", "worst", marks=pytest.mark.slow),
        pytest.param("steps-that-depend-on-each-other", "weighted", marks=pytest.mark.full),
    ],
)
def test_the_front_of_the_simulator_equals_brute_force(model, tmp_path, space, aggregate):
    parameters, objectives, limits = SPACES[space]
    tokens = {"model": model, "prompt_tokens": 9, "decode_tokens": 7, "weight": 3}
    trace = recorded(model, tmp_path / "trace.jsonl", [(5, 4), (9, 7), (14, 1)])
    fields = {
        "workloads": [tokens, {"trace": trace, "weight": 1}],
        "aggregate": aggregate,
        "npu": "pmpd-4k",
        "engine": "fast",
        "schedules": ["p4:4>3@5", "p4:3", "p3:4", "p4:4>2@3"],
        "parameters": {**HARDWARE, **parameters},
        "objectives": objectives,
        "constraints": limits,
        "sampler": "exact",
        "budget": None,
    }
    study = parse_study(fields, "s")
    found = dse.explore(study, tmp_path / "out", progress=False)
    problem = prepare(study)
    designs = list(problem.space.enumerate())
    rows = [(one, metrics) for one, metrics in zip(designs, problem.metrics_many(designs), strict=True)]
    able = [(one, metrics) for one, metrics in rows if not isinstance(metrics, InputError)]
    kept = [pair for pair in able if all(value <= 0 for value in violations(study.constraints, pair[1]).values())]
    front = non_dominated([losses(study.objectives, metrics) for _, metrics in kept])
    expected = {one.key for (one, _), best in zip(kept, front, strict=True) if best}
    log = read_log(tmp_path / "out" / LOG_NAME)
    tried = [design for batch in log.batches for design in batch.designs]
    assert {problem.space.decode(tried[number]).key for number in found.pareto["number"]} == expected
    certificate = found.certificate
    assert certificate["complete"] and certificate["kept"] == len(expected)
    assert certificate["simulated"] + sum(certificate["pruned"].values()) == certificate["designs"] == len(designs)
    assert certificate["confirmed"]["front"] == min(20, len(expected))
    assert certificate["confirmed"]["engine"] == "events"
    assert certificate["confirmed"]["largest_difference"] < 1e-9


def test_a_settled_front_that_was_cut_off_goes_on_to_the_same_trials(model, tmp_path, monkeypatch):
    fields = {
        "workloads": [{"model": model, "prompt_tokens": 9, "decode_tokens": 7}],
        "npu": "pmpd-4k",
        "schedules": ["p4:4>3@5", "p4:3"],
        "parameters": HARDWARE,
        "objectives": [SPEED, AREA],
        "sampler": "exact",
        "budget": None,
        "batch_size": 3,
    }
    study = parse_study(fields, "s")
    whole = dse.explore(study, tmp_path / "whole", progress=False)
    assert len(whole.trials) > 6
    append = LogWriter.outcome

    def cut_off(log, outcome):
        if outcome.number == 4:
            raise KeyboardInterrupt
        append(log, outcome)

    with monkeypatch.context() as patch:
        patch.setattr(LogWriter, "outcome", cut_off)
        with pytest.raises(KeyboardInterrupt):
            dse.explore(study, tmp_path / "parts", progress=False)
    resumed = dse.explore(study, tmp_path / "parts", progress=False)
    pd.testing.assert_frame_equal(resumed.trials, whole.trials)
    assert resumed.certificate == whole.certificate


@pytest.mark.parametrize(("budget", "simulated"), [(None, 0), (7, 7)])
def test_what_is_settled_is_not_simulated_again_for_its_row(model, tmp_path, monkeypatch, budget, simulated):
    parameters = {**HARDWARE, "sfu.lanes": {"type": "categorical", "choices": [2, 16], "when": {"matrix.macs": 256}}}
    fields = {
        "workloads": [{"model": model, "prompt_tokens": 9, "decode_tokens": 7}],
        "npu": "pmpd-4k",
        "schedules": ["p4:4>3@5", "p4:3"],
        "parameters": parameters,
        "objectives": [SPEED, AREA, {"name": "sfu.lanes", "direction": "minimize"}],
        "constraints": [{"name": "ttft_s", "op": "<=", "bound": 1}],
        "sampler": "exact",
        "budget": budget,
        "confirmations": 0,
    }
    again = []
    many = Simulator.many

    def counted(simulator, designs):
        again.extend(designs)
        return many(simulator, designs)

    with monkeypatch.context() as patch:
        patch.setattr(Simulator, "many", counted)
        dse.explore(parse_study(fields, "s"), tmp_path / "out", progress=False)
    assert len(again) == simulated
    record = read_log(tmp_path / "out" / LOG_NAME)
    problem = prepare(parse_study(fields, "s"))
    assert len(record.outcomes) > 6
    for number, design in record.designs_by_number().items():
        assert record.outcomes[number] == Outcome(number, problem.metrics(problem.space.decode(design)))


@pytest.mark.slow
def test_confirming_in_several_processes_shows_the_same(model, tmp_path):
    fields = {
        "workloads": [{"model": model, "prompt_tokens": 9, "decode_tokens": 7}],
        "npu": "pmpd-4k",
        "schedules": ["p4:4>3@5", "p4:3"],
        "parameters": HARDWARE,
        "objectives": [SPEED, AREA],
        "sampler": "exact",
        "budget": None,
    }
    study = parse_study(fields, "s")
    one, two = (
        dse.explore(study, tmp_path / str(workers), workers=workers, progress=False).certificate for workers in (1, 2)
    )
    assert one == two and one["confirmed"]["engine"] == "events" and one["confirmed"]["front"] > 0
