from __future__ import annotations

import multiprocessing
import shutil
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from accuracy.quantization.store_writer import ShardWriter, new_folder
from hwsim.trace import InputError, read_json


def test_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def write_half() -> None:
        with new_folder(tmp_path / "store") as folder:
            (folder / "half").write_text("x")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("accuracy.quantization.store_writer.save_file", full)

    def write() -> None:
        with new_folder(tmp_path / "store") as folder:
            writer = ShardWriter(folder)
            writer.add({"t": torch.zeros(3)})
            writer.finish()

    with pytest.raises(InputError, match="weights cannot be written .*No space left on device"):
        write()
    assert list(tmp_path.iterdir()) == []


def write_for_a_minute(out: Path, started: Event) -> None:
    with new_folder(out) as folder:
        (folder / "model.safetensors").write_bytes(b"half")
        started.set()
        time.sleep(60)


def test_killed_writer_leaves_no_store_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    out = tmp_path / "store"
    fork = multiprocessing.get_context("fork")
    started = fork.Event()
    process = fork.Process(target=write_for_a_minute, args=(out, started))
    process.start()
    assert started.wait(30)
    with new_folder(out):
        assert len(list(tmp_path.glob(".store.*.part"))) == 2, "a living writer's folder must stay"
    shutil.rmtree(out)
    process.kill()
    process.join()
    assert not out.exists()
    assert len(list(tmp_path.glob(".store.*.part"))) == 1
    with new_folder(out) as folder:
        (folder / "file").write_text("whole")
    assert [file.name for file in tmp_path.iterdir()] == ["store"]


def test_shards_stay_within_their_bound_and_the_index_finds_every_tensor(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, max_shard_bytes=1000)
    tensors = {f"t{index}": torch.full((100,), float(index)) for index in range(6)}
    for name, tensor in tensors.items():
        writer.add({name: tensor})
    files = writer.finish()
    index = read_json(tmp_path / "model.safetensors.index.json")
    assert [file.name for file in files[:-1]] == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert index["metadata"]["total_size"] == 2400
    for name, tensor in tensors.items():
        assert torch.equal(load_file(tmp_path / index["weight_map"][name])[name], tensor)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(file.name for file in files)
