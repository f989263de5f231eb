"""The report of an exploration: what it says follows from the tables, and it stands alone."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import dse
from dse.log import LOG_NAME
from dse.problem import prepare
from dse.sensitivity import DEFAULT_POINTS
from dse.validation import judged_by
from hwsim.trace import InputError
from studies.cli import main
from studies.common.collection import write_collection
from studies.common.report import Report, Text
from studies.common.report_markdown import write_markdown
from studies.explore_report import plot
from studies.explore_report import run as report_run
from studies.explore_report.analyses import leaves
from studies.explore_report.content import make_lead, make_sections
from studies.explore_report.numbers import collect_numbers
from studies.explore_report.plot_designs import MAX_BARS, _levels, draw_front, spread, wants_log
from studies.explore_report.plot_search import draw_sensitivity
from studies.explore_report.quantities import cell, limit_text, quantity, share
from studies.explore_report.run import write_exploration_report

mpl.use("Agg")
EXAMPLE = Path(report_run.__file__).parent / "example"

STUDY = {
    "workloads": [{"model": "vicuna-7b", "prompt_tokens": 50, "decode_tokens": 60}],
    "npu": "pmpd-4k",
    "schedules": ["p4:2", "p4:3", "p4:4", "p4:4>2@30"],
    "parameters": {
        "memory.bandwidth_bytes_per_s": {"type": "categorical", "choices": ["16e9", "32e9", "64e9", "128e9"]},
        "control.prefetch": {"type": "categorical", "choices": ["none", "planned"]},
        "buffers.resident_codebook_kib": {
            "type": "categorical",
            "choices": [16, 64],
            "when": {"control.prefetch": "planned"},
        },
    },
    "objectives": [
        {"name": "decode_tokens_per_s", "direction": "maximize"},
        {"name": "mean_decode_bits", "direction": "maximize"},
        {"name": "bandwidth_bytes_per_s", "direction": "minimize"},
    ],
    "constraints": [{"name": "area_mm2", "op": "<=", "bound": 7}],
    "budget": 500,
}


def closed_form(design):
    bits = design.schedule.mean_bits(60)
    bandwidth = design.npu["memory.bandwidth_bytes_per_s"]
    resident = design.npu.get("buffers.resident_codebook_kib", 0)
    if resident == 64 and bandwidth == 16e9:
        raise InputError("buffers.resident_codebook_kib = 64: too many")
    return {
        "decode_tokens_per_s": bandwidth / (1e9 * bits / 8) * (1 + resident / 1000),
        "area_mm2": bandwidth / 16e9 + resident / 100,
        "bandwidth_bytes_per_s": bandwidth,
        "mean_decode_bits": bits,
    }


@pytest.fixture(scope="module")
def explored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explored")
    dse.explore(dse.parse_study(STUDY, "study.yaml"), folder, evaluate=closed_form, progress=False)
    return folder


@pytest.fixture(scope="module")
def page(explored):
    return write_exploration_report(explored, progress=False)


def words_of(folder, out):
    """The report's Markdown without its figures, which take seconds to draw."""
    numbers = collect_numbers(folder)
    numbers.write_tables(out)
    path = out / "report.md"
    lead, sections = make_lead(numbers), make_sections(numbers, {})
    write_markdown(path, Report("t", lead, sections, {"numpy": "2"}))
    return path.read_text(encoding="utf-8")


class Parser(HTMLParser):
    """Notes every address that a page would load, and every tag left open."""

    def __init__(self):
        super().__init__()
        self.loads = []

    def handle_starttag(self, tag, attrs):
        self.loads += [value for name, value in attrs if name in {"src", "href", "xlink:href"} and value]


@pytest.mark.slow
def test_a_collection_takes_an_exploration_up(page, tmp_path):
    assert write_collection([page.parent], tmp_path / "all.html") == 1
    text = (tmp_path / "all.html").read_text(encoding="utf-8")
    assert text.count("<svg") == page.read_text(encoding="utf-8").count("<svg") > 0


@pytest.mark.slow
def test_the_page_stands_alone(page):
    parser = Parser()
    parser.feed(page.read_text(encoding="utf-8"))
    assert [address for address in parser.loads if not address.startswith(("#", "data:"))] == []


@pytest.mark.slow
def test_every_table_and_figure_of_the_report_is_written(page):
    names = {path.name for path in page.parent.iterdir()}
    tables = {"pareto.csv", "hypervolume.csv", "stopped.csv", "relaxations.csv", "exchange.csv", "importance.csv"}
    figures = {
        f"{name}.{kind}" for name in ("front", "hypervolume", "importance", "parallel") for kind in ("png", "svg")
    }
    assert tables | figures | {"scatter.svg", "worth.svg", "report.html", "report.md"} <= names
    markdown = (page.parent / "report.md").read_text(encoding="utf-8")
    linked = re.findall(r"!\[[^]]*\]\(([^)]+)\)", markdown)
    assert linked and all((page.parent / name).exists() for name in linked)
    # Provenance: the run's versions, and the record that was read.
    assert "- record sha256: " in markdown and "- numpy: " in markdown


def test_the_report_says_what_the_exploration_holds(explored, tmp_path):
    text = words_of(explored, tmp_path)
    found = dse.load_exploration(explored)
    trials = found.trials[found.trials["error"].isna()]
    assert f"{len(trials):,} designs of a space of 48 designs were simulated" in text
    assert "The front is exact" in text and f"{len(found.pareto)} of them are on the front" in text
    stopped = int((trials["area_mm2"] > 7).sum())
    assert f"| area_mm2 \\<= 7 | {stopped} |" in text
    assert "| buffers.resident_codebook_kib | 16, 64 | control.prefetch is planned |" in text
    assert "| buffers.resident_codebook_kib = 64: too many | 4 |" in text
    # At 2 bits a GB/s buys 4 tokens/s, and what resident codebooks add: all of it from the tables.
    rate = pd.read_csv(tmp_path / "exchange.csv").iloc[0]["rate"]
    assert f"| all designs | {rate * 1e9:.4g} |" in text
    assert "sampled" not in text and "biased" not in text


def test_a_sample_is_called_one(explored, tmp_path):
    study = dse.parse_study(STUDY | {"sampler": "random", "budget": 12}, "study.yaml")
    dse.explore(study, tmp_path, evaluate=closed_form, progress=False)
    numbers = collect_numbers(tmp_path)
    assert make_lead(numbers).endswith("The space was sampled: designs that were not simulated may be better.")
    chosen = replace(numbers, found=replace(numbers.found, sampler="tpe"))
    blocks = [block for section in make_sections(chosen, {}) for block in section.blocks]
    text = "\n".join(block.text for block in blocks if isinstance(block, Text))
    assert "The tpe sampler chose designs by what it knew" in text and "at least what is shown" in text


def test_what_does_not_act_is_drawn_below_the_axis():
    column = pd.Series([16.0, 64.0, np.nan, 32.0], name="buffers.kv_kib")
    heights, ticks = _levels(column)
    assert heights.tolist() == [0.0, 1.0, pytest.approx(-0.12), pytest.approx(1 / 3)]
    assert [text for _, text in ticks] == ["off", "16", "32", "64"]
    words, ticks = _levels(pd.Series(["b", "a", "c"], name="control.prefetch"))
    assert words.tolist() == [0.5, 0.0, 1.0] and [text for _, text in ticks] == ["a", "b", "c"]
    assert wants_log(np.array([1.0, 100.0])) and not wants_log(np.array([-1.0, 100.0]))
    assert spread(0, 5).tolist() == [] and spread(3, 9).tolist() == [0, 1, 2] and spread(100, 3).tolist() == [0, 50, 99]


def test_quantities_are_written_in_the_units_people_use():
    assert cell("ttft_s", 0.0042) == "4.2" and quantity("ttft_s").name == "TTFT (ms)"
    limit = dse.Constraint(name="bandwidth_bytes_per_s", op="<=", bound=32, unit="GB/s")
    assert limit_text(limit) == "≤ 32"
    assert (share(0.5), share(0.99999), share(1.25)) == ("50%", "100%", "125%")
    assert cell("x", True) == "True" and cell("x", None) == "off" and cell("matrix.weight_widths", [2, 4]) == "[2, 4]"
    assert leaves({"a_b": {"c": True}, "d": 1234}) == [("a b: c", "yes"), ("d", "1,234")]


@pytest.fixture
def copied(explored, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / LOG_NAME).write_bytes((explored / LOG_NAME).read_bytes())
    return folder


def test_a_sensitivity_left_in_the_folder_is_reported(copied, tmp_path):
    found = dse.load_exploration(copied)
    number = int(found.pareto["number"].iloc[0])
    result = dse.measure_sensitivity(found, design=number, points=16, evaluate=closed_form, progress=False)
    result.write(copied)
    text = words_of(copied, tmp_path)
    assert f"Sobol's indices around trial {number}" in text
    for row in result.table.head(3).itertuples():
        assert f"| {row.first_order:z.2f} | {row.total_order:z.2f} |" in text
    assert "with 16 points: smaller differences between shares say nothing" in text and "-0.00 |" not in text
    figure = plt.figure(layout="constrained")
    assert draw_sensitivity(figure, collect_numbers(copied)) and len(figure.axes) == result.table["metric"].nunique()
    for axes in figure.axes:  # an estimate from few points may lie beyond what a share can be, and is not cut off
        assert axes.get_xlim()[0] <= min(0, result.table["total_order_ci_low"].min())
        assert axes.get_xlim()[1] >= result.table["total_order_ci_high"].max()
    plt.close(figure)


def test_a_logarithmic_colour_bar_has_plain_numbers_at_every_tick_it_labels(explored):
    numbers = collect_numbers(explored)
    front = numbers.found.pareto
    front = front.assign(bandwidth_bytes_per_s=np.geomspace(2e9, 90e9, len(front)))
    figure = plt.figure(layout="constrained")
    assert draw_front(figure, replace(numbers, found=replace(numbers.found, pareto=front)))
    figure.canvas.draw()
    axis = figure.axes[-1].yaxis
    major, minor = ([tick.get_text() for tick in axis.get_ticklabels(minor=flag)] for flag in (False, True))
    assert len(major) >= 3 and {text.lstrip("0.")[:1] for text in major} <= {"1", "2", "5"}
    assert set(minor) <= {""}
    plt.close(figure)


def test_prices_left_in_the_folder_take_the_place_of_the_records_own(copied, tmp_path):
    collect_numbers(copied).relaxations.assign(gain=123.0).to_csv(copied / "prices.csv", index=False)
    assert "| +123 |" in words_of(copied, tmp_path)


def test_prices_of_another_study_or_simulator_are_left_aside(copied):
    own = collect_numbers(copied).relaxations
    others = own.assign(constraint="area_mm2 <= 8"), own.assign(best=own["best"] * 1.01), own.assign(objective="ttft_s")
    for changed in (*others, own[own["objective"] != "mean_decode_bits"]):
        changed.assign(gain=123.0).to_csv(copied / "prices.csv", index=False)
        assert len(own) > 0 and (collect_numbers(copied).relaxations["gain"] != 123.0).all()


def test_the_report_of_a_folder_without_a_design_says_why(tmp_path, explored):
    with pytest.raises(InputError, match="no such file; run the study first"):
        write_exploration_report(tmp_path)
    (tmp_path / LOG_NAME).write_bytes((explored / LOG_NAME).read_bytes().split(b"\n")[0] + b"\n")
    with pytest.raises(InputError, match="no design was simulated: the run has only begun"):
        write_exploration_report(tmp_path)


def test_where_no_design_keeps_the_limits_the_report_says_what_binds(tmp_path):
    study = dse.parse_study(STUDY | {"constraints": [{"name": "area_mm2", "op": "<=", "bound": 0.5}]}, "study.yaml")
    with pytest.raises(InputError, match="keeps the constraints"):
        dse.explore(study, tmp_path, evaluate=closed_form, progress=False)
    text = words_of(tmp_path, tmp_path)
    assert "and none keeps all limits" in text and "| area_mm2 \\<= 0.5 | 44 | 100% | 44 |" in text


def test_the_commands_answer_in_text_and_json(explored, capsys):
    question = ["explore", "ask", str(explored), "--min-tokens-per-s", "50", "--minimise", "bandwidth"]
    assert main(question) == 0
    assert capsys.readouterr().out.startswith("bandwidth_bytes_per_s = 16 GB/s: trial ")
    assert main([*question, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["exact"] and answer["space_size"] == 48 and answer["design"]["bandwidth_bytes_per_s"] == 16e9
    assert [margin["constraint"] for margin in answer["margins"]] == ["decode_tokens_per_s >= 50", "area_mm2 <= 7"]
    shown = answer["simulator_error"]
    assert shown["area_mm2"] == [] and shown["decode_tokens_per_s"][0]["n"] == 3
    assert main(["explore", "sensitivity", str(explored), "--points", "7"]) == 2
    assert "points = 7: must be a power of two" in capsys.readouterr().err
    assert main(["explore", "report", str(explored / "nowhere")]) == 2
    assert main(["explore", "prices", str(explored), "--loosen", "7", "--quiet"]) == 2


def test_the_report_shows_a_bar_unless_it_is_to_be_quiet(explored, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plot, "FIGURES", {"front": replace(plot.FIGURES["front"], draw=lambda figure, numbers: False)})
    command = ["explore", "report", str(explored), "--out", str(tmp_path)]
    assert main(command) == 0
    assert "figures: " in capsys.readouterr().err
    assert main([*command, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_the_fronts_bars_reach_to_what_the_errors_of_the_validation_allow(explored, tmp_path):
    numbers = collect_numbers(explored)
    figure = plt.figure(layout="constrained")
    assert draw_front(figure, numbers)
    errors = judged_by("realistic", "decode_tokens_per_s")
    label = f"decode tokens/s if {errors.brief()} (validation, n = {errors.n})"
    assert label in [text.get_text() for text in figure.legends[0].get_texts()]
    (bars,) = (one for one in figure.axes[0].containers if one.get_label() == label)
    (lines,) = bars[2]
    speeds = numbers.found.pareto["decode_tokens_per_s"].to_numpy()
    assert len(speeds) <= MAX_BARS
    ends = np.array([segment[:, 0] for segment in lines.get_segments()])
    np.testing.assert_allclose(ends[:, 0], speeds / (1 + errors.largest))
    np.testing.assert_allclose(ends[:, 1], speeds)
    plt.close(figure)
    assert f"Decode tokens/s was off by {errors} in the validation" in words_of(explored, tmp_path)


def test_the_kept_example_is_of_the_defaults_and_of_the_errors_that_are_shipped():
    front, sensitivity = (pd.read_csv(EXAMPLE / f"{name}.csv") for name in ("pareto", "sensitivity-design-14"))
    assert set(sensitivity["n"]) == {DEFAULT_POINTS}
    errors = judged_by("realistic", "decode_tokens_per_s")
    for end, value in (("low", errors.true_low), ("high", errors.true_high)):
        expected = value(front["decode_tokens_per_s"])
        np.testing.assert_allclose(front[f"decode_tokens_per_s_error_{end}"], expected, rtol=1e-9)
    assert f"Decode tokens/s was off by {errors} in" in (EXAMPLE / "report.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_kept_example_is_what_the_simulator_says():
    study = dse.read_study(EXAMPLE / "study.yaml")
    front = pd.read_csv(EXAMPLE / "pareto.csv")
    problem = prepare(study)
    for row in front.iloc[[0, len(front) // 2, -1]].to_dict("records"):
        design = problem.space.decode({path: row[path] for path in (*study.parameters, "schedule")})
        for name, value in problem.metrics(design).items():
            assert value == pytest.approx(row[name], rel=1e-9), name
    text = (EXAMPLE / "report.md").read_text(encoding="utf-8")
    assert f"{len(front)} of them are on the front" in text and "The front is exact" in text
