"""A Dask cluster gives what one process gives, also when its workers are killed; batch systems get the right script."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest

from dse.cluster import ClusterConfig, connect, read_cluster, start_jobs
from dse.evaluation import WorkerSpec
from dse.log import LOG_NAME, read_log
from dse.problem import prepare
from explorations import run
from hwsim.trace import BittaperError, InputError
from picklable_npu import FailingNpu, KillingNpu, SlowNpu, closed_form

CONFIG = {
    "scheduler": "lsf",
    "queue": "normal",
    "project": "npu",
    "jobs": 3,
    "cores": 8,
    "memory_gb": 16,
    "walltime_min": 270,
    "job_extra": ["-X a"],
    "prologue": ["source activate"],
    "python": "/opt/python",
}


def wait_for_calls(folder, count=6):
    """Until so many designs were evaluated."""
    while sum(len(path.read_text().split()) for path in folder.glob("calls-*")) < count:
        time.sleep(0.01)


@pytest.mark.slow
def test_a_cluster_gives_the_trials_and_the_front_of_one_process(study, tmp_path):
    expected = run(study(), tmp_path / "expected", closed_form)
    found = run(study(), tmp_path / "found", SlowNpu(tmp_path, 0.005), cluster="local", workers=2)
    pd.testing.assert_frame_equal(found.trials, expected.trials)
    pd.testing.assert_frame_equal(found.pareto, expected.pareto)
    processes = {path.name for path in tmp_path.glob("calls-*")}
    assert processes and f"calls-{os.getpid()}" not in processes


@pytest.mark.slow
def test_a_worker_killed_from_outside_costs_nothing(study, tmp_path):
    expected = run(study(), tmp_path / "expected", closed_form)
    killed = []

    def kill_one():
        while not (workers := list(tmp_path.glob("calls-*"))):
            time.sleep(0.01)
        time.sleep(0.1)
        killed.append(int(workers[0].name.removeprefix("calls-")))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    found = run(study(), tmp_path / "found", SlowNpu(tmp_path, 0.05), cluster="local", workers=2)
    killer.join()
    assert len(killed) == 1
    pd.testing.assert_frame_equal(found.trials, expected.trials)


@pytest.mark.full
def test_a_design_that_always_kills_its_worker_becomes_an_error(study, study_fields, tmp_path):
    macs = {"type": "categorical", "choices": [4096, 8192]}
    config = study(parameters=study_fields["parameters"] | {"matrix.macs": macs}, budget=3)
    found = run(config, tmp_path, KillingNpu(tmp_path, macs=8192, times=99), cluster="local", workers=2)
    wrong = found.trials[found.trials["matrix.macs"] == 8192]
    assert len(found.trials) == 3 and 0 < len(wrong) < 3
    assert set(wrong["error"]) == {"its worker process was ended again and again on the cluster"}


@pytest.mark.slow
def test_what_an_evaluation_raises_reaches_the_caller(study, tmp_path):
    with pytest.raises(ZeroDivisionError, match="a bug in the evaluator"):
        run(study(), tmp_path, FailingNpu(), cluster="local")


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        (
            {},
            [
                "#BSUB -q normal",
                '#BSUB -P "npu"',
                "#BSUB -n 8",
                "#BSUB -M 16000000",
                "#BSUB -W 04:30",
                "#BSUB -X a",
            ],
        ),
        (
            {"scheduler": "slurm"},
            [
                "#SBATCH -p normal",
                "#SBATCH -A npu",
                "#SBATCH --cpus-per-task=8",
                "#SBATCH -t 04:30:00",
                "#SBATCH -X a",
            ],
        ),
        (
            {"scheduler": "sge", "job_extra": ["-pe smp 8"]},
            ["#$ -q normal", "#$ -P npu", "#$ -l h_rt=04:30:00", "#$ -pe smp 8"],
        ),
    ],
)
def test_each_batch_system_gets_its_directives(changes, lines):
    cluster = start_jobs(ClusterConfig.model_validate(CONFIG | changes))
    try:
        script = cluster.job_script().splitlines()
        assert cluster.workers == {}
    finally:
        cluster.close()
    assert [line for line in lines if line not in script] == []
    assert "source activate" in script
    (command,) = (line for line in script if "dask_worker" in line)
    assert command.startswith("/opt/python -m distributed.cli.dask_worker tcp://")
    assert "--nthreads 1" in command and "--nworkers 8" in command


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scheduler: [", "not YAML"),
        ("slurm", "a cluster file is a mapping of fields"),
        (
            "{scheduler: slurm, jobs: 1, memory_gb: 4, wall_time_min: 3}",
            "unknown field in .*; did you mean 'walltime_min'",
        ),
        ("{scheduler: pbs, jobs: 1, memory_gb: 4}", "scheduler = 'pbs': must be 'lsf', 'slurm' or 'sge'"),
        ("{scheduler: slurm, jobs: 0, memory_gb: 4}", "jobs = 0: must be greater than or equal to 1"),
        ("{scheduler: slurm, jobs: 1}", "memory_gb: Field required"),
        ("{scheduler: sge, jobs: 1, memory_gb: 4, cores: 4}", "cores = 4: SGE gives a job one core unless"),
    ],
)
def test_a_wrong_cluster_file_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_cluster(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ("nowhere", "must be local, an address such as tcp://host:8786, or a YAML file"),
        ("missing.yaml", "missing.yaml: no such file"),
        ("tcp://127.0.0.1:1", r"no Dask scheduler answers there \("),
    ],
)
def test_a_cluster_that_is_not_there_is_refused(study, monkeypatch, cluster, message):
    monkeypatch.setattr("dse.cluster.CONNECT_TIMEOUT_S", 0.2)
    spec = WorkerSpec.of(prepare(study(), closed_form), closed_form)
    with pytest.raises(InputError, match=message):
        connect(spec, cluster, 1)


def test_a_batch_system_that_is_not_here_is_refused(study, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "cluster.yaml"
    path.write_text("{scheduler: slurm, jobs: 1, memory_gb: 4}")
    spec = WorkerSpec.of(prepare(study(), closed_form), closed_form)
    with pytest.raises(InputError, match="there is no command 'sbatch' here; run this where jobs are submitted"):
        connect(spec, str(path), 1)


@pytest.mark.full
def test_a_scheduler_that_is_lost_ends_the_run_and_the_record_resumes(study, tmp_path):
    """A cluster by its address, whose scheduler is killed."""
    expected = run(study(), tmp_path / "expected", closed_form)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    options = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", address, "--no-dashboard"]
    scheduler = subprocess.Popen(options, env=environment)
    options = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
    worker = subprocess.Popen([*options, "--death-timeout", "60"], env=environment)
    try:
        killer = threading.Thread(target=lambda: (wait_for_calls(tmp_path), scheduler.kill()))
        killer.start()
        with pytest.raises(BittaperError, match=r"the cluster was lost \(.*the same command goes on from there"):
            run(study(), tmp_path / "found", SlowNpu(tmp_path, 0.1), cluster=address)
        killer.join()
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()
    before = read_log(tmp_path / "found" / LOG_NAME).outcomes
    found = run(study(), tmp_path / "found", closed_form)
    assert before.items() <= read_log(tmp_path / "found" / LOG_NAME).outcomes.items()
    pd.testing.assert_frame_equal(found.trials, expected.trials)


def test_an_evaluator_that_cannot_be_sent_is_refused(study, npu):
    spec = WorkerSpec.of(prepare(study(), npu), lambda design: npu(design) | {})
    with pytest.raises(InputError, match="cannot be pickled"):
        connect(spec, "local", 1)


def test_the_missing_extra_is_named(study, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    spec = WorkerSpec.of(prepare(study(), closed_form), closed_form)
    with pytest.raises(InputError, match=r"needs the package 'dask_jobqueue': pip install 'bittaper\[cluster\]'"):
        connect(spec, "local", 1)
