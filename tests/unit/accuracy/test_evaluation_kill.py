"""A real process, killed again and again, ends with the files of one that was left alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time

import pytest

from accuracy.decoding import Decoder, Sampling
from accuracy.evaluation import evaluate
from accuracy.schedulers import ConfidenceScheduler, RandomUniformScheduler
from hwsim.trace import InputError, Schedule

from .conftest import FakeSwitch, tiny_llama
from .test_evaluation_turns import Interview

KILLS = 4


def run(out, **options):
    lm = tiny_llama()
    schedulers = [Schedule.uniform(4), RandomUniformScheduler([4, 2]), ConfidenceScheduler([4, 2], [0.5])]
    options = {"sampling": Sampling(1.2, seed=5), "seed": 0, **options}
    evaluate(
        lm, Interview(), schedulers, split="test", out=out, batch_size=2, progress=False, switch=FakeSwitch(lm.model),
        **options,
    )  # fmt: skip


def run_slowly(out):
    decode = Decoder.decode_batch

    def slow(self, *args, **options):
        time.sleep(0.05)
        return decode(self, *args, **options)

    Decoder.decode_batch = slow
    run(out)


def files(folder):
    """Everything a run wrote, but for when it was written, by which commit, and in how many seconds."""
    found = {}
    for path in sorted(folder.iterdir()):
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        records = [json.loads(line) for line in lines]
        for record in records:
            for changing in ("created_utc", "commit"):
                record.get("provenance", {}).pop(changing, None)
            record.pop("seconds", None)
            # A step scheduler's prompts run alone, and so are timed.
            record.pop("prefill_ns", None)
            record.pop("step_ns", None)
        found[path.name] = records
    return found


def killed_run(out, kept: int) -> int:
    """Start a run and kill it once it has added to the ``kept`` bytes of responses; returns how many are there now."""
    process = multiprocessing.get_context("fork").Process(target=run_slowly, args=(out,))
    process.start()
    path = out / "responses.jsonl"
    deadline = time.monotonic() + 60
    while process.is_alive() and time.monotonic() < deadline:
        if path.exists() and path.stat().st_size > kept:
            break
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    return path.stat().st_size


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_files(tmp_path):
    kept = 0
    for _ in range(KILLS):
        more = killed_run(tmp_path / "killed", kept)
        assert more > kept
        kept = more
        assert not (tmp_path / "killed" / "quality.json").exists()
    with pytest.raises(InputError, match="holds a run with decoding = sampled: temperature 1.2, seed 5, now greedy;"):
        run(tmp_path / "killed", sampling=None)
    with pytest.raises(InputError, match="holds a run with seed = 0, now 1;"):
        run(tmp_path / "killed", seed=1)
    assert (tmp_path / "killed" / "responses.jsonl").stat().st_size == kept
    run(tmp_path / "killed")
    run(tmp_path / "whole")
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
