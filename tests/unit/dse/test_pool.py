"""Worker processes change no result: not their number, not their order, not their being killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from dse.evaluation import WorkerSpec
from dse.log import LOG_NAME, read_log
from dse.pool import MAX_KILLS, ProcessPool, available_cores
from dse.problem import prepare
from explorations import run
from hwsim.trace import InputError, write_quality
from picklable_npu import FailingNpu, KillingNpu, SlowNpu, closed_form


def calls(folder):
    """The designs that each process evaluated."""
    return {path.name: path.read_text().split() for path in folder.glob("calls-*")}


def assert_same(found, expected):
    pd.testing.assert_frame_equal(found.trials, expected.trials)
    pd.testing.assert_frame_equal(found.pareto, expected.pareto)
    pd.testing.assert_frame_equal(found.hypervolume, expected.hypervolume)
    assert found.counts == expected.counts


def processes_of(session):
    """Processes of a session that are still there, zombies aside."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z" and int(fields[3]) == session:
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize(
    "sampler", ["random", pytest.param("nsga2", marks=pytest.mark.full), pytest.param("tpe", marks=pytest.mark.full)]
)
def test_the_number_of_workers_changes_nothing(study, tmp_path, sampler):
    config = study(sampler=sampler, batch_size=20)
    alone = run(config, tmp_path / "alone", closed_form)
    slow = SlowNpu(tmp_path, 0.002, processes=2)
    several = run(config, tmp_path / "several", slow, workers=3)
    assert_same(several, alone)
    designs = [key for keys in calls(tmp_path).values() for key in keys]
    assert len(designs) == len(set(designs)) == 40
    assert f"calls-{os.getpid()}" not in calls(tmp_path)
    assert len(calls(tmp_path)) >= 2


@pytest.mark.slow
def test_a_design_that_kills_its_worker_once_is_done_again(study, tmp_path):
    expected = run(study(), tmp_path / "expected", closed_form)
    found = run(study(), tmp_path / "found", KillingNpu(tmp_path, macs=8192, times=1), workers=2)
    assert len(list(tmp_path.glob("killed-*"))) == (expected.trials["matrix.macs"] == 8192).sum() > 0
    assert_same(found, expected)


@pytest.mark.slow
def test_a_design_that_always_kills_its_worker_becomes_an_error(study, study_fields, tmp_path):
    macs = {"type": "categorical", "choices": [4096, 8192]}
    config = study(parameters=study_fields["parameters"] | {"matrix.macs": macs}, budget=6)
    found = run(config, tmp_path, KillingNpu(tmp_path, macs=8192, times=99), workers=2)
    wrong = found.trials[found.trials["matrix.macs"] == 8192]
    assert len(found.trials) == 6 and 0 < len(wrong) < 6
    assert set(wrong["error"]) == {f"its worker process was ended {MAX_KILLS} times, the last time by SIGKILL"}
    assert found.trials[found.trials["matrix.macs"] == 4096]["error"].isna().all()


def test_an_evaluator_that_cannot_be_sent_runs_here(study, tmp_path, npu):
    def closure(design):
        return npu(design)

    assert len(run(study(), tmp_path, closure, workers=2).trials) == len(npu.calls) == 40


@pytest.mark.slow
def test_what_an_evaluation_raises_reaches_the_caller_with_its_traceback(study, tmp_path):
    with pytest.raises(ZeroDivisionError, match="a bug in the evaluator") as caught:
        run(study(), tmp_path, FailingNpu(), workers=2)
    assert "picklable_npu.py" in "".join(caught.value.__notes__)


@pytest.mark.slow
def test_a_missing_metric_is_refused_from_a_worker_too(study, tmp_path):
    with pytest.raises(InputError, match="objective 'e2e_s': the evaluator computes only"):
        run(study(objectives=[{"name": "e2e_s", "direction": "minimize"}]), tmp_path, closed_form, workers=2)


@pytest.mark.slow
def test_a_worker_that_reads_other_files_is_refused(study, tmp_path, quality_path, make_quality, schedules):
    problem = prepare(study(), closed_form)
    spec = WorkerSpec.of(problem, closed_form).pickled()
    write_quality(quality_path, [make_quality(schedule, n=99) for schedule in schedules])
    pool = ProcessPool(spec, 1)
    try:
        with pytest.raises(InputError, match="reads other files than the coordinator"):
            list(pool.evaluate([(0, next(problem.space.enumerate()))]))
    finally:
        pool.close()


@pytest.mark.slow
def test_workers_that_cannot_start_are_not_started_for_ever(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "import dse, sys\n"
        "from picklable_npu import closed_form\n"
        "study = dse.read_study(sys.argv[1])\n"
        "dse.explore(study, sys.argv[2], evaluate=closed_form, progress=False, workers=2)\n"
    )
    (tmp_path / "study.yaml").write_text(
        yaml.safe_dump(
            {
                "workloads": [{"model": "vicuna-7b", "prompt_tokens": 50, "decode_tokens": 60}],
                "npu": "pmpd-4k",
                "schedules": ["p4:4", "p4:3"],
                "objectives": [{"name": "area_mm2", "direction": "minimize"}],
            }
        )
    )
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "study.yaml"), str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert "worker processes end before they can work (exit code 1); if this runs from a script" in done.stderr


def test_workers_are_as_many_as_cores_this_process_may_use():
    assert available_cores() == len(os.sched_getaffinity(0))


@pytest.mark.slow
def test_workers_use_one_thread_for_linear_algebra_and_leave_this_process_alone(study, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    problem = prepare(study(), closed_form)
    pool = ProcessPool(WorkerSpec.of(problem, SlowNpu(tmp_path, 0.01)).pickled(), 1)
    try:
        list(pool.evaluate([(0, next(problem.space.enumerate()))]))
        (pid,) = (path.name.removeprefix("calls-") for path in tmp_path.glob("calls-*"))
        environment = dict(
            item.split("=", 1) for item in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in item
        )
        assert (environment["OMP_NUM_THREADS"], environment["MKL_NUM_THREADS"]) == ("1", "7")
        assert "OMP_NUM_THREADS" not in os.environ
        os.kill(int(pid), signal.SIGINT)  # Ctrl-C reaches workers too; only the coordinator acts on it
        assert len(list(pool.evaluate([(1, next(problem.space.enumerate()))]))) == 1
    finally:
        pool.close()
    assert not Path(f"/proc/{pid}").exists()


COORDINATOR = """
import sys
from pathlib import Path
import dse
from picklable_npu import SlowNpu

if __name__ == "__main__":
    evaluate = SlowNpu(Path(sys.argv[3]), float(sys.argv[4]))
    dse.explore(dse.read_study(sys.argv[1]), sys.argv[2], evaluate=evaluate, progress=False, workers=2)
"""


@pytest.fixture
def coordinator(study_fields, tmp_path):
    """Start an exploration with two workers in a session of its own."""
    (tmp_path / "study.yaml").write_text(
        yaml.safe_dump(study_fields | {"sampler": "random", "budget": 60}, sort_keys=False)
    )
    script = tmp_path / "coordinator.py"
    script.write_text(COORDINATOR)
    started = []

    def coordinator(seconds):
        command = [sys.executable, str(script), str(tmp_path / "study.yaml"), str(tmp_path / "out"), str(tmp_path)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        started.append(
            subprocess.Popen([*command, str(seconds)], env=environment, start_new_session=True, preexec_fn=hear_ctrl_c)  # noqa: PLW1509
        )
        return started[-1]

    yield coordinator
    for process in started:
        process.kill()
        process.wait()


def hear_ctrl_c():
    """What a shell starts in the background, these tests perhaps, has Ctrl-C ignored, and its children with it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_until(true, limit_s=60):
    end_s = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def outcomes(folder):
    log = folder / LOG_NAME
    return dict(read_log(log).outcomes) if log.exists() and b"\n" in log.read_bytes() else {}


@pytest.mark.slow
def test_workers_end_with_a_coordinator_that_is_killed(coordinator, study, tmp_path):
    process = coordinator(0.05)
    wait_until(lambda: len(outcomes(tmp_path / "out")) >= 4)
    assert len(processes_of(process.pid)) >= 3
    process.kill()
    process.wait()
    wait_until(lambda: not processes_of(process.pid), limit_s=10)
    before = outcomes(tmp_path / "out")
    found = run(study(budget=60), tmp_path / "out", closed_form)
    assert before.items() <= outcomes(tmp_path / "out").items()
    assert_same(found, run(study(budget=60), tmp_path / "whole", closed_form))


@pytest.mark.slow
def test_ctrl_c_ends_all_workers_and_leaves_a_record_that_resumes(coordinator, study, tmp_path):
    process = coordinator(0.05)
    wait_until(lambda: len(outcomes(tmp_path / "out")) >= 4)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(20) != 0
    wait_until(lambda: not processes_of(process.pid), limit_s=10)
    found, whole = (run(study(budget=60), tmp_path / name, closed_form) for name in ("out", "whole"))
    assert_same(found, whole)


def test_the_number_of_workers_must_be_positive(study, tmp_path):
    with pytest.raises(InputError, match="workers = 0: must be >= 1"):
        run(study(), tmp_path, closed_form, workers=0)
