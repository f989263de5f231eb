from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from accuracy.quantization.parts import Parts
from hwsim.trace import InputError, read_json


def fill(parts: Parts) -> dict[str, torch.Tensor]:
    """Six parts of 400 bytes of numbers each."""
    tensors = {f"t{index}": torch.full((100,), float(index)) for index in range(6)}
    for name, tensor in tensors.items():
        parts.add(f"block.{name}", {name: tensor}, {})
    return tensors


def test_shards_stay_within_their_bound_and_the_index_finds_every_tensor(tmp_path: Path) -> None:
    parts, out = Parts(tmp_path, {}), tmp_path / "out"
    out.mkdir()
    tensors = fill(parts)
    files = parts.merge([f"block.{name}" for name in tensors], out, max_shard_bytes=1100)
    index = read_json(out / "model.safetensors.index.json")
    assert [file.name for file in files[:-1]] == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert all(file.stat().st_size <= 1100 for file in files[:-1])
    assert index["metadata"]["total_size"] == 2400
    for name, tensor in tensors.items():
        assert torch.equal(load_file(out / index["weight_map"][name])[name], tensor)
    assert sorted(out.iterdir()) == sorted(files)


@pytest.mark.parametrize(("bound", "count"), [(1, 6), (500, 6), (10**6, 1)])
def test_part_larger_than_the_bound_is_a_file_of_its_own(tmp_path: Path, bound: int, count: int) -> None:
    parts, out = Parts(tmp_path, {}), tmp_path / "out"
    out.mkdir()
    tensors = fill(parts)
    parts.merge([f"block.{name}" for name in tensors], out, max_shard_bytes=bound)
    files = list(out.glob("*.safetensors"))
    assert len(files) == count
    merged = {key: value for file in files for key, value in load_file(file).items()}
    assert all(torch.equal(merged[name], tensor) for name, tensor in tensors.items())


def test_part_counts_only_with_its_record(tmp_path: Path) -> None:
    parts = Parts(tmp_path, {"bits": 3})
    parts.add("a", {"t": torch.ones(3)}, {"weights": 3})
    again = Parts(tmp_path, {"bits": 3})
    assert again.has("a")
    assert again.record("a")["weights"] == 3
    assert torch.equal(again.tensors("a")["t"], torch.ones(3))
    (tmp_path / "part-a.json").unlink()
    assert not again.has("a")


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    Parts(tmp_path, {"max_bits": 4, "min_bits": 2})
    with pytest.raises(InputError, match=r"unfinished run with max_bits = 4, here 8; finish that one, or remove"):
        Parts(tmp_path, {"max_bits": 8, "min_bits": 2})


def test_changed_part_never_reaches_a_store(tmp_path: Path) -> None:
    parts = Parts(tmp_path, {})
    parts.add("a", {"t": torch.ones(3)}, {})
    file = tmp_path / "part-a.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(InputError, match=r"part-a\.safetensors: has changed since it was written"):
        parts.merge(["a"], tmp_path)
