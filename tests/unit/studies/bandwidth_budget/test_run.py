import json
from pathlib import Path

import pandas as pd
import pytest

import hwsim
from hwsim.trace import InputError, Schedule
from studies import cli
from studies.bandwidth_budget import run
from studies.bandwidth_budget.report import bit_value_text, budget_text, gigabytes
from studies.common.journal import Journal

KEPT = Path(run.__file__).parent / "results"


def kept(name):
    return pd.read_csv(KEPT / f"{name}.csv")


def settings_of_kept():
    asked = json.loads((KEPT / "bandwidth_budget.json").read_text())["settings"]
    del asked["map_schedule"]
    return run.Settings(out=Path("unused"), progress=False, **{key: _tuple(value) for key, value in asked.items()})


def _tuple(value):
    return tuple(value) if isinstance(value, list) else value


def assert_equal(new, old):
    pd.testing.assert_frame_equal(new.reset_index(drop=True), old, check_dtype=False, rtol=1e-6)


def test_the_kept_results_are_those_of_the_default_command():
    assert settings_of_kept() == run.Settings(out=Path("unused"), progress=False)


@pytest.mark.parametrize("index", [0, 33, 19, 59])
def test_kept_rows_are_what_the_search_finds_today(index):
    settings, old = settings_of_kept(), kept("budget")
    npu = hwsim.load_npu(settings.npu)
    row = old.iloc[index]
    (case,) = [
        case
        for case in run.make_cases(settings, npu)
        if (case.workload.prompt_tokens, case.workload.schedule.label()) == (row["prompt_tokens"], row["schedule"])
    ]
    new = pd.DataFrame([run.budget_row(npu, case, row["target_tokens_per_s"], settings.scaling)])
    assert_equal(new.fillna(float("nan")), old.iloc[[index]].reset_index(drop=True))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_all_kept_results_are_fresh(tmp_path):
    assert cli.main(["study", "bandwidth-budget", "--quiet", "--out", str(tmp_path)]) == 0
    for name in ("budget", "bit_value", "map"):
        assert_equal(pd.read_csv(tmp_path / f"{name}.csv"), kept(name))


def test_kept_bit_values_follow_from_the_kept_budget():
    assert_equal(run.bit_value_table(kept("budget")), kept("bit_value"))


def test_kept_answers_were_checked_by_events():
    table = kept("budget")
    reached = table[table["limited_by"].isna()]
    assert (reached["events_tokens_per_s"] == reached["tokens_per_s"]).all()
    assert (reached["events_tokens_per_s"] >= reached["target_tokens_per_s"]).all()
    assert (reached["events_tokens_per_s_1pct_below"] < reached["target_tokens_per_s"]).all()
    assert table[table["limited_by"].notna()]["bandwidth_bytes_per_s"].isna().all()


def test_the_map_is_what_simulate_says():
    settings, table = settings_of_kept(), kept("map")
    schedule = Schedule.from_label(json.loads((KEPT / "bandwidth_budget.json").read_text())["settings"]["map_schedule"])
    shape = hwsim.load_shape(settings.models[0])
    trace = hwsim.trace.synthetic_trace(
        shape, schedule, prompt_tokens=settings.prompt_tokens[0], decode_tokens=settings.decode_tokens
    )
    for index in (7, 230):
        row = table.iloc[index]
        npu = hwsim.load_npu(settings.npu, {"matrix.macs": int(row["macs"])})
        npu = run.with_bandwidth(npu, row["bandwidth_bytes_per_s"], settings.scaling)
        result = hwsim.simulate(npu, shape, trace, hwsim.SimulationOptions(engine="fast"))
        # The table keeps seven digits of the bandwidth, too.
        assert result.decode_tokens_per_s == pytest.approx(row["decode_tokens_per_s"], rel=1e-5)
        assert result.prefill_s == pytest.approx(row["prefill_s"], rel=1e-5)


def test_the_readme_shows_the_kept_budget():
    lines = (KEPT.parent / "README.md").read_text().splitlines()
    shown = {
        line.split("`")[1]: [cell.strip() for cell in line.split("|")[3:-1]] for line in lines if line[:3] == "| `"
    }
    shown = {label: cells for label, cells in shown.items() if ":" in label}
    table = kept("budget").sort_values(["target_tokens_per_s", "prompt_tokens"])
    assert shown.keys() == set(table["schedule"])
    for label, cells in shown.items():
        for cell, (_, mine) in zip(
            cells, table[table["schedule"] == label].groupby("target_tokens_per_s"), strict=True
        ):
            values = mine["bandwidth_bytes_per_s"]
            assert cell == ("none" if values.isna().all() else " / ".join(map(gigabytes, values)))


def test_elasticity_is_a_share():
    table = kept("map")
    for phase in ("decode", "prefill"):
        assert table[f"{phase}_elasticity"].between(-1e-3, 1.01).all()


def test_a_small_study_runs_from_the_command_line(tmp_path, capsys):
    argv = ["study", "bandwidth-budget", "--model", "phi-1.5", "--npu", "pmpd-4k", "--quiet", "--out", str(tmp_path)]
    argv += ["--prompt-tokens", "16", "--decode-tokens", "6", "--target", "20", "--target", "9000"]
    argv += ["--weight-bits", "3", "--weight-bits", "4", "--schedule", "p4:4>3@2"]
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    budget, value = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("budget", "bit_value"))
    assert budget_text(budget) in out
    assert bit_value_text(value) in out
    assert list(budget["schedule"]) == ["p3:3"] * 2 + ["p4:4"] * 2 + ["p4:4>3@2"] * 2
    reached = budget[budget["target_tokens_per_s"] == 20]["bandwidth_bytes_per_s"].tolist()
    assert reached[0] < reached[2] < reached[1]
    assert value["bytes_per_s_per_bit"].tolist() == pytest.approx([reached[1] - reached[0]])
    assert (tmp_path / "budget.png").stat().st_size > 0
    assert (tmp_path / "map.svg").stat().st_size > 0


def test_a_stopped_run_goes_on_with_the_rows_that_are_missing(tmp_path, monkeypatch):
    def settings(name, target=20.0):
        return run.Settings(
            out=tmp_path / name,
            models=("phi-1.5",),
            npu="pmpd-4k",
            prompt_tokens=(16,),
            decode_tokens=6,
            targets_tokens_per_s=(10.0, target),
            weight_bits=(3, 4),
            schedules=(),
            progress=False,
        )

    npu = hwsim.load_npu("pmpd-4k")
    searched = []

    def count(npu, case, target, *rest, **more):
        if len(searched) == 3 and stop:
            raise KeyboardInterrupt
        searched.append((case.workload.schedule.label(), target))
        return budget_row(npu, case, target, *rest, **more)

    def table(name, target=20.0):
        asked = settings(name, target)
        return run.budget_table(asked, npu, run.make_cases(asked, npu), journal=Journal(asked.out / "work"))

    budget_row, stop = run.budget_row, True
    monkeypatch.setattr(run, "budget_row", count)
    with pytest.raises(KeyboardInterrupt):
        table("stopped")
    stop = False
    went_on = table("stopped")
    assert searched == [("p3:3", 10.0), ("p3:3", 20.0), ("p4:4", 10.0), ("p4:4", 20.0)]
    pd.testing.assert_frame_equal(went_on, table("whole"))
    searched.clear()
    table("whole", target=30.0)
    assert searched == [("p3:3", 30.0), ("p4:4", 30.0)], "only what is asked anew"
    searched.clear()
    monkeypatch.setattr(run, "simulator_sha256", lambda: {"other": "code"})
    table("whole")
    assert len(searched) == 4, "rows of another simulator are not taken"


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (["--target", "0"], ["target = 0 tokens/s", "> 0"]),
        (["--target", "inf"], ["target = inf tokens/s", "finite"]),
        (["--model", "phi-2"], ["unknown model 'phi-2'", "did you mean"]),
        (["--prompt-tokens", "4000"], ["prompt_tokens = 4000 with 255 decode steps", "1..4096"]),
        (["--weight-bits", "9"], ["9", "1..8"]),
        (["--schedule", "4>3"], ["schedule '4>3'", "p4:4>3@40"]),
        (["--scaling", "ranks"], ["--scaling", "channels"]),
        (["--out", __file__], [f"--out {__file__}", "is a file; choose another folder"]),
    ],
)
def test_bad_input_is_one_line_before_anything_runs(tmp_path, capsys, more, parts):
    try:
        code = cli.main(["study", "bandwidth-budget", "--quiet", "--out", str(tmp_path / "o"), *more])
    except SystemExit as stop:
        code = stop.code
    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (2, 1), err
    assert all(part in err for part in parts), err
    assert not (tmp_path / "o").exists()


def test_a_model_file_has_no_schedule_of_the_paper_and_is_named_as_it_is():
    settings = run.Settings(out=Path("unused"), models=("mobilellama-1.4b",), prompt_tokens=(64,), decode_tokens=9)
    cases = run.make_cases(settings, hwsim.load_npu("pmpd-4k"))
    assert [case.kind for case in cases] == ["uniform"] * 5 + ["paper"] * 2
    with pytest.raises(InputError, match="targets_tokens_per_s is empty"):
        run.make_cases(run.Settings(out=Path("unused"), targets_tokens_per_s=()), hwsim.load_npu("pmpd-4k"))
