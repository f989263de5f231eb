from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kernels import KernelError, tuning
from kernels.config import GemmConfig, GemvConfig
from kernels.tuning import Choice, Entry, TuningTable, choose, load_table, save_table, use_table

GPU = torch.device("cuda", 0)
GEMV = GemvConfig(rows=32, splits=4, warps=2, stages=3)
GEMM = GemmConfig(rows=32, columns=32, splits=2, warps=2, stages=2)


def entry(N: int = 4096, K: int = 4096, M: int = 1, path: str = "gemv", **changes: object) -> Entry:
    config = {"gemv": GEMV, "gemm": GEMM, "dequantize": None}[path]
    found = Entry("linear", N, K, 4, "permute", M, path, config, 3.5, ("rows = 128: spills",))
    return replace(found, **changes)


def table(*entries: Entry) -> TuningTable:
    return TuningTable("NVIDIA H100 80GB HBM3", "9.0", "580.1", "2.11.0", "3.6.0", "2026-11-21", entries)


@pytest.fixture(autouse=True)
def h100(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU by name only, and no table in use before or after."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.delenv(tuning.ENVIRONMENT_VARIABLE, raising=False)
    use_table(None)
    yield
    use_table(None)


def test_table_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    written = table(entry(), entry(M=16, path="gemm"), entry(M=512, path="dequantize"), entry(operation="swiglu"))
    save_table(written, tmp_path / "new" / "h100.json")
    assert load_table(tmp_path / "new" / "h100.json") == written
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["h100.json"]
    save_table(table(), tmp_path / "empty.json")
    assert load_table(tmp_path / "empty.json") == table()


@pytest.mark.parametrize(
    ("M", "expected"),
    [(1, "gemv"), (8, "gemv"), (9, "gemm"), (64, "gemm"), (65, "dequantize"), (4096, "dequantize")],
)
def test_default_fuses_up_to_64_vectors(M: int, expected: str) -> None:
    assert choose(GPU, "linear", 4096, 4096, 4, "permute", M) == Choice(expected)
    assert choose(torch.device("cpu"), "swiglu", 3, 5, 2, "lookup", M) == Choice(expected)


@pytest.mark.parametrize(
    ("M", "measured"), [(1, 1), (2, 4), (3, 4), (4, 4), (5, None), (8, None), (9, 16), (16, 16), (17, 128), (129, None)]
)
def test_the_next_measured_number_of_vectors_on_the_same_side_stands_for_others(M: int, measured: int | None) -> None:
    entries = [entry(M=1), entry(M=4), entry(M=16, path="gemm"), entry(M=128, path="dequantize")]
    found = table(*entries).nearest("linear", 4096, 4096, 4, "permute", M)
    assert (found.M if found else None) == measured


@pytest.mark.parametrize(
    ("N", "K", "nearest"),
    [
        (4096, 4096, (4096, 4096)),
        (6144, 4096, (4096, 4096)),
        (11008, 4096, (14336, 4096)),
        (4096, 11008, (4096, 14336)),
        # Twice one dimension, and the smaller of two as near.
        (8192, 4096, (14336, 4096)),
        (2048, 4096, (4096, 4096)),
        (2000, 4096, None),
        (64, 64, None),
    ],
)
def test_nearest_shape_is_that_of_the_fewest_doublings(N: int, K: int, nearest: tuple[int, int] | None) -> None:
    shapes = [(4096, 4096), (14336, 4096), (4096, 14336)]
    found = table(*(entry(n, k) for n, k in shapes)).nearest("linear", N, K, 4, "permute", 1)
    assert ((found.N, found.K) if found else None) == nearest


def test_smaller_of_two_shapes_as_near_is_taken() -> None:
    for order in ((2048, 8192), (8192, 2048)):
        found = table(*(entry(N) for N in order)).nearest("linear", 4096, 4096, 4, "permute", 1)
        assert found is not None
        assert found.N == 2048


def test_other_operation_width_or_decoder_does_not_count() -> None:
    measured = table(entry())
    for question in [("swiglu", 4, "permute"), ("linear", 3, "permute"), ("linear", 4, "grid")]:
        operation, bits, decoder = question
        assert measured.nearest(operation, 4096, 4096, bits, decoder, 1) is None


def test_table_is_taken_from_the_call_then_the_environment_then_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {}
    for splits, place in enumerate(("package", "environment", "call"), start=1):
        folder = tmp_path / place
        paths[place] = folder / "nvidia-h100-80gb-hbm3.json"
        save_table(table(entry(config=replace(GEMV, splits=splits))), paths[place])

    def splits() -> int | None:
        choice = choose(GPU, "linear", 4096, 4096, 4, "permute", 1)
        return choice.config.splits if choice.config else None

    assert splits() is None
    assert "no tuning table for NVIDIA H100 80GB HBM3" in str(tuning.note(GPU))
    monkeypatch.setattr(tuning, "PACKAGED", tmp_path / "package")
    use_table(None)
    assert splits() == 1
    assert tuning.note(GPU) is None
    monkeypatch.setenv(tuning.ENVIRONMENT_VARIABLE, str(paths["environment"]))
    use_table(None)
    assert splits() == 2
    use_table(paths["call"])
    assert splits() == 3
    use_table(None)
    assert splits() == 2


def test_cpu_has_no_table_and_needs_no_note() -> None:
    assert tuning.table_of(torch.device("cpu")) is None
    assert tuning.note(torch.device("cpu")) is None


def test_table_of_another_device_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a100.json"
    save_table(replace(table(), device="NVIDIA A100"), path)
    use_table(path)
    with pytest.raises(KernelError, match=r"a100.json: device = 'NVIDIA A100', this GPU is 'NVIDIA H100 80GB HBM3'"):
        choose(GPU, "linear", 4096, 4096, 4, "permute", 1)


def test_missing_file_and_broken_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"none.json: no tuning table \(.*No such file"):
        use_table(tmp_path / "none.json")
    (tmp_path / "cut.json").write_text('{"schema_version": 1,')
    with pytest.raises(KernelError, match=r"cut.json: no tuning table"):
        load_table(tmp_path / "cut.json")


DAMAGE = {
    "list": (lambda data: [], r"the file = \[\]: must be an object"),
    "version": (lambda data: data | {"schema_version": 2}, "schema_version = 2: must be 1"),
    "missing": (lambda data: {k: v for k, v in data.items() if k != "driver"}, "driver is missing"),
    "unknown": (lambda data: data | {"gpu": 1}, "gpu = 1: unknown field"),
    "type": (lambda data: data | {"torch": 2}, "torch = 2: must be text"),
    "entries": (lambda data: data | {"entries": {}}, r"entries = \{\}: must be a list"),
    "twice": (lambda data: data | {"entries": data["entries"] * 2}, r"entries\[1\] = .* must be there once"),
}
ENTRY_DAMAGE = {
    "kind": (3, r"entries\[0\] = 3: must be an object"),
    "operation": ({"operation": "qkv"}, r"entries\[0\].operation = 'qkv': must be one of linear, swiglu"),
    "decoder": ({"decoder": "magic"}, r"entries\[0\].decoder = 'magic'"),
    "count": ({"N": 0}, r"entries\[0\].N = 0: must be a whole number >= 1"),
    "truth": ({"M": True}, r"entries\[0\].M = True: must be a whole number"),
    "side": ({"M": 9}, r"entries\[0\].path = 'gemv': M = 9: gemv takes 1..8"),
    "time": ({"p50_us": -1.0}, r"entries\[0\].p50_us = -1.0: must be microseconds > 0"),
    "failed": ({"failed": [1]}, r"entries\[0\].failed = \[1\]"),
    "config": ({"config": None}, r"entries\[0\].config = None: must be an object"),
    "field": ({"config": {"rows": 64, "splits": 1, "warps": 4, "depth": 3}}, r"entries\[0\].config.depth = 3: unknown"),
    "value": ({"config": {"rows": 48, "splits": 1, "warps": 2, "stages": 3}}, r"entries\[0\].config: rows = 48"),
    "cublas": ({"path": "dequantize", "M": 16}, r"entries\[0\].config = .* must be null"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_table_is_refused_with_file_field_and_value(damage: str, tmp_path: Path) -> None:
    change, message = DAMAGE[damage]
    refuse(tmp_path, change, message)


@pytest.mark.parametrize("damage", ENTRY_DAMAGE)
def test_damaged_entry_is_refused_with_its_place(damage: str, tmp_path: Path) -> None:
    change, message = ENTRY_DAMAGE[damage]
    refuse(
        tmp_path,
        lambda data: data | {"entries": [data["entries"][0] | change if isinstance(change, dict) else change]},
        message,
    )


def refuse(folder: Path, change: object, message: str) -> None:
    path = folder / "h100.json"
    save_table(table(entry()), path)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(KernelError, match=rf"h100\.json: {message}"):
        load_table(path)


def test_packaged_tables_are_whole_and_named_after_their_device() -> None:
    for path in tuning.PACKAGED.glob("*.json"):
        assert path.name == tuning.file_name(load_table(path).device)
