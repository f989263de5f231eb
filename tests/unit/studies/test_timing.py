"""What is timed runs alone, on one thread, and reports what it found."""

import subprocess

import pytest

from studies.common.timing import measured_apart, one_torch_thread, spread

MODULE = """\
import json, os, sys
if sys.argv[1] == "fail":
    sys.exit("no such thing")
print(json.dumps({"given": sys.argv[1:], "threads": os.environ["OMP_NUM_THREADS"], "process": os.getpid()}))
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that only this process's path leads to."""
    (tmp_path / "timed_apart.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    return "timed_apart"


def test_a_module_runs_in_a_process_of_its_own_on_one_thread(module):
    found, again = measured_apart(module, "a", 2), measured_apart(module, "a", 2)
    assert found["given"] == ["a", "2"] and found["threads"] == "1"
    assert found["process"] != again["process"]


def test_a_module_that_fails_says_why(module, capfd):
    with pytest.raises(subprocess.CalledProcessError):
        measured_apart(module, "fail")
    assert capfd.readouterr().err == "no such thing\n"


def test_torch_gets_its_threads_back_also_after_an_error():
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyError), one_torch_thread():
            assert torch.get_num_threads() == 1
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_spread_lies_on_the_values_where_five_of_them_divide_evenly():
    assert spread([4.0, 0.0, 1.0, 5.0, 3.0, 2.0]) == (1.0, 2.5, 4.0)
    assert spread(range(11)) == (2.0, 5.0, 8.0)
