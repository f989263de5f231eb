"""Random spaces, workloads, limits and objectives: the proved front is that of evaluating every design."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dse.candidates import Candidates
from dse.design_grid import DesignGrid
from dse.dominance import non_dominated
from dse.evaluation import judge
from dse.exact import EnumeratedSearch
from dse.objective import losses, violations
from dse.problem import prepare
from dse.study import parse_study
from hwsim import load_shape
from hwsim.trace import InputError, Schedule, synthetic_trace, write_trace

PARAMETERS = {
    "memory.bandwidth_bytes_per_s": {"type": "categorical", "choices": [1e9, 4e9, 8e9, 16e9, 64e9]},
    "matrix.macs": {"type": "categorical", "choices": [64, 256, 1024, 4096]},
    "matrix.bit_serial": {"type": "categorical", "choices": [False, True]},
    "matrix.weight_widths": {"type": "categorical", "choices": [[3, 4], [2, 3, 4], [2, 3, 4, 16]]},
    "buffers.weight_kib": {"type": "categorical", "choices": [0.05, 8, 64]},
    "buffers.kv_kib": {"type": "categorical", "choices": [0.05, 2, 64]},
    "sfu.lanes": {"type": "categorical", "choices": [1, 5, 16]},
    "control.prefetch": {"type": "categorical", "choices": ["none", "planned"]},
    "control.tiling": {"type": "categorical", "choices": ["half-buffer", "search"]},
    "control.decode_bucket_tokens": {"type": "categorical", "choices": [1, 8]},
    "cost.node": {"type": "categorical", "choices": ["14nm", "7nm"]},
}
CONDITIONS = {
    "buffers.weight_kib": {"matrix.macs": [256, 4096]},
    "sfu.lanes": {"schedule.switches": [1]},
    "cost.node": {"schedule.prefill_weight_bits": 4},
    "buffers.kv_kib": {"matrix.bit_serial": True},
}
OBJECTIVES = {
    "decode_tokens_per_s": "maximize",
    "mean_decode_bits": "maximize",
    "bandwidth_bytes_per_s": "minimize",
    "area_mm2": "minimize",
    "energy_j_per_token": "minimize",
    "ttft_s": "minimize",
    "e2e_s": "minimize",
    "dram_bytes_per_token": "minimize",
}
SCHEDULES = ["p4:4", "p4:3", "p3:4", "p4:4>3@5", "p4:4>2@3", "p3:3>2@9", "p4:2>4@2"]
MOST_DESIGNS = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def model(folder):
    path = folder / "tiny.json"
    fields = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128}
    fields |= {"num_attention_heads": 4, "vocab_size": 512, "max_position_embeddings": 256}
    path.write_text(json.dumps(fields))
    return str(path)


@pytest.fixture(scope="module")
def recorded(folder, model):
    """A trace of a scheduler that plans by prompt, and one of a static schedule: several lengths each."""
    shape = load_shape(model)
    paths = []
    for name, scheduler, plans in (
        ("learned", "learned", [Schedule.from_pairs(4, [(0, 4), (5, 3)]), Schedule.uniform(3, prefill_weight_bits=4)]),
        ("static", "static", [Schedule.from_label("p4:4>3@5")] * 2),
    ):
        traces = [synthetic_trace(shape, one, prompt_tokens=7, decode_tokens=9 + 20 * i) for i, one in enumerate(plans)]
        sequences = [trace.sequences[0].model_copy(update={"id": str(i)}) for i, trace in enumerate(traces)]
        label = {"scheduler_label": "learned:small"} if scheduler == "learned" else {}
        schedule = None if scheduler == "learned" else plans[0]
        changes = {"scheduler": scheduler, "schedule": schedule, "provenance": label}
        path = folder / f"{name}.jsonl"
        write_trace(path, traces[0].header.model_copy(update=changes), sequences)
        paths.append(str(path))
    return paths


@st.composite
def studies(draw):
    """Fields of a study, but for the files."""
    chosen = draw(st.lists(st.sampled_from(sorted(PARAMETERS)), min_size=1, max_size=4, unique=True))
    order = [path for path in PARAMETERS if path in chosen]
    parameters = {path: dict(PARAMETERS[path]) for path in order}
    for path, condition in CONDITIONS.items():
        parent = next(iter(condition))
        if path in parameters and (parent in parameters or parent.startswith("schedule.")) and draw(st.booleans()):
            parameters[path]["when"] = condition
    names = draw(st.lists(st.sampled_from(sorted(OBJECTIVES)), min_size=1, max_size=4, unique=True))
    limited = draw(st.lists(st.sampled_from(sorted(OBJECTIVES)), max_size=2, unique=True))
    return {
        "parameters": parameters,
        "objectives": [{"name": name, "direction": OBJECTIVES[name]} for name in names],
        "limited": [(name, draw(st.floats(0.05, 0.95))) for name in limited],
        "schedules": draw(st.lists(st.sampled_from(SCHEDULES), min_size=1, max_size=5, unique=True)),
        "loads": draw(
            st.sampled_from([("tokens",), ("learned",), ("tokens", "static"), ("tokens", "long"), ("long",)])
        ),
        "aggregate": draw(st.sampled_from(["weighted", "worst"])),
        "mode": draw(st.sampled_from(["realistic", "realistic", "realistic", "pmpd-analytic"])),
        "budget": draw(st.sampled_from([None, None, 4000])),
        "seed": draw(st.integers(0, 9)),
    }


def complete(drawn, model, recorded):
    """The study as its file would have it, without limits."""
    loads = {
        "tokens": {"model": model, "prompt_tokens": 9, "decode_tokens": 12, "weight": 3},
        "long": {"model": model, "prompt_tokens": 60, "decode_tokens": 150},
        "learned": {"trace": recorded[0]},
        "static": {"trace": recorded[1], "weight": 2},
    }
    kept = {name: drawn[name] for name in ("parameters", "objectives", "aggregate", "mode", "budget", "seed")}
    schedules = {"schedules": drawn["schedules"]}
    if drawn["loads"] == ("learned",):
        schedules = {
            "schedule_space": {
                "prefill_weight_bits": [4],
                "decode_weight_bits": [4, 3],
                "max_switches": 1,
                "switch_steps": [4],
                "schedulers": ["static", "learned"],
            }
        }
    return {
        "npu": "pmpd-4k",
        "engine": "fast",
        "sampler": "exact",
        "workloads": [loads[name] for name in drawn["loads"]],
        **kept,
        **schedules,
    }


def check_settled(problem, search, numbered):
    """What settling says of chosen designs is what simulating each alone gives, to the last bit."""
    settled = search.settled(numbered)
    designs = dict(numbered)
    alone = [
        judge(problem, one.number, designs[one.number], problem.metrics_many([designs[one.number]])[0])
        for one in settled
    ]
    assert settled == alone
    assert [list(one.metrics) for one in settled] == [list(one.metrics) for one in alone]  # as the record has them
    grid = DesignGrid(problem.evaluate, Candidates.of(problem.space, designs.values()))
    assert len(settled) == (grid.gridded.sum() if problem.gridded and problem.study.budget is None else 0)


def explored(problem):
    """Keys of the front, and the certificate, by going through the search as a run does."""
    search = EnumeratedSearch(problem, bounded=True, progress=False)
    told = []
    while (batch := search.next_batch(len(told), 64)).designs:
        designs = [problem.space.decode(design) for design in batch.designs]
        found = problem.metrics_many(designs)
        outcomes = [judge(problem, len(told) + i, *pair) for i, pair in enumerate(zip(designs, found, strict=True))]
        check_settled(problem, search, list(enumerate(designs, start=len(told))))
        search.tell(batch, designs, outcomes)
        told += [pair for pair in zip(designs, outcomes, strict=True) if pair[1].error is None]
    return told, search


def check(drawn, model, recorded):
    fields = complete(drawn, model, recorded)
    try:
        problem = prepare(parse_study(fields, "s"))
    except InputError:
        return "refused"
    designs = list(problem.space.enumerate())
    if len(designs) > MOST_DESIGNS or (problem.bounds is None and not problem.gridded):
        return "too large"
    able = [
        (one, metrics)
        for one in designs
        if not isinstance(metrics := problem.metrics_many([one])[0], InputError)  # each alone: no grid
    ]
    if not able:
        return "nothing runs"
    limits = []
    for name, share in drawn["limited"]:
        values = sorted(metrics[name] for _, metrics in able)
        op = ">=" if OBJECTIVES[name] == "maximize" else "<="
        limits.append({"name": name, "op": op, "bound": values[int(share * (len(values) - 1))]})
    problem = prepare(parse_study(fields | {"constraints": limits}, "s"))
    kept = [pair for pair in able if all(v <= 0 for v in violations(problem.study.constraints, pair[1]).values())]
    if not kept:
        with pytest.raises(InputError, match="can keep the constraints|nothing"):
            _, search = explored(problem)
            raise InputError(search.why_nothing())
        return "no design keeps the limits"
    front = non_dominated([losses(problem.study.objectives, metrics) for _, metrics in kept])
    expected = {one.key for (one, _), best in zip(kept, front, strict=True) if best}
    told, search = explored(problem)
    good = [
        pair for pair in told if all(v <= 0 for v in violations(problem.study.constraints, pair[1].metrics).values())
    ]
    best = non_dominated([losses(problem.study.objectives, outcome.metrics) for _, outcome in good])
    assert {one.key for (one, _), one_best in zip(good, best, strict=True) if one_best} == expected
    certificate = search.certificate(None)
    assert certificate["complete"] and certificate["kept"] == len(expected)
    assert certificate["simulated"] + sum(certificate["pruned"].values()) == certificate["designs"] == len(designs)
    return "equal"


SUPPRESSED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.mark.slow
@settings(max_examples=4, deadline=None, suppress_health_check=SUPPRESSED, derandomize=True)
@given(studies())
def test_random_spaces_have_the_front_of_brute_force(model, recorded, drawn):
    check(drawn, model, recorded)


@pytest.mark.full
@pytest.mark.timeout(7200)
def test_a_hundred_random_spaces_have_the_front_of_brute_force(model, recorded):
    outcomes: dict[str, int] = {}

    @settings(max_examples=150, deadline=None, suppress_health_check=SUPPRESSED, derandomize=True, database=None)
    @given(studies())
    def run(drawn):
        outcome = check(drawn, model, recorded)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1

    run()
    print(outcomes)
    assert outcomes.get("equal", 0) >= 50
    assert np.sum(list(outcomes.values())) >= 100
