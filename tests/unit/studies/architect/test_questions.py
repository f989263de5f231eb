"""Each question: closed forms, directions, what is refused, and the results that are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import hwsim
from hwsim import SimulationOptions, load_npu, simulate
from hwsim.cost import DRAM_PJ_PER_BIT, NODES
from hwsim.trace import InputError, Schedule, synthetic_trace
from studies.architect import buffer_sizes, energy, kv_bits, memory_bound, speed_map, switching, templates, widths
from studies.architect.plot import FIGURES
from studies.architect.published import published_cases
from studies.architect.questions import QUESTIONS
from studies.architect.run import answer_origins, chosen_questions, run_architect
from studies.architect.settings import Settings, check_settings
from studies.architect.traffic import with_room
from studies.cli import main

RESULTS = Path(__file__).parents[4] / "studies" / "architect" / "results"
SETTINGS = Settings(Path("unused"), model="phi-1.5", npu="pmpd-4k", prompt_tokens=64, decode_tokens=12, progress=False)
NPU, SHAPE = SETTINGS.load()
BITS = {"kv_bits": 16, "lm_head_bits": 16}


def test_every_question_has_a_figure_and_asks_something():
    assert FIGURES.keys() == QUESTIONS.keys()
    assert all(question.question().endswith("?") for question in QUESTIONS.values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight_bits": (3, 16)}, "at least two widths below 16"),
        ({"weight_bits": (2, 3, 3)}, "each value may appear once"),
        ({"weight_bits": ()}, "weight_bits is empty"),
        ({"weight_bits": (2, 9)}, "9"),
        ({"npu": "flightllm-u280", "weight_bits": (2, 5)}, "flightllm-u280 supports 2, 3, 4, 8, 16"),
        ({"targets_tokens_per_s": (0.0,)}, "target = 0 tokens/s: must be > 0"),
        ({"targets_tokens_per_s": (float("nan"),)}, "must be > 0 and finite"),
        ({"prompt_tokens": 0}, "prompt_tokens = 0: must be >= 1"),
        ({"contexts": (0,)}, "context = 0: must be 1..2047"),
        ({"contexts": (2048,)}, "context = 2048: must be 1..2047, as phi-1.5 holds 2048 tokens"),
        ({"contexts": (64, 64)}, "each value may appear once"),
        ({"contexts": tuple(range(1, 11))}, "10 values: at most 9 are told apart"),
        ({"batches": (0,)}, "batch = 0: must be 1..1024"),
        ({"batches": (5000,)}, "batch = 5000: must be 1..1024"),
        ({"model": "vicuna-7b", "npu": "edge-lpddr4"}, "memory.capacity_bytes"),
        ({"prompt_tokens": 2040}, "holds at most 2048 tokens"),
        ({"model": "phi-1.6"}, "did you mean 'phi-1.5'"),
        ({"npu": "pmpd-4m"}, "pmpd-4k"),
    ],
)
def test_settings_that_cannot_run_are_refused_in_a_line(change, words):
    with pytest.raises(InputError) as refused:
        check_settings(replace(SETTINGS, **change))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_model_that_the_paper_does_not_print_is_asked_the_other_questions():
    names = chosen_questions(replace(SETTINGS, model="llama-3-8b"), [])
    assert set(QUESTIONS) - set(names) == {"widths", "codesign", "sensitivity"}
    assert chosen_questions(SETTINGS, []) == tuple(QUESTIONS)
    with pytest.raises(InputError, match="Table 1 has .*vicuna-7b"):
        chosen_questions(replace(SETTINGS, model="llama-3-8b"), ["widths"])
    with pytest.raises(InputError, match="unknown question 'energi'; did you mean 'energy'"):
        chosen_questions(SETTINGS, ["energi"])


def test_the_map_is_memory_bound_from_the_fewest_macs_that_stay_so():
    grid = pd.DataFrame({"macs": [64, 128, 256, 512], "e": [0.1, 0.7, 0.4, 0.9]})
    assert speed_map.least_macs(grid, "e") == 512
    assert speed_map.least_macs(grid.assign(e=0.9), "e") == 64
    assert speed_map.least_macs(grid.assign(e=0.1), "e") is None


def test_a_knee_is_the_least_size_at_99_percent():
    sizes = pd.DataFrame({"kib": [1.0, 2.0, 4.0, 8.0], "speed": [5.0, 9.91, 10.0, 9.0]})
    assert buffer_sizes.knee_kib(sizes, "speed") == 2.0


def test_a_first_token_many_times_as_late_is_told_as_a_factor():
    knees = pd.DataFrame(
        [
            {"buffer": name, "phase": phase, "knee_kib": 2.0}
            for name in buffer_sizes.BUFFERS
            for phase in ("decode", "prefill")
        ]
    )
    shared = {"weight_bits": 3, "sram_mm2": 1.0, "decode_tokens_per_s": 10.0}
    times = {"as given": 0.5, "knees": 0.4, "knees of decoding": 58.5}
    combined = pd.DataFrame([{**shared, "buffers": label, "ttft_s": time} for label, time in times.items()])
    answer = buffer_sizes.answer_of(knees, combined)
    assert "0.8 times the time to the first token" in answer
    assert "117 times the time to the first token" in answer


def test_larger_buffers_take_more_area_and_never_slow_decoding():
    speeds, areas = [], []
    for size in (64.0, 256.0, 1024.0):
        npu = buffer_sizes.with_buffers(NPU, {"weight": size})
        speeds.append(buffer_sizes._speeds(SETTINGS, npu, SHAPE, 3)[0])
        areas.append(sum(hwsim.cost.area_mm2(npu).values()))
    assert speeds == sorted(speeds)
    assert areas == sorted(set(areas))


def test_one_sequence_is_bound_by_memory_and_a_large_batch_without_context_is_not():
    roomy = with_room(load_npu("server-hbm3e"))
    alone, many = (
        memory_bound.memory_elasticity(roomy, SHAPE, weight_bits=2, batch=batch, context=8, **BITS)[1]
        for batch in (1, 256)
    )
    assert alone > 0.9
    assert many < 0.5


def test_the_models_own_bound_is_no_limit_of_the_context():
    assert memory_bound.limit_text(227, SHAPE) == "beyond 227 tokens of context no batch can"
    text = memory_bound.limit_text(SHAPE.max_context - 1, SHAPE)
    assert text == "at any context up to 2,047 tokens a large enough batch can"


@pytest.mark.parametrize("name", hwsim.NPU_NAMES)
def test_the_context_limit_is_where_a_sequences_own_bytes_take_as_long_as_its_macs(name):
    from studies.architect.traffic import batch_trace, step_law

    npu = load_npu(name)
    ridge = memory_bound.ridge_macs_per_byte(npu)
    limits = [memory_bound.context_limit(npu, SHAPE, kv_bits=bits, lm_head_bits=16) for bits in (16, 8, 4)]
    assert limits == sorted(limits)  # fewer KV bits, longer contexts
    for tokens, expected in ((limits[0], True), (limits[0] + 1, False)):
        if 0 < tokens < SHAPE.max_context:
            law = step_law(npu, SHAPE, batch_trace(SHAPE, 16, 1, tokens, **BITS), tokens)
            assert (law.macs / ridge > law.own_bytes) is expected


def test_the_value_of_a_kv_bit_crosses_where_the_line_passes_one():
    rows = pd.DataFrame({"context": [100, 200, 400], "kv_bit_over_weight_bit": [0.25, 0.5, 1.5]})
    rows = rows.assign(weight_bit_s=1.0, kv_bit_s=1.0)
    assert kv_bits.crossing(rows) == 300
    assert kv_bits.crossing(rows.head(2)) is None
    assert kv_bits.crossing(rows.tail(1)) == 400


def test_simulated_bits_are_worth_their_bytes():
    from studies.architect.traffic import kv_plane_bytes, plane_bytes

    row = kv_bits.worth_row(SETTINGS, NPU, SHAPE, 1, 1024)
    expected = kv_plane_bytes(SHAPE, 1024) / plane_bytes(SHAPE)
    # Codebooks make a weight bit dearer than its plane.
    assert 0.85 * expected < row["kv_bit_over_weight_bit"] <= expected


def test_the_energy_of_a_token_is_the_steps_work_and_dram_is_its_bytes():
    parts = energy.token_energy_j(SETTINGS, NPU, SHAPE, 3, 64)
    runs = [
        simulate(
            NPU,
            SHAPE,
            synthetic_trace(SHAPE, Schedule.uniform(3), prompt_tokens=64, decode_tokens=steps),
            SimulationOptions(engine="events"),
        )
        for steps in (0, energy.STEPS)
    ]
    spent, moved = (getattr(runs[1], name) - getattr(runs[0], name) for name in ("energy_j", "dram_bytes"))
    assert sum(parts.values()) == pytest.approx(spent / energy.STEPS)
    assert parts["dram"] == pytest.approx(moved * 8 * DRAM_PJ_PER_BIT["lpddr4"] * 1e-12 / energy.STEPS)
    fewer = energy.token_energy_j(SETTINGS, NPU, SHAPE, 2, 64)
    longer = energy.token_energy_j(SETTINGS, NPU, SHAPE, 3, 512)
    assert sum(fewer.values()) < sum(parts.values()) < sum(longer.values())


@pytest.mark.parametrize("name", hwsim.NPU_NAMES)
def test_every_constant_of_energy_has_a_unit_and_a_source(name):
    npu = load_npu(name)
    table = energy.constant_table(npu)
    values = dict(zip(table["constant"], table["value"], strict=True))
    node = npu.cost.node
    assert values[f"mac_pj ({node})"] == NODES[node].mac_pj
    assert values[f"dram_pj_per_bit ({npu.cost.dram})"] == DRAM_PJ_PER_BIT[npu.cost.dram]
    assert table["source"].str.contains("quoted|computed|assumed").all()
    assert table["unit"].str.len().min() > 0


def test_sources_cover_every_technology_and_node():
    assert energy.DRAM_SOURCES.keys() == DRAM_PJ_PER_BIT.keys()
    assert energy.SRAM_SOURCES.keys() == NODES.keys()


def test_without_prefetch_a_switch_costs_nothing_and_steps_are_those_of_uniform_widths():
    trace = switching.alternating_trace(SETTINGS, SHAPE, 3)
    mixed = simulate(NPU, SHAPE, trace, SimulationOptions(engine="events")).columns
    uniform = {
        bits: simulate(
            NPU,
            SHAPE,
            synthetic_trace(SHAPE, Schedule.uniform(bits), prompt_tokens=64, decode_tokens=12),
            SimulationOptions(engine="fast"),
        ).columns
        for bits in (2, 3)
    }
    assert set(mixed.weight_bits[mixed.step >= 0]) == {2, 3}
    for step, bits, cycles in zip(mixed.step, mixed.weight_bits, mixed.cycles, strict=True):
        if step >= 0:
            assert cycles == uniform[int(bits)].cycles[uniform[int(bits)].step == step][0]


@pytest.mark.slow
def test_a_prefetch_of_the_wrong_width_costs_in_proportion_to_the_switches():
    table = switching.switch_table(replace(SETTINGS, decode_tokens=32), NPU, SHAPE).set_index(
        ["variant", "period_tokens"]
    )
    guess = table.loc["prefetch, width assumed unchanged"]
    assert (guess["cycles_per_switch"] > 0).all()
    assert guess.loc[1, "share_of_decoding"] > guess.loc[2, "share_of_decoding"] > guess.loc[4, "share_of_decoding"]
    for name in ("no prefetch", "prefetch, width planned"):
        assert (table.loc[name]["cycles_per_switch"] == 0).all()
    with pytest.raises(InputError, match="must be above 32 for a switch"):
        switching.alternating_trace(replace(SETTINGS, decode_tokens=32), SHAPE, 32)


def test_a_width_more_never_takes_less_area_and_bit_serial_needs_no_table():
    table = widths.unit_table(SETTINGS).set_index(["unit", "widths"])
    lookup = table.loc["look-up"]["lookup_mm2"]
    for fewer, more in (("2", "2+3"), ("3", "2+3"), ("3", "3+4"), ("2+3", "2+3+4"), ("2+3+4", "2+3+4+8")):
        assert lookup[fewer] < lookup[more]
    assert (table.loc["bit-serial"]["lookup_mm2"] == 0).all()


def test_qualities_are_the_papers_over_its_high_precision_baseline():
    cnn, dialogsum = (case for case in published_cases(SETTINGS))
    assert widths.relative_qualities(cnn) == {
        "p3:3": pytest.approx(13.4 / 16.2),
        "p4:4": 1.0,
        "p4:4>3@170": pytest.approx(16.2 / 16.2),
    }
    assert widths.relative_qualities(dialogsum)["p4:4>3@11"] == pytest.approx(18.1 / 18.0)


@pytest.mark.slow
def test_the_least_area_by_search_is_that_of_the_exact_exploration(tmp_path):
    settings = replace(SETTINGS, out=tmp_path)
    case = published_cases(settings)[1]
    rows = pd.DataFrame(widths.set_rows(settings, case, 20.0))
    best = rows[rows["loss"] == 0].dropna(subset=["area_mm2"]).sort_values("area_mm2").iloc[0]
    exact = widths.exact_row(settings, case, 20.0)
    assert (best["widths"], best["schedule"]) == (exact["widths"], exact["schedule"])
    # The exploration's bandwidths are 1% apart.
    assert best["area_mm2"] <= exact["area_mm2"] <= 1.01 * best["area_mm2"]


def test_a_template_that_cannot_hold_the_model_says_why():
    edge = load_npu("edge-lpddr4")
    row = templates.template_row(replace(SETTINGS, model="longchat-13b", prompt_tokens=8000), edge, "edge-lpddr4")
    assert "memory.capacity_bytes" in row["cannot_run"]
    fits = templates.template_row(SETTINGS, edge, "edge-lpddr4")
    assert fits["cannot_run"] is None
    assert fits["decode_tokens_per_s"] > 0


@pytest.mark.slow
def test_the_command_answers_writes_and_draws(tmp_path, capsys):
    out = tmp_path / "answers"
    command = ["study", "architect", "--quiet", "--model", "phi-1.5", "--npu", "edge-lpddr4", "--out", str(out)]
    assert main([*command, "--only", "templates"]) == 0
    assert "phi-1.5 at 3 bits: edge-lpddr4" in capsys.readouterr().out
    answer = json.loads((out / "templates.json").read_text())
    assert (answer["question"], answer["tables"]) == (templates.QUESTION, ["templates.csv"])
    assert {"answer", "assumed", "not_shown", "settings", "provenance"} <= answer.keys()
    assert (out / "templates.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text()
    assert templates.QUESTION in page
    assert "templates.csv" in page
    assert main([*command, "--only", "tempaltes"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "did you mean 'templates'" in error
    taken = tmp_path / "file"
    taken.write_text("mine")
    assert main([*command[:-1], str(taken), "--only", "templates"]) == 2
    assert taken.read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["speed-map", "energy", "switching"])
def test_a_question_is_answered_for_another_model_and_npu(name, tmp_path):
    settings = replace(SETTINGS, out=tmp_path, npu="mobile-lpddr5", decode_tokens=20)
    answers = run_architect(settings, [name])
    assert answers[name].endswith((".", ")."))
    stem = name.replace("-", "_")
    assert (tmp_path / f"{stem}.svg").read_text().startswith("<?xml")
    assert len(pd.read_csv(tmp_path / f"{stem}.csv")) > 0


def test_every_question_is_kept_with_its_tables_figure_and_clean_provenance():
    manifest = json.loads((RESULTS / "manifest.json").read_text())
    assert manifest["answers"] == answer_origins(RESULTS)  # answers of several runs; the page names each one's commit
    for name in QUESTIONS:
        stem = name.replace("-", "_")
        kept = json.loads((RESULTS / f"{stem}.json").read_text())
        assert kept["question"] == QUESTIONS[name].question()
        assert "dirty" not in kept["provenance"]["commit"]
        for file in (*kept["tables"], f"{stem}.png", f"{stem}.svg"):
            assert (RESULTS / file).is_file(), file


def test_kept_numbers_are_those_of_a_fresh_run():
    kept = pd.read_csv(RESULTS / "templates.csv").set_index("npu")
    settings = Settings(Path("unused"))
    fresh = templates.template_row(settings, load_npu("mobile-lpddr5"), "mobile-lpddr5")
    for column in ("decode_tokens_per_s", "ttft_s", "area_mm2", "j_per_token"):
        assert kept.loc["mobile-lpddr5", column] == pytest.approx(fresh[column], rel=1e-6)
    energies = pd.read_csv(RESULTS / "energy.csv").set_index(["weight_bits", "context", "component"])["j_per_token"]
    for name, joules in energy.token_energy_j(settings, *settings.load(), 3, 512).items():
        assert energies.get((3, 512, name), 0.0) == pytest.approx(joules, rel=1e-6)
