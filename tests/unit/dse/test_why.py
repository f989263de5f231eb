"""Why a design is not on the front: against brute force, on exact and sampled explorations, and in one line."""

from __future__ import annotations

import dataclasses
import json

import pytest

import dse
from dse.dominance import dominated
from dse.live import NotMeasuredError
from dse.objective import losses, violations
from explorations import run
from hwsim.trace import InputError, Schedule
from picklable_npu import closed_form
from studies.cli import main

KEPT: dict[str, dse.Exploration] = {}
"""Explored once for all tests that only ask."""

MACS, BANDWIDTH = "matrix.macs", "memory.bandwidth_bytes_per_s"


@pytest.fixture
def found(study_fields, tmp_path):
    """Every design simulated, in a folder that is gone afterwards."""
    if not KEPT:
        KEPT["all"] = run(dse.parse_study(study_fields | {"budget": 500}, "s"), tmp_path / "all", closed_form)
        few = study_fields | {"budget": 12, "sampler": "random"}
        KEPT["few"] = run(dse.parse_study(few, "s"), tmp_path / "few", closed_form)
    return KEPT["all"]


def explain(source, *args, **options):
    return dse.explain(source, *args, evaluate=closed_form, **options)


def test_every_design_is_judged_as_brute_force_judges_it(found):
    study, front = found.study, found.pareto
    points = [losses(study.objectives, row) for row in front.to_dict("records")]
    for row in found.trials.iloc[::7].to_dict("records"):
        answer = explain(found, design=row["number"])
        broken = [text for text, value in violations(study.constraints, row).items() if value > 0]
        beaten = bool(dominated([losses(study.objectives, row)], points)[0])
        assert [str(limit) for limit in answer.broken] == broken
        assert (answer.rival is not None) == beaten
        assert (answer.trial, answer.on_front) == (row["number"], row["on_front"])
        assert ("it is on the front" in str(answer)) == row["on_front"]
        if answer.rival is not None:
            rival = front.set_index("number").loc[answer.rival.number]
            assert all(rival[name] == value for name, value in answer.rival.values.items())
            assert dominated([losses(study.objectives, row)], [losses(study.objectives, answer.rival.values)])[0]


def test_a_design_that_a_sampler_never_drew_is_found_to_belong_on_the_front(found):
    few = KEPT["few"]
    drawn = set(zip(few.trials[MACS], few.trials[BANDWIDTH], few.trials["schedule"], strict=True))
    best = found.pareto[~found.pareto[[MACS, BANDWIDTH, "schedule"]].apply(tuple, axis=1).isin(drawn)].iloc[0]
    answer = explain(few, {MACS: best[MACS], BANDWIDTH: best[BANDWIDTH]}, schedule=best["schedule"])
    assert answer.trial is None and answer.rival is None
    assert str(answer).endswith("\n  verdict    nothing on the front beats it: the exploration did not simulate it")


def test_a_changed_value_starts_from_a_trial_and_one_beside_the_studys_says_so(found):
    number = int(found.pareto["number"].iloc[0])
    answer = explain(found, {BANDWIDTH: 48e9}, design=number)
    row = found.trials.set_index("number").loc[number]
    assert answer.parameters == {BANDWIDTH: 48e9, MACS: row[MACS]} and answer.schedule == row["schedule"]
    assert answer.outside == [f"{BANDWIDTH} = 4.8e+10 is none of its 4 values (nearest: 3.2e+10 and 6.4e+10)"]
    assert not explain(found, {BANDWIDTH: 64_000_000_000}, design=number).outside


def test_a_limit_that_is_broken_says_by_how_much_and_who_beats_it_where_they_differ(study_fields, tmp_path):
    limit = [{"name": "decode_tokens_per_s", "op": ">=", "bound": 100}]
    kept = run(dse.parse_study(study_fields | {"constraints": limit, "budget": 500}, "s"), tmp_path, closed_form)
    slow = kept.trials[kept.trials["decode_tokens_per_s"] < 100].iloc[0]
    answer = explain(kept, design=int(slow["number"]))
    head, gives, *rest = str(answer).splitlines()
    assert head == f"schedule {slow['schedule']}, {BANDWIDTH} = {slow[BANDWIDTH] / 1e9:g} GB/s, {MACS} = {slow[MACS]}"
    assert gives.startswith(f"  gives      decode_tokens_per_s = {slow['decode_tokens_per_s']:.6g}, ")
    text = " ".join("\n".join(rest).split())
    assert text == f"verdict {' '.join(answer.reasons)}" and max(map(len, rest)) <= 100
    gap = 100 - slow["decode_tokens_per_s"]
    assert (
        f"it breaks decode_tokens_per_s >= 100: {slow['decode_tokens_per_s']:.6g}, {gap:.4g} ({gap:.2f}%) off" in text
    )


def test_a_schedule_left_out_beforehand_and_an_npu_that_cannot_run_it_say_why(found):
    label, reason = next(iter(found.excluded_schedules.items()))
    told = " ".join(str(explain(found, schedule=label)).split())
    assert told == f"schedule {label} verdict its schedule was left out beforehand: {reason}"
    answer = explain(found, {MACS: 1 << 17}, design=0)
    assert not answer.metrics and answer.reasons[-1].startswith("it cannot run: matrix.macs = 131072")


def test_a_trial_is_found_where_an_integer_does_not_always_act_and_a_fraction_stays_one(study_fields, tmp_path):
    parameters = {
        "control.prefetch": {"type": "categorical", "choices": ["none", "planned"]},
        MACS: {"type": "categorical", "choices": [1024, 4096], "when": {"control.prefetch": "planned"}},
    }
    objectives = [{"name": "area_mm2", "direction": "minimize"}]
    fields = study_fields | {"parameters": parameters, "objectives": objectives, "constraints": [], "budget": 500}

    def npu(design):
        return {"area_mm2": float(design.npu.get(MACS, 1e6))}

    everything = run(dse.parse_study(fields, "s"), tmp_path, npu)
    assert everything.trials[MACS].dtype == float
    for number in everything.trials["number"]:
        answer = dse.explain(everything, design=int(number), evaluate=npu)
        assert (answer.trial, answer.on_front) == (number, everything.trials["on_front"][number])
    changes = {"control.prefetch": "planned", MACS: 1024.5}
    assert dse.explain(everything, changes, design=0, evaluate=npu).parameters[MACS] == 1024.5


@pytest.mark.parametrize("changes", [{}, {BANDWIDTH: 48e9}])
def test_a_front_of_another_simulator_is_not_compared_with(found, changes):
    def faster(design):
        return {name: value * 1.01 for name, value in closed_form(design).items()}

    with pytest.raises(InputError, match=r"trial \d+ has .* in the record, and .* now; the simulator or a file of the"):
        dse.explain(found, changes, design=0, evaluate=faster)


def test_what_could_not_be_evaluated_is_not_said_to_be_unable_to_run(found):
    def unmeasured(design):
        if design.npu[BANDWIDTH] == 48e9:
            raise NotMeasuredError("the command failed")
        return closed_form(design)

    answer = dse.explain(found, {BANDWIDTH: 48e9}, design=0, evaluate=unmeasured)
    assert answer.reasons[-1] == "it could not be evaluated: the command failed"


def test_a_front_whose_schedules_the_study_has_no_more_is_not_compared_with(found):
    fewer = found.study.model_copy(update={"schedules": (Schedule.from_label("p3:3"),), "schedule_space": None})
    with pytest.raises(InputError, match=r"schedule of trial \d+, .*, is none of the study's now; the simulator or a"):
        explain(dataclasses.replace(found, study=fewer), {MACS: 4096, BANDWIDTH: 48e9}, schedule="p3:3")


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"matrix.mac": 1}, {"design": 0}, r"unknown parameter 'matrix\.mac'; did you mean 'matrix\.macs'"),
        ({}, {}, "why: which schedule"),
        ({MACS: 4096}, {"schedule": "p4:4"}, r"memory\.bandwidth_bytes_per_s has no value: give it, or a design"),
        ({}, {"design": 0, "schedule": "p4:5"}, r"unknown schedule 'p4:5'; did you mean 'p4:4'"),
        ({}, {"design": 999}, "no trial 999 among the"),
    ],
)
def test_a_bad_request_is_one_clear_line(found, changes, options, message):
    with pytest.raises(InputError, match=message):
        explain(found, changes, **options)


def test_the_command_answers_from_a_folder(tmp_path, capsys):
    file = tmp_path / "s.yaml"
    file.write_text(
        "npu: pmpd-4k\nmode: pmpd-analytic\nschedules: ['p4:4', 'p3:3']\n"
        "workloads: [{model: phi-1.5, prompt_tokens: 8, decode_tokens: 4}]\n"
        "parameters:\n  control.prefetch: {type: categorical, choices: [none, planned]}\n"
        "  memory.bandwidth_bytes_per_s: {type: log, low: 8e9, high: 16e9, when: {control.prefetch: planned}}\n"
        "objectives: [{name: decode_tokens_per_s, direction: maximize}]\nsampler: random\nbudget: 6\n"
    )
    out = str(tmp_path / "out")
    assert main(["explore", "run", str(file), "--out", out, "--quiet", "--workers", "1"]) in {0, None}
    capsys.readouterr()
    main(["explore", "why", out, "--schedule", "p4:4", "--set", "control.prefetch=none", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == {"control.prefetch": "none"} and found["rival"] is not None
    changes = {"control.prefetch": "planned", BANDWIDTH: 32e9}
    assert dse.explain(out, changes, schedule="p4:4").outside == [f"{BANDWIDTH} = 3.2e+10 is not in 8e+09 to 1.6e+10"]
    with pytest.raises(InputError, match="does not act in this design: its condition in the study fails"):
        dse.explain(out, {"control.prefetch": "none", BANDWIDTH: 9e9}, schedule="p4:4")
    with pytest.raises(InputError, match="= fast: must be a number"):
        dse.explain(out, {"control.prefetch": "planned", BANDWIDTH: "fast"}, schedule="p4:4")
