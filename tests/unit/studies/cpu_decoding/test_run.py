from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from accuracy.linear import nested_linears
from accuracy.quantization import quantize
from accuracy.reference import MODEL_FOLDER
from studies import cli
from studies.cpu_decoding.modes import CACHED, FLOAT, FLOAT_AGAIN, MEMORY_MODES, SPEED_MODES, UNPACKED, Mode
from studies.cpu_decoding.plot import write_figure
from studies.cpu_decoding.run import CASES, Case, Settings, run_cpu_decoding, slower_widths, summarise

RESULTS = Path(cli.__file__).parent / "cpu_decoding" / "results"


def test_every_width_runs_cached_and_unpacked_beside_two_float_runs():
    assert [mode.name for mode in SPEED_MODES[:2]] == [FLOAT, FLOAT_AGAIN]
    widths = {name: [mode.bits for mode in SPEED_MODES if mode.name == name] for name in (CACHED, UNPACKED)}
    assert widths == {CACHED: [2, 3, 4, 5, 6, 7, 8, 16], UNPACKED: [2, 3, 4, 5, 6, 7, 8]}


def test_summary_gives_percentiles_of_speed_and_of_the_ratio_within_a_repeat():
    rows = [
        {"model": "m", "mode": "cached", "weight_bits": 4, "repeat": i, "tokens_per_cpu_s": v, "ratio_to_float": v / 10}
        for i, v in enumerate([5.0, 1.0, 2.0, 3.0, 4.0, 6.0])
    ]
    (row,) = summarise(pd.DataFrame(rows)).to_dict("records")
    assert row["n"] == 6
    assert [row[f"tokens_per_cpu_s_{name}"] for name in ("p20", "median", "p80")] == [2.0, 3.5, 5.0]
    assert [row[f"ratio_{name}"] for name in ("p20", "median", "p80")] == pytest.approx([0.2, 0.35, 0.5])
    (single,) = summarise(pd.DataFrame(rows[:1])).to_dict("records")
    assert single["ratio_p20"] == single["ratio_median"] == single["ratio_p80"] == 0.5


def test_a_width_is_slower_only_beyond_the_spread_of_two_float_runs():
    def row(mode, bits, p20, median, p80):
        return {
            "model": "m",
            "mode": mode,
            "weight_bits": bits,
            "ratio_p20": p20,
            "ratio_median": median,
            "ratio_p80": p80,
        }

    summary = pd.DataFrame(
        [
            row(FLOAT_AGAIN, 16, 0.95, 1.0, 1.05),
            row(CACHED, 2, 0.90, 0.96, 0.99),
            row(CACHED, 3, 0.80, 0.90, 1.01),
            row(CACHED, 4, 0.80, 0.90, 0.99),
            row(UNPACKED, 4, 0.10, 0.20, 0.30),
        ]
    )
    assert slower_widths(summary)["weight_bits"].tolist() == [4]


def test_modes_load_what_their_names_say(tmp_path):
    quantize(MODEL_FOLDER, tmp_path / "store", progress=False)
    cached, unpacked = (Mode(name, 3, max_bits=3).load(MODEL_FOLDER, tmp_path / "store") for name in (CACHED, UNPACKED))
    plain = Mode(FLOAT).load(MODEL_FOLDER, tmp_path / "store")
    assert not list(nested_linears(plain.model))
    assert plain.model.dtype == cached.model.dtype == unpacked.model.dtype == torch.float32
    assert all(layer.widths == (2, 3) and layer.cached_widths for layer in nested_linears(cached.model))
    assert all(layer.widths == (2, 3) and not layer.cached_widths for layer in nested_linears(unpacked.model))


def test_figure_is_drawn_from_the_kept_tables(tmp_path):
    for name in ("summary", "memory"):
        (tmp_path / f"{name}.csv").write_bytes((RESULTS / f"{name}.csv").read_bytes())
    assert [path.name for path in write_figure(tmp_path)] == ["cpu_decoding.png", "cpu_decoding.svg"]


def test_kept_run_measured_every_mode_of_every_model():
    summary, memory = (pd.read_csv(RESULTS / f"{name}.csv") for name in ("summary", "memory"))
    assert summary.groupby("model").size().to_dict() == {case.name: len(SPEED_MODES) for case in CASES}
    assert memory.groupby("model").size().to_dict() == {case.name: len(MEMORY_MODES) for case in CASES}
    assert (summary["n"] >= 5).all()


def test_the_readme_tells_the_kept_run():
    text = " ".join((RESULTS.parent / "README.md").read_text(encoding="utf-8").replace("**", "").split())
    summary, memory = (pd.read_csv(RESULTS / f"{name}.csv") for name in ("summary", "memory"))
    for (mode, bits), rows in summary.groupby(["mode", "weight_bits"]):
        cells = []
        for row in rows.itertuples():
            spread = f"{row.ratio_median:.2f} ({row.ratio_p20:.2f}..{row.ratio_p80:.2f})"
            cells += [f"{row.tokens_per_cpu_s_median:.3g}", "1" if mode == FLOAT else spread]
        shown = "-" if mode in (FLOAT, FLOAT_AGAIN) else bits
        assert f"| {mode} | {shown} | {' | '.join(cells)} |" in text
    cached, unpacked = (
        [rows["ratio_median"] for _, rows in summary[summary["mode"] == mode].groupby("model", sort=False)]
        for mode in (CACHED, UNPACKED)
    )
    small, large = (f"{ratios.min():.2f} to {ratios.max():.2f}" for ratios in cached)
    medians = [f"{ratios.median():.2f}" for ratios in cached]
    assert f"{small} on the small model and {large} on the large one, with medians of {' and '.join(medians)}" in text
    times = [f"{1 / ratios.max():.1f} to {1 / ratios.min():.1f} times" for ratios in unpacked]
    assert f"slower by {times[0]} on the small model and {times[1]} on the large one" in text
    assert slower_widths(summary).empty and "none of these 16 counts as slower" in text
    more = (memory["resident_bytes"] - memory["weight_bytes"]) / 1e6
    assert f"{more.min():.1f} to {more.max():.1f} MB more" in text
    held = memory.set_index(["model", "mode", "weight_bits", "whole_store"])["weight_bytes"]
    for mode in (CACHED, UNPACKED):
        for bits in (2, 3, 4, 6, 8):
            small, large = (held[case.name, mode, bits, False] / 1e6 for case in CASES)
            assert f"| store up to {bits} bits | {mode} at {bits} | {small:.1f} | {large:.0f} |" in text


def test_the_kept_run_is_of_a_clean_commit():
    provenance = json.loads((RESULTS / "manifest.json").read_text(encoding="utf-8"))["provenance"]
    assert "dirty" not in provenance["commit"] and provenance["commit"] != "unknown"


@pytest.mark.slow
def test_study_measures_in_fresh_processes_and_keeps_every_repeat(tmp_path):
    case = Case("shipped", MODEL_FOLDER, steps=2, turns=1)
    run_cpu_decoding(Settings(tmp_path, cases=(case,), repeats=2, progress=False))
    speed, memory = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("speed", "memory"))
    assert len(speed) == 2 * len(SPEED_MODES)
    assert (speed.loc[speed["mode"] == FLOAT, "ratio_to_float"] == 1).all()
    held = memory.set_index(["mode", "weight_bits", "whole_store"])["weight_bytes"]
    # 1.28M weights in linear layers; the rest, embedding and norms, is the same everywhere.
    dequantized = held[CACHED, 3, False] - held[UNPACKED, 3, False]
    assert dequantized == 4 * 1_277_952
    assert held[FLOAT, 16, False] > held[UNPACKED, 4, False]
    # A process grows by its tensors and little else: at most 6 MB of allocator and interpreter.
    assert ((memory["resident_bytes"] - memory["weight_bytes"]).abs() < 6e6).all()
    provenance = json.loads((tmp_path / "manifest.json").read_text())["provenance"]
    assert (provenance["threads"], provenance["repeats"]) == ("1", "2")
    assert (tmp_path / "cpu_decoding.png").is_file()
