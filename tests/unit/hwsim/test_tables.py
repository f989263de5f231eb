import json
import sys

import pandas as pd
import pytest

import hwsim
from hwsim.tables import TABLES, check_destination, read_table
from hwsim.trace import InputError, Schedule, synthetic_trace

SHAPE = hwsim.load_shape("phi-1.5")
NPU = hwsim.load_npu("pmpd-4k")
TRACE = synthetic_trace(SHAPE, Schedule.from_pairs(4, [(0, 4), (3, 2)]), prompt_tokens=40, decode_tokens=6)


@pytest.fixture(scope="module")
def result():
    return hwsim.simulate(NPU, SHAPE, TRACE)


@pytest.mark.parametrize("table_format", ["csv", "parquet"])
def test_tables_come_back_as_they_were_written(result, tmp_path, table_format):
    hwsim.write_tables(result, tmp_path, table_format=table_format)
    wanted = {"steps": result.steps, "operations": result.operations, "switches": result.switches}
    wanted["stalls"] = hwsim.stall_table(result)
    for name, table in wanted.items():
        pd.testing.assert_frame_equal(read_table(tmp_path, name), table, check_dtype=False)


def test_stalls_by_operation_sum_to_the_totals_of_the_result(result):
    summed = hwsim.stall_table(result).groupby(["unit", "reason"])["cycles"].sum()
    for unit, reasons in result.stall_cycles.items():
        for reason, cycles in reasons.items():
            if reason != "drained":
                assert summed.get((unit, reason), 0) == cycles


def test_busy_stalled_and_drained_cycles_fill_the_run(result):
    for unit, reasons in result.stall_cycles.items():
        assert reasons["drained"] >= 0
        assert result.busy_cycles[unit] + sum(reasons.values()) == result.cycles


def test_operations_sum_to_the_bytes_and_macs_of_the_run(result):
    for column, total in (("dram_bytes", result.dram_bytes), ("macs", result.macs)):
        assert result.operations[column].sum() == total
    for kind, size in result.bytes_by_kind.items():
        assert result.operations[f"{kind}_bytes"].sum() == size


def test_a_result_without_reasons_leaves_no_stalls_of_an_earlier_one(result, tmp_path):
    hwsim.write_tables(result, tmp_path)
    assert read_table(tmp_path, "stalls") is not None
    fast = hwsim.simulate(NPU, SHAPE, TRACE, hwsim.SimulationOptions(engine="fast"))
    hwsim.write_tables(fast, tmp_path, table_format="parquet")
    assert read_table(tmp_path, "stalls") is None
    assert not list(tmp_path.glob("*.csv"))
    assert len(hwsim.stall_table(fast)) == 0
    assert "stalls" in TABLES


def test_result_json_holds_totals_and_the_place_under_the_roofline(result, tmp_path):
    position = hwsim.roofline_position(NPU, SHAPE, TRACE, result)
    hwsim.write_tables(result, tmp_path, roofline=position)
    numbers = json.loads((tmp_path / "result.json").read_text())
    assert numbers["cycles"] == result.cycles
    assert numbers["roofline"]["phases"]["decode"]["share_of_bound"] == position.phases[1].share_of_bound


def test_a_destination_that_cannot_be_written_is_refused_in_one_line(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    for folder in (file, file / "run"):
        with pytest.raises(InputError, match=f"^{file}: is a file; name a folder"):
            check_destination(folder, "csv")
    with pytest.raises(InputError, match="unknown table format 'xlsx'.*known: csv, parquet"):
        check_destination(tmp_path, "xlsx")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("hwsim.tables.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package 'pyarrow'.*bittaper\[accuracy\]"):
        check_destination(tmp_path, "parquet")
