"""What a user brings: models of any context, own NPUs under any name, targets out of reach, options at their bounds."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsim import load_npu, load_shape
from hwsim.trace import InputError
from studies.architect import (
    bit_value,
    codesign,
    figures_precision,
    kv_bits,
    memory_bound,
    published,
    sensitivity,
    speed_map,
    switching,
    width_units,
    widths,
)
from studies.architect.report import write_report
from studies.architect.run import answer_question, run_architect
from studies.architect.settings import MOST_BATCH, Settings, check_settings, with_widths_that_run

SETTINGS = Settings(
    Path("unused"), npu="edge-lpddr4", prompt_tokens=1, decode_tokens=1, weight_bits=(2, 3), progress=False
)


@pytest.mark.parametrize(
    ("max_context", "batch", "said"),
    [
        (64, 1, "a KV bit is worth less than a weight bit to one sequence; "),
        (64, 64, "a KV bit is worth less than a weight bit to one sequence and more to a batch; "),
        (4096, 1, "a KV bit is worth more than a weight bit beyond these contexts, to one sequence too; "),
    ],
)
def test_what_a_kv_bit_is_worth_follows_from_the_crossings(max_context, batch, said, tiny_model, monkeypatch):
    monkeypatch.setattr(kv_bits, "MORE_MODELS", ())
    finding = kv_bits.compute(replace(SETTINGS, model=tiny_model(max_context), batches=(batch,)))
    assert f"So {said}the eight bits" in finding.answer


@given(
    st.integers(1, 200_000),
    st.lists(st.integers(1, 300_000), unique=True, max_size=9),
    st.lists(st.integers(1, 300_000), unique=True, min_size=1, max_size=9),
)
def test_contexts_have_room_for_a_step_and_are_never_none(max_context, asked, own):
    shape = load_shape("phi-1.5").model_copy(update={"max_context": max_context + 1})
    found = Settings(Path("unused"), contexts=tuple(asked)).contexts_within(own, shape)
    assert found == tuple(sorted(found))
    assert all(1 <= context < shape.max_context for context in found)
    fitting = {context for context in asked or own if context <= max_context}
    assert set(found) == (fitting or {max_context})


@pytest.mark.parametrize(
    ("max_context", "contexts"),
    [(2, [1]), (32, [31]), (33, [32]), (128, [32]), (129, [32, 128])],
)
def test_memory_bound_is_answered_for_a_model_of_any_context(max_context, contexts, tiny_model):
    settings = replace(SETTINGS, model=tiny_model(max_context), batches=(1, 2))
    check_settings(settings)
    finding = memory_bound.compute(settings)
    assert sorted(set(finding.tables["memory_bound"]["context"])) == contexts
    near = min(contexts, key=lambda context: abs(context - memory_bound.NEAR))
    assert finding.answer.startswith(f"With {near} tokens of context and 16-bit keys")


@pytest.mark.parametrize(("context", "batch"), [(1, 1), pytest.param(1, MOST_BATCH, marks=pytest.mark.slow), (4095, 3)])
def test_memory_bound_is_answered_at_the_bounds_of_its_options(context, batch, tiny_model):
    settings = replace(SETTINGS, model=tiny_model(4096), contexts=(context,), batches=(batch,), kv_bits=4)
    check_settings(settings)
    finding = memory_bound.compute(settings)
    table = finding.tables["memory_bound"]
    assert set(zip(table["context"], table["batch"], strict=True)) == {(context, batch)}
    assert table["memory_elasticity"].between(-0.05, 1.05).all()
    assert "4-bit keys" in finding.answer


def test_a_peer_that_reads_none_of_the_widths_is_left_out(tiny_model, tmp_path):
    from hwsim.load import read_npu_text

    path = tmp_path / "one.yaml"
    text = read_npu_text("edge-lpddr4")[0].replace("name: edge-lpddr4", "name: one")
    path.write_text(text.replace("{2: 1024,", "{1: 1024, 2: 1024,").replace("widths: [2,", "widths: [1, 2,"))
    settings = replace(SETTINGS, model=tiny_model(64), npu=str(path), weight_bits=(1, 2), batches=(1,))
    table = memory_bound.compute(settings).tables["memory_bound"]
    assert table.groupby("npu")["weight_bits"].agg(set).to_dict() == {"one": {1, 2}, "server-hbm3e": {2}}


@pytest.mark.parametrize(
    ("longest", "text"),
    [(0, "no batch ever can"), (227, "beyond 227 tokens of context no batch can")],
)
def test_a_limit_of_the_context_reads_well_at_its_bounds(longest, text):
    assert memory_bound.limit_text(longest, load_shape("phi-1.5")) == text


@pytest.mark.slow
def test_the_smallest_model_and_run_are_answered_and_what_cannot_be_asked_is_left_out(
    tiny_model, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    settings = replace(SETTINGS, out=out, model=tiny_model(2), contexts=(1,), batches=(1,))
    names = ("templates", "energy", "kv-bits", "switching")
    monkeypatch.setattr("studies.architect.run.chosen_questions", lambda settings, only: names)
    with pytest.warns(UserWarning, match="'switching' is left out: decode_tokens = 1: must be >= 2 for a switch"):
        answers = run_architect(settings)
    assert tuple(answers) == names[:-1]
    assert not any("nan" in answer for answer in answers.values())
    assert "more tokens" not in answers["energy"]  # there is one context only


@pytest.mark.slow
def test_an_odd_name_is_drawn_and_reported_letter_by_letter(tiny_model, odd_npu, odd_name, tmp_path):
    out = tmp_path / "out"
    settings = replace(SETTINGS, out=out, model=tiny_model(64), npu=odd_npu, batches=(1, 2))
    answers = run_architect(settings, ["templates", "memory-bound"])
    escaped = odd_name.replace("<", "&lt;").replace(">", "&gt;")
    for name in ("templates", "memory_bound"):
        assert escaped in (out / f"{name}.svg").read_text(encoding="utf-8")
    assert all(odd_name in answer for answer in answers.values())
    assert odd_name in (out / "report.json").read_text(encoding="utf-8").replace("\\\\", "\\")


def test_an_own_npu_with_a_shipped_name_is_not_taken_for_it(tiny_model, tmp_path):
    from hwsim.load import read_npu_text

    path = tmp_path / "mine.yaml"
    path.write_text(read_npu_text("edge-lpddr4")[0].replace("12.8e+9", "25.6e+9"))
    settings = replace(SETTINGS, model=tiny_model(64), npu=str(path), batches=(1,))
    npu, shape = settings.load()
    assert npu.name == "edge-lpddr4 (mine.yaml)"
    limits = memory_bound.limit_table(settings, npu, shape).drop_duplicates("npu").set_index("npu")
    assert limits["ridge_macs_per_byte"]["edge-lpddr4"] == pytest.approx(1024 * 0.8e9 / 12.8e9)
    assert limits["ridge_macs_per_byte"]["edge-lpddr4 (mine.yaml)"] == pytest.approx(1024 * 0.8e9 / 25.6e9)


def test_widths_that_the_memory_cannot_hold_are_left_out_with_a_word():
    asked = replace(Settings(Path("unused")), npu="edge-lpddr4", prompt_tokens=16, decode_tokens=4)
    with pytest.warns(UserWarning, match="16 bits are left out: edge-lpddr4: memory.capacity_bytes") as warned:
        left = with_widths_that_run(asked)
    assert (left.weight_bits, len(warned)) == ((2, 3, 4), 1)
    check_settings(left)


def test_a_switch_needs_two_steps():
    with pytest.raises(InputError, match="decode_tokens = 1: must be >= 2"):
        switching.compute(replace(SETTINGS, model="phi-1.5"))


def saving(area_uniform: float | None, area_pmpd: float | None) -> dict:
    row = {"task": "cnn-dm", "loss": 0.02, "area_mm2_saving": 0.25, "energy_j_per_token_saving": 0.5}
    for family, area in (("uniform", area_uniform), ("pmpd", area_pmpd)):
        row |= {f"area_mm2_{family}": area, f"energy_j_per_token_{family}": 0.1, f"schedule_{family}": f"of-{family}"}
        row[f"memory.bandwidth_bytes_per_s_{family}"] = 20e9
    return row


def test_a_saving_is_told_with_both_designs_or_with_what_is_missing():
    pmpd, uniform = "of-pmpd (3.00 mm2, 100 mJ/token, 20.0 GB/s)", "of-uniform (4.00 mm2, 100 mJ/token, 20.0 GB/s)"
    both = f"cnn-dm with 2% lost {pmpd} saves 25% of the area and 50% of the energy per token of {uniform}"
    assert codesign.saving_text(saving(4.0, 3.0)) == both
    assert codesign.saving_text(saving(None, 3.0)).endswith(f"{pmpd}, and no uniform width keeps the limits")
    assert codesign.saving_text(saving(4.0, None)).endswith(f"{uniform}, and no PMPD schedule keeps the limits")
    assert codesign.saving_text(saving(None, None)) == "cnn-dm with 2% lost no schedule keeps the limits"


def test_the_search_looks_at_the_npus_own_sizes_too():
    searched = codesign.parameters(load_npu("edge-lpddr4"))
    assert searched["memory.channels"]["choices"] == [2, 4, 16]
    assert searched["matrix.macs"]["choices"] == [1024, 4096, 16384]
    assert searched["buffers.weight_kib"]["choices"] == [128, 1024]


def test_sets_and_units_are_those_the_npu_can_be_built_with():
    narrow = load_npu("flightllm-u280")  # rates for 2, 3, 4 and 8 bits
    assert max(bits for one in width_units.sets_of(narrow) for bits in one) == 8
    assert (2, 3, 4, 5, 6, 7, 8) not in width_units.sets_of(narrow)
    assert list(width_units.units_of(narrow)) == ["look-up", "bit-serial"]
    serial = load_npu("pmpd-4k", {"matrix.bit_serial": True, "matrix.lookups_per_cycle": {}})
    assert list(width_units.units_of(serial)) == ["bit-serial"]
    assert (2, 3, 4) in width_units.sets_of(serial)


def test_every_target_and_loss_has_its_best_set_and_agreement_is_counted():
    keys = {"task": "cnn-dm", "schedule": "p3:3"}
    sets = pd.DataFrame(
        [
            {**keys, "target_tokens_per_s": target, "loss": 0.0, "widths": name, "area_mm2": area}
            for target, areas in ((10.0, {"3": 5.0, "2+3": 4.8}), (50.0, {"3": 9.0, "2+3": 9.5}), (90.0, {"3": None}))
            for name, area in areas.items()
        ]
    ).astype({"area_mm2": float})
    best = widths.best_sets(sets)
    assert best["widths"].tolist() == ["2+3", "3"]
    assert best["saved_mm2"].tolist() == pytest.approx([0.2, 0.0])
    exact = pd.DataFrame(
        [
            {**keys, "target_tokens_per_s": 10.0, "widths": "2+3", "area_mm2": 4.8 * 1.005, "reason": None},
            {**keys, "target_tokens_per_s": 50.0, "widths": "2+3", "area_mm2": 9.5, "reason": None},
            {**keys, "target_tokens_per_s": 90.0, "widths": None, "area_mm2": None, "reason": "too fast"},
        ]
    )
    ran = exact.dropna(subset=["area_mm2"])
    assert widths.agreeing(best, ran) == 1
    units = pd.DataFrame({"unit": ["bit-serial"], "widths": ["2"], "array_mm2": [0.1], "lookup_mm2": [0.0]})
    more = [
        exact.iloc[-1].to_dict() | {"task": task, "reason": why} for task, why in (("a", "too fast"), ("b", "slow"))
    ]
    several = widths.answer_of(best, pd.concat([exact, pd.DataFrame(more)]), units, [90.0])
    assert "at any bandwidth: too fast (cnn-dm, a); slow (b)." in several
    answer = widths.answer_of(best, exact, units, [10.0, 50.0, 90.0])
    assert "At 10 tokens/s the least NPU supports 2+3 for cnn-dm at 0% loss (p3:3, 4.80 mm2, 0.20 less" in answer
    assert "At 50 tokens/s the least NPU supports 3 for cnn-dm at 0% loss (p3:3, 9.00 mm2)." in answer
    assert "At 90 tokens/s no schedule gets there at any bandwidth: too fast (cnn-dm)." in answer
    assert "1 of 2 exact searches" in answer


def test_bars_begin_at_nothing_where_no_design_is_found():
    columns = [
        f"{name}_{family}"
        for name in ("area_mm2", "energy_j_per_token", "memory.bandwidth_bytes_per_s")
        for family in ("uniform", "pmpd")
    ]
    row = {"task": "cnn-dm", "loss": 0.0, "target_tokens_per_s": 9.0}
    for values in ([float("nan")] * 6, [2.0, float("nan")] * 3):
        table = pd.DataFrame([row | dict(zip(columns, values, strict=True))])
        for axes in figures_precision.codesign(lambda _, table=table: table).axes:
            assert axes.get_ylim()[0] == 0


def shares(*rows: tuple[str, float, float]) -> pd.DataFrame:
    columns = ["parameter", "total_order_ci_low", "total_order_ci_high"]
    return pd.DataFrame(list(rows), columns=columns)


def test_what_decides_is_told_as_far_as_the_intervals_tell():
    clear = shares(("macs", 0.6, 1.1), ("static", 0.1, 0.3))
    assert sensitivity.deciding_text(clear) == "decided by macs (60 to 100% of the variance)"
    open_order = shares(("macs", 0.3, 0.7), ("static", 0.2, 0.6), ("clock", 0.0, 0.1))
    told = sensitivity.deciding_text(open_order)
    assert told.endswith("and static (20 to 60% of the variance), whose order is open")
    assert "clock" not in told
    assert sensitivity.deciding_text(shares(("macs", 0.0, 0.0))) == "nothing moves it"


def test_another_npu_in_the_same_folder_is_explored_anew_and_not_taken_for_out_of_reach(tmp_path, monkeypatch):
    from hwsim.load import read_npu_text

    folders = []
    monkeypatch.setattr("studies.architect.published.explore", lambda _, folder, progress: folders.append(folder))
    path = tmp_path / "mine.yaml"
    path.write_text(read_npu_text("pmpd-4k")[0])
    first = replace(SETTINGS, out=tmp_path, model="phi-1.5", npu=str(path))
    case = published.published_cases(first)[0]

    def asked(settings: Settings) -> Path:
        codesign.search(settings, case, "pmpd", 10.0, 0.0)
        return folders[-1]

    found = [asked(first), asked(replace(first, npu="pmpd-16k")), asked(replace(first, kv_bits=8))]
    assert asked(first) == found[0]
    path.write_text(path.read_text().replace("bytes_per_s: 32.0e+9", "bytes_per_s: 16.0e+9"))
    assert len({*found, asked(first)}) == 4


@pytest.mark.parametrize(
    "ask",
    [
        lambda settings, case: codesign.answer_row(settings, case, "pmpd", 10.0, 0.0),
        lambda settings, case: widths.exact_row(settings, case, 10.0),
        lambda settings, _: sensitivity.compute(settings),
    ],
)
def test_a_full_disk_is_not_taken_for_a_target_out_of_reach(ask, tmp_path, monkeypatch):
    settings = replace(SETTINGS, out=tmp_path, model="phi-1.5")
    case = published.published_cases(settings)[0]

    def full(*_: object, **__: object) -> None:
        raise InputError("trials.jsonl: no space left on device")

    monkeypatch.setattr("studies.architect.published.explore", full)
    with pytest.raises(InputError, match="no space left"):
        ask(settings, case)


@pytest.mark.slow
def test_a_target_out_of_reach_is_said_and_drawn_as_nothing(tmp_path):
    settings = Settings(
        tmp_path / "out",
        model="phi-1.5",
        npu="pmpd-4k",
        targets_tokens_per_s=(1e7,),
        progress=False,
        weight_bits=(2, 3),
    )
    said = {name: answer_question(settings, name) for name in ("codesign", "sensitivity", "widths", "bit-value")}
    assert "no schedule keeps the limits" in said["codesign"]
    assert said["sensitivity"].startswith("No PMPD schedule keeps the limits at any speed asked for")
    assert "no schedule gets there at any bandwidth" in said["widths"]
    assert "No two widths reach any of the speeds" in said["bit-value"]
    assert said["bit-value"].count("whatever the bandwidth") == 1
    assert json.loads((settings.out / "sensitivity.json").read_text())["figure"] is None
    write_report(settings.out)


def own_npu(tmp_path, name="own", **changed):
    """A copy of edge-lpddr4 with other text for some of its lines."""
    from hwsim.load import read_npu_text

    text = read_npu_text("edge-lpddr4")[0].replace("\nname: edge-lpddr4\n", f"\nname: {name}\n")
    for field, value in changed.items():
        text, count = re.subn(rf"(?m)^( *){field}: [^#\n]*", rf"\g<1>{field}: {value}  ", text, count=1)
        assert count, field
    path = tmp_path / f"{name}.yaml"
    path.write_text(text)
    return str(path)


def test_where_no_width_runs_the_reason_is_the_error(tmp_path):
    npu = own_npu(tmp_path, kv_kib=8)
    with pytest.raises(InputError, match=r"buffers.kv_kib = 8: keys and values of one token"):
        with_widths_that_run(Settings(Path("unused"), npu=npu))


def test_an_npu_without_the_default_widths_is_asked_about_its_own(tmp_path):
    rates = "{3: 1024, 5: 512, 6: 256, 8: 64}"
    npu = own_npu(tmp_path, weight_widths="[3, 5, 6, 8, 16]", lookups_per_cycle=rates)
    with pytest.warns(UserWarning, match=r"[24] bits are left out: .*own supports 3, 5, 6, 8, 16"):
        left = with_widths_that_run(Settings(Path("unused"), npu=npu, model="phi-1.5"))
    assert sorted(left.weight_bits) == [3, 5, 16]
    check_settings(left)


@pytest.mark.parametrize("bandwidth", ["2.5e+8", "12.8e+9", "3.0e+12"])
def test_the_map_and_the_searches_reach_around_any_npus_bandwidth(bandwidth, tmp_path):
    npu = load_npu(own_npu(tmp_path, bandwidth_bytes_per_s=bandwidth))
    own = npu.memory.bandwidth_bytes_per_s
    searched = [
        codesign.parameters(npu)["memory.bandwidth_bytes_per_s"],
        published.bandwidths_around(npu, widths.LOW, widths.HIGH, widths.POINTS),
    ]
    for parameter, (low, high, points) in zip(
        searched, (codesign.BANDWIDTHS, (widths.LOW, widths.HIGH, widths.POINTS)), strict=True
    ):
        assert parameter["low"] <= min(low, own / 2) and max(high, 2 * own) <= parameter["high"]
        step = (parameter["high"] / parameter["low"]) ** (1 / (parameter["points"] - 1))
        assert step == pytest.approx((high / low) ** (1 / (points - 1)))
    assert npu.memory.channels in widths.channels_of(npu)


@pytest.mark.parametrize(("bandwidth", "said"), [("32.0e+9", "At 32 GB/s memory"), ("3.0e+12", "the 3,000 of own)")])
def test_the_map_answers_at_the_bandwidth_of_the_npu_itself(bandwidth, said, tiny_model, tmp_path):
    npu = own_npu(tmp_path, bandwidth_bytes_per_s=bandwidth)
    finding = speed_map.compute(replace(SETTINGS, npu=npu, model=tiny_model(64)))
    assert said in finding.answer
    table, own = finding.tables["speed_map"], finding.tables["speed_map_npu"].iloc[0]
    for column in ("macs", "bandwidth_bytes_per_s"):
        assert 2 * table[column].min() <= own[column] <= table[column].max() / 2


def test_a_batch_whose_weight_bits_save_no_time_is_told_as_that():
    rows = pd.DataFrame({"context": [128, 512], "weight_bit_s": 0.0, "kv_bit_s": 1.0, "kv_bit_over_weight_bit": None})
    assert kv_bits.crossing(rows) == 128
    later = rows.assign(weight_bit_s=[4.0, 0.0], kv_bit_over_weight_bit=[0.25, None])
    assert kv_bits.crossing(later) == 512
    assert kv_bits.crossing(rows.assign(kv_bit_s=0.0)) is None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "relative_quality >= 1: no measured schedule keeps it"),
        ({"npu": "own"}, "matrix.weight_widths of own lacks 2 bits"),
    ],
    ids=["quality", "widths"],
)
def test_a_task_without_a_schedule_is_a_row_with_its_reason_and_no_question_left_out(more, said, tmp_path):
    rates = "{4: 1024, 8: 64}"
    npu = own_npu(tmp_path, weight_widths="[4, 8, 16]", lookups_per_cycle=rates) if more else "pmpd-16k"
    settings = Settings(tmp_path, npu=npu, progress=False)
    (case,) = (one for one in published.published_cases(settings) if one.task == "iwslt-fr-en")
    row = codesign.answer_row(settings, case, "pmpd", 10.0, 0.0)
    assert said in row["reason"]
    assert "area_mm2" not in row


@pytest.mark.parametrize(("activation_kib", "again"), [(64, True), (4096, False)])
def test_a_roofline_that_the_buffers_contradict_is_told_with_its_cause(activation_kib, again, tmp_path):
    npu = load_npu(own_npu(tmp_path, activation_kib=activation_kib))
    settings = Settings(Path("unused"), model="phi-1.5", npu=str(tmp_path / "own.yaml"), batches=(1, 64))
    crossings = pd.DataFrame({"weight_bits": [2, 3], "simulated_batch": [None, None], "roofline_batch": [20.0, 100.0]})
    said = memory_bound.rereading_text(settings, npu, crossings, 16)
    assert said.startswith(" (the roofline would at 20 at 2 bits")
    assert ("times the least bytes, as weights are read again" in said) is again
    assert memory_bound.rereading_text(settings, npu, crossings.assign(simulated_batch=64), 16) == ""


def test_a_model_without_a_value_of_a_bit_is_named_with_the_reason():
    columns = ["model", "target_tokens_per_s", "mean_decode_bits", "limited_by", "tokens_per_s"]
    rows = [
        ("vicuna-7b", 10, 4, None, 10.0),
        ("vicuna-7b", 10, 8, "codebook lookups", 7.5),
        ("phi-1.5", 10, 8, None, 10.0),
        ("phi-1.5", 50, 8, "MACs", 40.0),
    ]
    budget = pd.DataFrame(rows, columns=columns)
    assert bit_value.missing_text(budget, {"llama-3-8b": "too large"}, 10.0, (4, 8)) == (
        " Out of reach, whatever the bandwidth: vicuna-7b (at 8 bits codebook lookups end at 7.5 tokens/s). "
        "Left out: llama-3-8b, too large."
    )
    assert bit_value.missing_text(budget.head(1), {}, 10.0, (4, 8)) == ""


def test_what_the_memory_is_too_small_for_leaves_the_rest_of_a_question(tmp_path):
    npu = own_npu(tmp_path, capacity_bytes=1_000_000_000)
    table = width_units.energy_table(Settings(Path("unused"), model="phi-1.5", npu=npu, decode_tokens=1))
    assert table.groupby("unit")["weight_bits"].max().to_dict() == {"bit-serial": 3, "look-up": 3}


def test_another_model_that_cannot_run_is_left_out_by_name(tiny_model, tmp_path):
    npu = own_npu(tmp_path, activation_kib=64)
    finding = kv_bits.compute(replace(SETTINGS, npu=npu, model=tiny_model(64), batches=(1,), contexts=(8,)))
    assert " Left out: llama-3-8b, own: buffers.activation_kib = 64: " in finding.answer
    assert "llama-3-8b" not in set(finding.tables["kv_bits"]["model"])
