"""Many NPUs at once are the NPUs that loading each one gives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hwsim.cost import area_mm2, total_areas_mm2
from hwsim.load import load_npu
from hwsim.npu_table import NpuTable, load_npus
from hwsim.trace import InputError

VALUES = {
    "matrix.macs": (1024, 5000),
    "matrix.lookups_per_cycle.4": (7,),
    "memory.bandwidth_bytes_per_s": (1e6, 33.3e9, -1.0),
    "buffers.weight_kib": (0.5, 5e5),
    "clock_hz": (2e8, 1.0),
    "cost.node": ("7nm", "3nm"),
    "control.tiling": ("search",),
}


def _codes() -> dict[str, np.ndarray]:
    rows = np.array(list(itertools.product(*(range(-1, len(values)) for values in VALUES.values()))))
    return dict(zip(VALUES, rows.T, strict=True))


def test_each_variant_is_what_loading_it_alone_gives():
    codes = _codes()
    count = len(codes["clock_hz"])
    table, valid = load_npus("pmpd-4k", VALUES, codes, count)
    for row in np.random.default_rng(0).permutation(count)[:120].tolist():
        overrides = {path: VALUES[path][code[row]] for path, code in codes.items() if code[row] >= 0}
        try:
            alone = load_npu("pmpd-4k", overrides)
        except InputError:
            assert not valid[row]
            continue
        assert valid[row] and table.npu(row) == alone
    assert 0 < valid.sum() < count


def test_areas_equal_those_of_each_npu():
    codes = {path: np.maximum(code, -1) for path, code in _codes().items()}
    table, valid = load_npus("pmpd-4k", VALUES, codes, len(codes["clock_hz"]))
    rows = np.flatnonzero(valid)[::7]
    expected = [sum(area_mm2(table.npu(row)).values()) for row in rows.tolist()]
    assert total_areas_mm2(table.take(rows)).tolist() == expected


def test_npus_made_one_by_one_keep_their_order():
    npus = [load_npu("pmpd-4k", {"sfu.lanes": lanes}) for lanes in (4, 2, 4)]
    table = NpuTable.of(npus)
    assert [table.npu(row) for row in range(3)] == npus
    assert table.gather(lambda npu: npu.sfu.lanes, "sfu").tolist() == [4, 2, 4]
    keys, number = table.classify(lambda npu: npu.sfu.lanes, "sfu")
    assert [keys[one] for one in number] == [4, 2, 4]


def test_an_unusable_file_is_refused_and_an_unknown_path_is_never_valid():
    with pytest.raises(InputError, match="unknown NPU 'nowhere'"):
        load_npus("nowhere", {}, {}, 1)
    _, valid = load_npus("pmpd-4k", {"sfu.lines": (1,)}, {"sfu.lines": np.array([0, -1])}, 2)
    assert valid.tolist() == [False, True]
