"""Every design is simulated once, the same seed gives the same trials, and a stopped run goes on as if it had not."""

from __future__ import annotations

import json
import os

import numpy as np
import pandas as pd
import pytest

import dse
import dse.runner
from dse.log import LOG_NAME, read_log
from dse.samplers import MAX_ENUMERATED, choose_sampler
from explorations import run
from hwsim.trace import InputError, write_quality


@pytest.fixture
def study(study_fields):
    def study(**changes):
        return dse.parse_study(study_fields | changes, "study.yaml")

    return study


class StopError(Exception):
    """Ends a run from inside the evaluator, as a crash would."""


def stopping(npu, after, error=StopError):
    def evaluate(design):
        if len(npu.calls) >= after:
            raise error
        return npu(design)

    return evaluate


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_no_design_is_simulated_twice(study, tmp_path, npu, sampler):
    found = run(study(sampler=sampler), tmp_path, npu)
    assert len(npu.calls) == len(set(npu.calls)) == found.counts.evaluated == 30


@pytest.mark.parametrize("sampler", ["auto", "random", "nsga2"])
def test_an_exhausted_space_stops_the_run(study, tmp_path, npu, sampler):
    found = run(study(sampler=sampler, budget=500), tmp_path, npu)
    # 4 bandwidths x 3 MAC counts x the 7 of 12 schedules that keep the limit on quality.
    assert len(npu.calls) == len(set(npu.calls)) == len(found.trials) == 4 * 3 * 7
    assert found.exhausted
    assert found.counts.excluded_schedules == 5


def test_every_sampler_finds_the_same_front_once_it_saw_everything(study, tmp_path, npu):
    fronts = [
        run(study(sampler=sampler, budget=500), tmp_path / sampler, npu).pareto[["schedule", "matrix.macs"]]
        for sampler in ("auto", "random", "nsga2")
    ]
    assert all(len(front) == len(fronts[0]) for front in fronts)
    assert len({frozenset(map(tuple, front.to_numpy())) for front in fronts}) == 1


def test_auto_is_exhaustive_where_the_budget_covers_the_space(study, tmp_path, npu):
    assert run(study(budget=84), tmp_path / "a", npu).sampler == "exhaustive"
    chosen = [
        choose_sampler("auto", size, budget, bounded=bounded)
        for size, budget, bounded in (
            (84, 83, False),
            (84, 83, True),
            (MAX_ENUMERATED + 1, 83, True),
            (None, 1000, True),
            (None, 1001, True),
        )
    ]
    assert chosen == ["tpe", "exact", "tpe", "tpe", "nsga2"]


@pytest.mark.parametrize(("sampler", "batch_size"), [("random", 1), ("nsga2", 1), ("nsga2", 4), ("tpe", 1), ("tpe", 4)])
def test_a_run_stopped_at_any_trial_goes_on_to_the_same_trials(study, tmp_path, npu, sampler, batch_size):
    config = study(sampler=sampler, batch_size=batch_size, budget=22)
    whole = run(config, tmp_path / "whole", npu)
    for after in (0, 13, 21):
        out = tmp_path / f"stopped-{after}"
        interrupted = type(npu)()
        with pytest.raises(StopError):
            run(config, out, stopping(interrupted, after))
        resumed = run(config, out, interrupted)
        assert len(interrupted.calls) == len(set(interrupted.calls)) == 22
        pd.testing.assert_frame_equal(resumed.trials, whole.trials)
        pd.testing.assert_frame_equal(resumed.pareto, whole.pareto)
        assert resumed.counts == whole.counts


def same_record(first, second):
    """Whether two logs hold the same, whatever the order in which trials were completed."""
    one, other = read_log(first), read_log(second)
    header = {key: value for key, value in one.header.items() if key != "provenance"}
    return (
        header == {key: value for key, value in other.header.items() if key != "provenance"}
        and one.batches == other.batches
        and one.outcomes == other.outcomes
    )


@pytest.mark.parametrize(
    ("sampler", "step"), [("nsga2", 293), pytest.param("random", 1, marks=pytest.mark.full)], ids=["some", "every"]
)
def test_a_log_cut_at_any_byte_resumes_to_the_same_record(study, tmp_path, npu, monkeypatch, sampler, step):
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # thousands of files: the disk would take minutes

    def no_tables(*_):
        raise StopError  # the record is what counts here; the tables would take most of the time

    monkeypatch.setattr(dse.runner, "build_exploration", no_tables)
    config = study(sampler=sampler, batch_size=3, budget=7)
    whole, log = tmp_path / "whole.jsonl", tmp_path / "out" / LOG_NAME

    def resume():
        with pytest.raises(StopError):
            run(config, tmp_path / "out", npu)

    resume()
    content = log.read_bytes()
    whole.write_bytes(content)
    # Cuts in the header are all alike: the run begins anew (and test_log cuts there at every byte).
    begin = content.index(b"\n") - 2
    for size in [0, 1, 500, *range(begin, len(content), step)]:
        log.write_bytes(content[:size])
        resume()
        assert same_record(log, whole)


def test_a_run_in_many_pieces_with_a_continuous_parameter_is_the_same(study, study_fields, tmp_path, npu):
    parameters = study_fields["parameters"] | {
        "memory.bandwidth_bytes_per_s": {"type": "log", "low": "16e9", "high": "128e9"},
        "matrix.macs": {"type": "float", "low": 4096, "high": 16384, "step": 0.1},
    }
    config = study(parameters=parameters, sampler="tpe", budget=25)
    whole = run(config, tmp_path / "whole", npu)
    pieces = type(npu)()
    for after in (5, 11, 12, 20):
        with pytest.raises(StopError):
            run(config, tmp_path / "pieces", stopping(pieces, after))
    pd.testing.assert_frame_equal(run(config, tmp_path / "pieces", pieces).trials, whole.trials)


def test_same_seed_same_trials_other_seed_others(study, tmp_path, npu):
    first, again, other = (
        run(study(sampler="tpe", seed=seed, budget=16), tmp_path / name, npu).trials
        for name, seed in (("a", 7), ("b", 7), ("c", 8))
    )
    pd.testing.assert_frame_equal(first, again)
    assert not first["schedule"].equals(other["schedule"])


def test_a_larger_budget_continues_a_finished_study(study, tmp_path, npu):
    first = run(study(budget=12), tmp_path, npu)
    more = run(study(budget=20), tmp_path, npu)
    assert len(npu.calls) == len(set(npu.calls)) == 20
    pd.testing.assert_frame_equal(more.trials.iloc[:12][["number", "schedule"]], first.trials[["number", "schedule"]])


def test_a_finished_study_is_read_back_without_simulating(study, tmp_path, npu):
    found = run(study(), tmp_path, npu)
    again = run(study(), tmp_path, stopping(npu, 0))
    pd.testing.assert_frame_equal(again.trials, found.trials)
    pd.testing.assert_frame_equal(dse.load_exploration(tmp_path).trials, found.trials)


def test_renaming_a_study_or_moving_its_quality_file_keeps_the_record(study, tmp_path, npu, quality_path):
    run(study(), tmp_path / "out", npu)
    moved = quality_path.rename(tmp_path / "moved.json")
    run(study(name="other", quality=[str(moved)]), tmp_path / "out", stopping(npu, 0))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"seed": 4}, "seed"),
        ({"sampler": "random"}, "sampler"),
        ({"constraints": [{"name": "relative_quality", "op": ">=", "bound": 0.81}]}, "constraints"),
        ({"npu": "pmpd-16k"}, "npu"),
    ],
)
def test_a_record_of_another_study_is_refused_and_kept(study, tmp_path, npu, changes, field):
    run(study(), tmp_path, npu)
    before = (tmp_path / LOG_NAME).read_bytes()
    with pytest.raises(InputError, match=rf"was written by another study \({field}"):
        run(study(**changes), tmp_path, npu)
    assert (tmp_path / LOG_NAME).read_bytes() == before


def test_a_record_with_parameters_in_another_order_is_refused(study, study_fields, tmp_path, npu):
    run(study(budget=2), tmp_path, npu)
    reversed_order = dict(reversed(study_fields["parameters"].items()))
    with pytest.raises(InputError, match=r"another study \(parameters are in another order, which samplers follow\)"):
        run(study(budget=2, parameters=reversed_order), tmp_path, npu)


def test_every_difference_to_another_study_is_named_up_to_three(study, tmp_path, npu):
    run(study(), tmp_path, npu)
    limits = [{"name": "relative_quality", "op": ">=", "bound": 0.81}]
    with pytest.raises(InputError, match=r"\(constraints\.0\.bound = 0\.8, here 0\.81; seed = 3, here 4\); choose"):
        run(study(seed=4, constraints=limits), tmp_path, npu)
    with pytest.raises(InputError, match=r"here 0\.81; engine = .*; npu = .* and 1 more\); choose"):
        run(study(seed=4, constraints=limits, npu="pmpd-16k", engine="events"), tmp_path, npu)


def test_other_quality_numbers_are_another_study(study, tmp_path, npu, make_quality, schedules, quality_path):
    run(study(), tmp_path / "out", npu)
    write_quality(quality_path, [make_quality(schedule, n=99) for schedule in schedules])
    with pytest.raises(InputError, match="another study \\(quality"):
        run(study(), tmp_path / "out", npu)


def test_ctrl_c_leaves_a_record_that_resumes(study, tmp_path, npu):
    with pytest.raises(KeyboardInterrupt):
        run(study(), tmp_path, stopping(npu, 9, KeyboardInterrupt))
    assert len(dse.load_exploration(tmp_path).trials) == 9
    assert len(run(study(), tmp_path, npu).trials) == 30
    assert len(set(npu.calls)) == len(npu.calls) == 30


def test_a_design_that_cannot_run_is_reported_and_costs_no_front(study, study_fields, tmp_path, npu):
    macs = {"type": "categorical", "choices": [4096, 1 << 20]}
    found = run(study(parameters=study_fields["parameters"] | {"matrix.macs": macs}, budget=99), tmp_path, npu)
    assert found.counts.invalid == found.counts.evaluated == 4 * 7
    assert set(found.trials["error"].dropna()) == {"matrix.macs = 1048576: too many"}
    assert (found.pareto["matrix.macs"] == 4096).all()


def test_a_study_whose_every_design_fails_says_why(study, study_fields, tmp_path, npu):
    macs = {"type": "categorical", "choices": [1 << 20]}
    with pytest.raises(InputError, match=r"no design can run; trial 0: matrix\.macs = 1048576: too many"):
        run(study(parameters={"matrix.macs": macs}), tmp_path, npu)


def test_an_evaluator_that_gives_no_number_makes_the_design_invalid(study, tmp_path, npu):
    def evaluate(design):
        metrics = npu(design)
        return metrics | {"area_mm2": np.inf} if design.npu["matrix.macs"] == 4096 else metrics

    found = run(study(budget=99), tmp_path, evaluate)
    assert found.counts.invalid == 4 * 7
    assert "area_mm2 = inf: not a finite number" in set(found.trials["error"])


def test_an_objective_the_evaluator_does_not_give_is_refused(study, tmp_path, npu):
    with pytest.raises(InputError, match="objective 'e2e_s': the evaluator computes only area_mm2, bandwidth"):
        run(study(objectives=[{"name": "e2e_s", "direction": "minimize"}]), tmp_path, npu)


def test_quality_without_a_quality_file_is_refused(study, tmp_path, npu):
    with pytest.raises(InputError, match="objective 'relative_quality': the study names no quality file"):
        run(study(quality=[], schedules=["p4:4"]), tmp_path, npu)


def test_a_schedule_nobody_measured_is_refused(study, tmp_path, npu):
    with pytest.raises(InputError, match="schedules: no quality file measured p4:4>2@33"):
        run(study(schedules=["p4:4", "p4:4>2@33"]), tmp_path, npu)


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (
            {"name": "relative_quality", "op": ">=", "bound": 1.5},
            r"constraint relative_quality >= 1\.5: no measured schedule keeps it; the best, p16:16, has 1, 0\.5 off",
        ),
        (
            {"name": "bandwidth_bytes_per_s", "op": "<=", "bound": 10, "unit": "GB/s"},
            r"constraints\.0: bandwidth_bytes_per_s <= 10 GB/s: parameter .* reaches 1\.6e\+10 at best, 6e\+09 off",
        ),
        (
            {"name": "matrix.macs", "op": ">=", "bound": 20000},
            r"constraints\.0: matrix\.macs >= 20000: parameter matrix\.macs reaches 16384 at best, 3616 off",
        ),
    ],
)
def test_a_limit_no_design_can_keep_is_refused_before_simulating(study, tmp_path, npu, constraint, message):
    with pytest.raises(InputError, match=message):
        run(study(constraints=[constraint]), tmp_path, npu)
    assert npu.calls == []


def test_a_limit_no_simulated_design_keeps_says_how_far_off(study, tmp_path, npu):
    limits = [{"name": "decode_tokens_per_s", "op": ">=", "bound": 1000}, {"name": "area_mm2", "op": "<=", "bound": 9}]
    message = (
        r"no design of 144 keeps the constraints: decode_tokens_per_s >= 1000 binds: the best of any design is 512 "
        r"\(trial \d+\), 488 \(48\.8%\) off"
    )
    with pytest.raises(InputError, match=message):
        run(study(constraints=limits, budget=500), tmp_path, npu)
    assert len(pd.read_csv(tmp_path / "trials.csv")) == 144


def test_the_front_and_the_limits_are_right(study, tmp_path, npu):
    limits = [{"name": "area_mm2", "op": "<=", "bound": 9}, {"name": "decode_tokens_per_s", "op": ">=", "bound": 20}]
    found = run(study(constraints=limits, budget=500), tmp_path, npu)
    trials = found.trials
    keeps = (trials["area_mm2"] <= 9) & (trials["decode_tokens_per_s"] >= 20)
    assert trials["feasible"].equals(keeps)
    assert found.counts.infeasible == int((~keeps).sum()) > 0
    rows = trials[keeps]
    values = np.column_stack([-rows["decode_tokens_per_s"], -rows["relative_quality"], rows["bandwidth_bytes_per_s"]])
    on_front = [not any((q <= p).all() and (q < p).any() for q in values) for p in values]
    assert set(found.pareto["number"]) == set(rows["number"][on_front])
    assert found.pareto["decode_tokens_per_s"].is_monotonic_decreasing


def test_tables_are_written_with_units_in_their_names(study, tmp_path, npu):
    found = run(
        study(reference_point={"decode_tokens_per_s": 0, "relative_quality": 0.5, "bandwidth_bytes_per_s": 2e11}),
        tmp_path,
        npu,
    )
    trials, pareto = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("trials", "pareto"))
    assert len(trials) == 30 and len(pareto) == len(found.pareto) == int(trials["on_front"].sum())
    assert {
        "decode_tokens_per_s",
        "area_mm2",
        "memory.bandwidth_bytes_per_s",
        "relative_quality_ci_low",
        "mode",
        "model",
    } <= {*trials}
    history = pd.read_csv(tmp_path / "hypervolume.csv")["hypervolume"]
    assert history.is_monotonic_increasing and history.iloc[-1] > 0
    assert found.reference_point["bandwidth_bytes_per_s"] == 2e11


def test_starting_designs_bracket_the_hardware(study, tmp_path, npu):
    first = run(study(sampler="tpe"), tmp_path, npu).trials.iloc[:4]
    assert set(zip(first["memory.bandwidth_bytes_per_s"], first["matrix.macs"], first["schedule"], strict=True)) == {
        (bandwidth, macs, schedule)
        for bandwidth, macs in ((16_000_000_000, 4096), (128_000_000_000, 16384))
        for schedule in ("p3:3", "p16:16")
    }


def test_the_record_holds_designs_in_their_own_terms(study, tmp_path, npu):
    run(study(budget=1), tmp_path, npu)
    lines = [json.loads(line) for line in (tmp_path / LOG_NAME).read_text().splitlines()]
    assert lines[1]["designs"] == [
        {"matrix.macs": 4096, "memory.bandwidth_bytes_per_s": 16_000_000_000, "schedule": "p3:3"}
    ]
    assert lines[2]["metrics"]["bandwidth_bytes_per_s"] == 16e9
