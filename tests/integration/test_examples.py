"""The worked examples of the documentation do what their pages say."""

import importlib.util
import os
import shutil
import subprocess
import sys

import pytest

from documents import REPOSITORY
from hwsim.trace import InputError
from registries import registrations_taken_back

EXAMPLES = REPOSITORY / "docs" / "examples"


pytestmark = pytest.mark.slow


@pytest.fixture
def example():
    """Import an example as its page tells a reader to; what it registers is taken back."""

    def load(name):
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    with registrations_taken_back():
        yield load


def test_the_streak_scheduler_lowers_the_width_once_and_for_good(example):
    torch = pytest.importorskip("torch")
    scheduler = example("streak_scheduler").StreakScheduler(high=4, low=3, threshold=0.9, run=2)
    sure, unsure = torch.tensor([9.0, 0.0, 0.0]), torch.zeros(3)
    scheduler.plan(None)
    asked = [scheduler.next_bits(step, logits, None) for step, logits in enumerate([sure, unsure, sure, sure, unsure])]
    assert asked == [4, 4, 4, 3, 3]
    scheduler.plan(None)
    assert scheduler.next_bits(0, sure, None) == 4, "the next response begins anew"
    assert scheduler.widths() == {4, 3}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"high": 3, "low": 3}, "low = 3: must be below high = 3"),
        ({"high": 4, "low": 3, "threshold": 2}, "threshold = 2: must be 0..1"),
        ({"high": 4, "low": 3, "run": 0}, "run = 0: must be >= 1"),
    ],
)
def test_the_streak_scheduler_refuses_bad_options(example, options, said):
    with pytest.raises(InputError, match=said):
        example("streak_scheduler").StreakScheduler(**options)


def test_the_long_task_keeps_the_splits_and_only_long_references(example):
    from accuracy.tasks import ShippedTask

    module = example("long_task")
    task = module.LongTask(least_words=40)
    long, every = task.examples("val", 20), ShippedTask().examples("val", 60)
    assert all(len(one.reference.split()) >= 40 for one in long)
    assert [one for one in every if len(one.reference.split()) >= 40][:5] == long[:5]
    assert task.version != ShippedTask().version
    with pytest.raises(InputError, match="least_words = 0: must be >= 1"):
        module.LongTask(least_words=0)


def test_the_decompressor_fits_the_simulator_and_keeps_its_rules(tmp_path):
    shutil.copytree(REPOSITORY / "hwsim", tmp_path / "hwsim", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "apply", EXAMPLES / "decompressor.patch"], check=True, cwd=tmp_path)
    assert "class Decompressor" in (tmp_path / "hwsim" / "config.py").read_text(encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    check = [sys.executable, EXAMPLES / "check_decompressor.py"]
    done = subprocess.run(check, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "times as fast" in done.stdout
