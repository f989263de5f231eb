"""Runs on Dask workers give what one process gives."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch

from accuracy.evaluation import evaluate
from accuracy.evaluation.workers import ModelSource, decode_jobs
from accuracy.model import load_model
from accuracy.quantization import NestedSettings, load_store, quantize
from accuracy.reference import MODEL_FOLDER
from accuracy.schedulers import ConfidenceScheduler, RandomUniformScheduler
from accuracy.tasks import ShippedTask
from hwsim.trace import InputError, Schedule

from .conftest import FakeSwitch, tiny_llama
from .test_evaluation_kill import files

SCHEDULERS = [
    Schedule.uniform(4),
    Schedule.from_pairs(4, [(0, 4), (5, 3)]),
    RandomUniformScheduler([4, 3]),
    ConfidenceScheduler([4, 3], [0.9]),
]


def run(lm, out, schedulers=SCHEDULERS, **options):
    task = ShippedTask()
    task.max_new_tokens = 12
    options = {"split": "val", "limit": 12, "batch_size": 2, "metrics": ["bleu"], "progress": False, **options}
    return evaluate(lm, task, schedulers, out=out, **options)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "shipped"
    quantize(MODEL_FOLDER, folder, NestedSettings(2, 4), progress=False)
    return load_store(folder)


@pytest.fixture(scope="module")
def alone(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    run(store, out)
    torch.set_num_threads(before)
    return out


def results(folder):
    """What a run ends with; its responses are kept in the order in which they came."""
    found = files(folder)
    found["responses.jsonl"] = sorted(found["responses.jsonl"], key=lambda line: line["key"])
    return found


@pytest.mark.slow
def test_workers_give_the_files_of_one_process_even_when_one_is_killed(store, alone, tmp_path):
    from distributed import Client, LocalCluster

    torch.set_num_threads(1)
    cluster = LocalCluster(2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, memory_limit=0)
    with cluster, Client(cluster) as client:
        first = min(client.run(os.getpid).values())
        path = tmp_path / "killed" / "responses.jsonl"

        def kill() -> None:
            while not path.exists() or not path.stat().st_size:
                time.sleep(0.005)
            os.kill(first, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        run(store, tmp_path / "killed", workers=cluster.scheduler_address)
        killer.join()
        assert first not in client.run(os.getpid).values()
        assert results(tmp_path / "killed") == results(alone)
        # A single batch, so that the two share its schedulers out.
        few = {"limit": 4, "batch_size": 4}
        run(store, tmp_path / "spread", workers=cluster.scheduler_address, **few)
    run(store, tmp_path / "together", **few)
    assert results(tmp_path / "spread") == results(tmp_path / "together")


@pytest.mark.slow
def test_a_number_of_workers_starts_as_many_processes_and_stops_them(store, alone, tmp_path):
    before = set(multiprocessing.active_children())
    run(store, tmp_path, workers=2)
    assert set(multiprocessing.active_children()) == before
    assert results(tmp_path) == results(alone)


def test_a_worker_with_other_weights_or_another_arithmetic_is_refused():
    lm = load_model(MODEL_FOLDER)
    source = ModelSource.of(lm, threads=1)
    assert decode_jobs(source, []) == []
    with pytest.raises(InputError, match="holds other weights on a worker"):
        decode_jobs(replace(source, hashes=("another", None)), [])
    other = tuple((key, "2.0" if key == "torch" else value) for key, value in source.arithmetic)
    with pytest.raises(
        InputError, match=rf"torch = {torch.__version__.split('+')[0]}.* on a worker, 2.0 where the run"
    ):
        decode_jobs(replace(source, arithmetic=other), [])


def test_workers_that_cannot_be_are_refused_before_the_folder_exists(tmp_path, monkeypatch):
    out = tmp_path / "out"
    shipped, tiny = load_model(MODEL_FOLDER), tiny_llama()
    schedules = [Schedule.uniform(16)]
    with pytest.raises(InputError, match="workers: model 'tiny' was never saved"):
        run(replace(tiny, tokenizer=shipped.tokenizer), out, schedules, workers=2, limit=1)
    with pytest.raises(InputError, match="workers = 0: must be >= 1"):
        run(shipped, out, schedules, workers=0, limit=1)
    with pytest.raises(InputError, match="a switch cannot be sent"):
        run(shipped, out, schedules, workers=2, limit=1, switch=FakeSwitch(shipped.model))
    monkeypatch.setattr("accuracy.evaluation.workers.CONNECT_TIMEOUT_S", 1)
    with pytest.raises(InputError, match="workers = tcp://127.0.0.1:9: no Dask scheduler answers there"):
        run(shipped, out, schedules, workers="tcp://127.0.0.1:9", limit=1)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"needs the package 'distributed': pip install 'bittaper\[cluster\]'"):
        run(shipped, out, schedules, workers=2, limit=1)
    assert not out.exists()
