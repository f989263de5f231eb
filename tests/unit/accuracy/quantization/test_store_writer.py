from __future__ import annotations

import multiprocessing
import threading
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from accuracy.quantization.store_writer import new_folder, partial_folder, save_tensors
from hwsim.trace import InputError


def test_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def write_half() -> None:
        with new_folder(tmp_path / "store") as folder:
            (folder / "half").write_text("x")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("accuracy.quantization.store_writer.save_file", full)
    with pytest.raises(InputError, match="weights cannot be written .*No space left on device"):
        save_tensors({"t": torch.zeros(3)}, tmp_path / "store" / "part")


def _write_for_a_minute(out: Path, started: Event) -> None:
    with partial_folder(out) as folder:
        (folder / "block").write_bytes(b"whole")
        started.set()
        time.sleep(60)


def test_only_one_process_writes_and_a_killed_ones_work_waits_for_the_next(tmp_path: Path) -> None:
    out = tmp_path / "store"
    fork = multiprocessing.get_context("fork")
    started = fork.Event()
    process = fork.Process(target=_write_for_a_minute, args=(out, started))
    process.start()
    assert started.wait(30)
    for begin in (partial_folder, new_folder):
        with pytest.raises(InputError, match="another process is writing it"), begin(out):
            pass
    process.kill()
    process.join()
    assert not out.exists()
    with partial_folder(out) as folder:
        assert (folder / "block").read_bytes() == b"whole"
        (folder / "store").mkdir()
        (folder / "store" / "file").write_text("x")
    assert [file.name for file in tmp_path.iterdir()] == ["store"]
    assert [file.name for file in out.iterdir()] == ["file"]


def test_of_many_that_start_at_once_exactly_one_writes(tmp_path: Path) -> None:
    refused, barrier = [], threading.Barrier(8)

    def write() -> None:
        barrier.wait()
        try:
            with new_folder(tmp_path / "store") as folder:
                (folder / "file").write_text("x")
        except InputError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7
    assert all("another process is writing it" in line or "exists already" in line for line in refused)
    assert [file.name for file in tmp_path.iterdir()] == ["store"]


def test_folder_in_use_is_refused_and_an_empty_one_taken(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    with pytest.raises(InputError, match="exists already"), partial_folder(tmp_path / "full"):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["full"]
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        (folder / "file").write_text("x")
    assert (tmp_path / "empty" / "file").read_text() == "x"


def test_partial_folder_without_work_in_it_goes_away(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), partial_folder(tmp_path / "store"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
