"""A shared Optuna study, in a journal and in a real PostgreSQL: known designs cost nothing, new ones are shared."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import optuna
import pandas as pd
import pytest

import dse
import dse.storage
from dse.log import LOG_NAME, read_log
from dse.storage import SharedStudy, sync
from explorations import run
from hwsim.trace import BittaperError, InputError
from postgres import REQUIRED, find_program, temporary_server


@pytest.fixture(scope="module")
def server():
    if find_program("initdb") is None and not os.environ.get(REQUIRED):
        pytest.skip("PostgreSQL is not installed")
    # Not below pytest's folder, which only its owner may enter: the server runs as another user.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with temporary_server(Path(folder)) as running:
            yield running


@pytest.fixture(params=["journal", pytest.param("postgresql", marks=pytest.mark.slow)])
def place(request, tmp_path):
    return str(tmp_path / "team.log") if request.param == "journal" else request.getfixturevalue("server").url


@pytest.fixture
def shared(place, request):
    return SharedStudy(place, request.node.name)


@pytest.fixture
def study(study_fields):
    def study(**changes):
        return dse.parse_study(study_fields | {"sampler": "random", "budget": 12} | changes, "study.yaml")

    return study


def load(shared):
    return optuna.load_study(study_name=shared.name, storage=shared.open())


def test_what_one_member_simulated_the_other_takes_over(study, tmp_path, npu, shared):
    first = run(study(), tmp_path / "first", npu, storage=shared)
    assert f"12 trials were added to Optuna study '{shared.name}'" in first.notes[-1]
    assert len(load(shared).trials) == 12
    other = type(npu)()
    second = run(study(seed=4), tmp_path / "second", other, storage=shared)
    assert second.counts.taken_over == 12 and second.counts.evaluated == len(other.calls) == 12
    assert not set(npu.calls) & set(other.calls)
    names = [name for name in first.trials if name not in {"on_front", "number"}]
    pd.testing.assert_frame_equal(second.trials[names].iloc[:12], first.trials[names])
    assert set(second.trials["source"].iloc[:12]) == {f"trial {number} of {shared}" for number in range(12)}
    assert second.trials["source"].iloc[12:].isna().all()
    assert len(load(shared).trials) == 24
    designs = [trial.user_attrs["design"] for trial in load(shared).trials]
    assert len({str(design) for design in designs}) == 24


@pytest.mark.parametrize(
    "sampler",
    ["exact", *(pytest.param(name, marks=pytest.mark.slow) for name in ("exhaustive", "tpe", "nsga2", "nsga3"))],
)
def test_every_sampler_learns_from_what_was_taken_over(study, tmp_path, npu, sampler):
    shared = SharedStudy(str(tmp_path / "team.log"), "team")
    run(study(), tmp_path / "first", npu, storage=shared)
    changes = {"budget": 99} if sampler == "exhaustive" else {"sampler": sampler, "budget": 12}
    other = type(npu)()
    config = study(seed=4, **changes | {"sampler": "auto" if sampler == "exhaustive" else sampler})
    found = run(config, tmp_path / "second", other, storage=shared, bounds=type(npu)())
    assert found.counts.taken_over == 12 and found.sampler == sampler
    assert not set(npu.calls) & set(other.calls)
    assert found.counts.evaluated == (4 * 3 * 7 - 12 if sampler == "exhaustive" else 12) or found.front_is_exact
    resumed = run(config, tmp_path / "second", other, bounds=type(npu)())
    pd.testing.assert_frame_equal(resumed.trials, found.trials)


@pytest.mark.slow
def test_what_was_taken_over_is_in_the_record_and_a_resume_needs_no_storage(study, tmp_path, npu, shared):
    run(study(), tmp_path / "first", npu, storage=shared)
    whole = run(study(seed=4), tmp_path / "whole", type(npu)(), storage=shared)
    again = SharedStudy(shared.place, f"{shared.name} again")
    run(study(), tmp_path / "third", type(npu)(), storage=again)
    stopped = type(npu)()

    def stops(design):
        if len(stopped.calls) == 5:
            raise KeyboardInterrupt
        return stopped(design)

    with pytest.raises(KeyboardInterrupt):
        run(study(seed=4), tmp_path / "stopped", stops, storage=again)
    found = run(study(seed=4), tmp_path / "stopped", stopped)
    assert len(set(stopped.calls)) == len(stopped.calls) == 12
    drop = ["source"]
    pd.testing.assert_frame_equal(found.trials.drop(columns=drop), whole.trials.drop(columns=drop))
    pd.testing.assert_frame_equal(found.pareto.drop(columns=drop), whole.pareto.drop(columns=drop))


@pytest.mark.slow
def test_a_design_that_cannot_run_is_known_too(study, study_fields, tmp_path, npu, shared):
    macs = {"type": "categorical", "choices": [4096, 1 << 20]}
    config = study(parameters=study_fields["parameters"] | {"matrix.macs": macs}, budget=99)
    first = run(config, tmp_path / "first", npu, storage=shared)
    other = type(npu)()
    second = run(config, tmp_path / "second", other, storage=shared)
    assert other.calls == [] and second.counts.taken_over == len(first.trials) == 4 * 7 * 2
    assert second.counts.invalid == first.counts.invalid > 0
    assert set(second.pareto["schedule"]) == set(first.pareto["schedule"])


@pytest.mark.parametrize(
    "changes",
    [
        {"constraints": [{"name": "relative_quality", "op": ">=", "bound": 0.7}]},
        pytest.param({"npu": "pmpd-16k"}, marks=pytest.mark.full),
    ],
)
def test_a_shared_study_about_something_else_is_refused(study, tmp_path, npu, shared, changes):
    run(study(), tmp_path / "first", npu, storage=shared)
    count = len(npu.calls)
    with pytest.raises(InputError, match="is about other models, files, parameters or limits; choose another --stor"):
        run(study(**changes), tmp_path / "second", npu, storage=shared)
    assert len(npu.calls) == count and len(load(shared).trials) == 12


def test_an_optuna_study_of_somebody_else_is_refused(study, tmp_path, npu, shared):
    theirs = optuna.create_study(
        study_name=shared.name, storage=shared.open(), directions=["maximize", "maximize", "minimize"]
    )
    theirs.add_trial(optuna.trial.create_trial(values=[1.0, 2.0, 3.0]))
    with pytest.raises(InputError, match="was not made by bittaper; choose another --storage-study"):
        run(study(), tmp_path, npu, storage=shared)


@pytest.mark.slow
def test_trials_that_hold_no_design_are_left_alone(study, tmp_path, npu, shared):
    run(study(), tmp_path / "first", npu, storage=shared)
    load(shared).add_trial(optuna.trial.create_trial(values=[1.0, 2.0, 3.0]))
    assert run(study(seed=4), tmp_path / "second", npu, storage=shared).counts.taken_over == 12


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"design": {"matrix.macs": 5, "schedule": "p3:3"}, "metrics": {}},
            "trial 0 of .*: its design is not of this space",
        ),
        ({"design": {"schedule": "p9:9"}, "metrics": {}}, "trial 0 of .*: its design is not of this space"),
    ],
)
def test_a_design_outside_the_space_is_refused(study, tmp_path, npu, shared, attributes, message):
    run(study(budget=1), tmp_path / "first", npu, storage=shared)
    other = SharedStudy(shared.place, f"{shared.name} wrong")
    mirror = dse.storage.Mirror(other, study(), read_log(tmp_path / "first" / LOG_NAME).header["meaning"], [])
    mirror.close()
    load(other).add_trial(optuna.trial.create_trial(values=[1.0, 2.0, 3.0], user_attrs=attributes))
    with pytest.raises(InputError, match=message):
        run(study(), tmp_path / "second", npu, storage=other)


@pytest.mark.slow
def test_metrics_that_no_simulation_gives_are_refused(study, tmp_path, npu, shared):
    run(study(budget=1), tmp_path / "first", npu, storage=shared)
    good = load(shared).trials[0]
    other = SharedStudy(shared.place, f"{shared.name} wrong")
    dse.storage.Mirror(other, study(), read_log(tmp_path / "first" / LOG_NAME).header["meaning"], []).close()
    attributes = {"design": good.user_attrs["design"], "metrics": {"area_mm2": 1.0}}
    load(other).add_trial(optuna.trial.create_trial(values=[1.0, 2.0, 3.0], user_attrs=attributes))
    with pytest.raises(InputError, match="trial 0 of .*: not a result of this study .*remove it there, or leave out"):
        run(study(), tmp_path / "second", npu, storage=other)


@pytest.mark.slow
def test_a_database_that_goes_away_costs_no_trial_and_is_caught_up_later(study, tmp_path, npu, server):
    shared = SharedStudy(server.url, "goes away")

    def evaluate(design):
        if len(npu.calls) == 5:
            server.stop()
        return npu(design)

    try:
        found = run(study(), tmp_path, evaluate, storage=shared)
    finally:
        server.start()
    assert found.counts.evaluated == 12 == len(read_log(tmp_path / LOG_NAME).outcomes)
    assert "12 trials are not in Optuna study 'goes away'" in found.notes[-1]
    assert "bittaper explore export" in found.notes[-1] and "--storage-study" in found.notes[-1]
    assert "12 trials were added" in sync(tmp_path, shared)
    assert "0 trials were added" in sync(tmp_path, shared)
    assert len(load(shared).trials) == 12


def test_nobody_at_the_address_is_an_error_before_anything_is_simulated(study, tmp_path, npu):
    shared = SharedStudy("postgresql://me:secret@127.0.0.1:1/team", "x")
    with pytest.raises(InputError, match="cannot be opened") as caught:
        run(study(), tmp_path, npu, storage=shared)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
    assert npu.calls == []
    with pytest.raises(BittaperError):
        sync(tmp_path, shared)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("://", "not a URL; must be like postgresql://"),
        ("nosuchdatabase://host/x", "not a URL; must be like postgresql://"),
        ("oracle://host/x", "needs the package '[a-z_]*' "),
    ],
)
def test_a_place_that_is_no_storage_is_refused(study, tmp_path, npu, place, message):
    with pytest.raises(InputError, match=message):
        run(study(), tmp_path, npu, storage=SharedStudy(place, "x"))


def test_a_file_that_is_no_journal_is_refused_and_left_alone(study, tmp_path, npu):
    path = tmp_path / "notes.txt"
    path.write_text("notes\nof a team\n")
    with pytest.raises(InputError, match="not an Optuna journal"):
        run(study(), tmp_path / "out", npu, storage=SharedStudy(str(path), "x"))
    assert path.read_text() == "notes\nof a team\n"
