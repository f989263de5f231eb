"""What the study's page says of each question is what the kept run kept, to the last digit shown."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pandas as pd

from documents import REPOSITORY
from hwsim.cost import DRAM_PJ_PER_BIT
from studies.architect.questions import QUESTIONS

STUDY = REPOSITORY / "studies" / "architect"
README = (STUDY / "README.md").read_text(encoding="utf-8")
NAMES = {
    "vicuna-7b": "Vicuna-7B",
    "mobilellama-1.4b": "MobileLLaMA-1.4B",
    "phi-1.5": "Phi-1.5",
    "stablelm-zephyr-3b": "StableLM-Zephyr-3B",
    "llama-3-8b": "Llama-3-8B",
    "longchat-13b": "LongChat-13B",
}


def kept(name: str) -> pd.DataFrame:
    return pd.read_csv(STUDY / "results" / f"{name}.csv")


def told(name: str) -> str:
    """What the page says of a question, on one line and without emphasis: prose may wrap anywhere."""
    (section,) = (part for part in re.split(r"^## ", README, flags=re.MULTILINE) if f": `{name}`\n" in part)
    return " ".join(section.replace("**", "").split())


def test_every_question_has_a_section_with_its_figure():
    for name in QUESTIONS:
        assert f"](results/{name.replace('-', '_')}.png)" in told(name)


def test_templates():
    text = told("templates")
    rows = kept("templates").set_index("npu")
    assert f"Vicuna-7B at {rows['weight_bits'].iloc[0]} bits decodes" in text
    alike = {f"{rows.loc[name, 'decode_tokens_per_s']:.1f}" for name in ("pmpd-4k", "pmpd-16k")}
    assert len(alike) == 1
    for name, row in rows.iterrows():
        speed = f"{row['decode_tokens_per_s']:.{1 if row['decode_tokens_per_s'] < 100 else 0}f}"
        said = re.search(rf"([\d.]+) on (?:`[\w-]+` and )?`{name}`", text)
        said = said or re.search(rf"([\d.]+) (?:tokens/s )?on `{name}`", text)
        assert said is not None and said[1] == speed, name
    for name, cell in (("edge-lpddr4", "{macs:,} MACs, {gb:.1f} GB/s"), ("server-hbm3e", "{macs:,} MACs, {gb:,.0f}")):
        row = rows.loc[name]
        assert f"({cell.format(macs=row['macs'], gb=row['bandwidth_bytes_per_s'] / 1e9)})" in text


def test_speed_map():
    text, balance = told("speed-map"), kept("speed_map_balance")
    here = balance[balance["bandwidth_bytes_per_s"] == 32e9].set_index("weight_bits")
    decode, prefill = (here[f"{phase}_memory_bound_from_macs"] for phase in ("decode", "prefill"))
    assert decode[2] == decode[3] and decode[4] == decode[16] == kept("speed_map")["macs"].min()
    assert (
        f"decoding from about {decode[2]:.0f} MACs on at 2 and 3 bits, from {decode[4]:.0f} or fewer at 4 and 16"
        in text
    )
    assert prefill[2] == prefill[3]
    assert (
        f"only from {prefill[2]:,.0f} MACs at 2 and 3 bits, {prefill[4]:,.0f} at 4 and {prefill[16]:,.0f} at 16" in text
    )
    assert f"{kept('speed_map').groupby('weight_bits').size().iloc[0]} NPUs a width" in text


def test_buffer_sizes():
    text = told("buffer-sizes")
    knees = kept("buffer_knees").pivot_table(index="buffer", columns="phase", values="knee_kib", aggfunc="max")
    decode = knees["decode"]
    assert (
        f"decoding needs {decode['weight']:g} KiB for weights, {decode['kv']:g} for KV, {decode['activation']:g} for "
        f"activations, {decode['codebook']:g} for codebooks and {decode['global']:g} for scores"
    ) in text
    prefill = knees["prefill"] / 1024
    assert f"needs {prefill['activation']:g} MiB of activations and {prefill['kv']:g} MiB of KV" in text

    rows = kept("buffer_combined").set_index(["buffers", "weight_bits"])
    given, alone, both = (rows.loc[name] for name in ("as given", "knees of decoding", "knees"))
    area, slower = alone["sram_mm2"].iloc[0], 1 - (alone["decode_tokens_per_s"] / given["decode_tokens_per_s"]).min()
    later = alone["ttft_s"] / given["ttft_s"]
    assert f"take {area:.2f} mm2 of SRAM where `pmpd-16k` has {given['sram_mm2'].iloc[0]:.2f}" in text
    assert f"cost {slower:.1%} of the decoding speed" in text
    assert f"first token {later.min():.0f} to {later.max():.0f} times as late" in text
    sooner = 1 - both["ttft_s"] / given["ttft_s"]
    assert f"the knees of both take {both['sram_mm2'].iloc[0]:.2f} mm2" in text
    assert f"first token {sooner.min():.0%} to {sooner.max():.0%} sooner".replace("% to", " to") in text

    sizes = kept("buffer_sizes").set_index(["buffer", "weight_bits", "kib"]).sort_index()
    flat = [sizes["prompts_per_s"]["kv", bits, 128.0] / sizes["prompts_per_s"]["kv", bits].max() for bits in (2, 3, 4)]
    assert {f"{share:.0%}" for share in flat} == {"98%"} and "128 KiB reach 98%" in text
    more = sizes["sram_mm2"]["kv", 2, 8192.0] - sizes["sram_mm2"]["kv", 2, 128.0]
    assert f"8 MiB cost {more:.1f} mm2 more" in text
    weight = sizes["prompts_per_s"]["weight", 2]
    assert f"At 2 bits 32 MiB reach {weight[32768.0] / weight[32.0]:.0%} of what 32 KiB do" in text


def test_memory_bound():
    text, limits = told("memory-bound"), kept("memory_bound_limits").set_index(["npu", "kv_bits"])
    crossings = kept("memory_bound_crossings").set_index(["npu", "context", "weight_bits"]).sort_index()
    own, server = (limits.loc[name] for name in ("pmpd-16k", "server-hbm3e"))
    assert f"On `pmpd-16k` ({own['ridge_macs_per_byte'].iloc[0]:.0f} MACs for each byte of bandwidth) never" in text
    assert crossings.loc["pmpd-16k"]["simulated_batch"].isna().all()
    assert f"beyond {own['longest_context'][16]} tokens of context no batch" in text
    assert f"On `server-hbm3e` ({server['ridge_macs_per_byte'].iloc[0]:.0f} MACs per byte)" in text
    longest = server["longest_context"]
    assert f"beyond {longest[16]} tokens ({longest[8]} with 8 KV bits, {longest[4]} with 4)" in text
    batches = sorted(set(kept("memory_bound")["batch"]))
    below = {high: low for low, high in pairwise(batches)}
    found = crossings.loc["server-hbm3e"]["simulated_batch"]
    few, more = int(found[32, 2]), {int(found[place]) for place in [(32, 3), (32, 4), (32, 16), (128, 2), (128, 16)]}
    assert f"between {below[few]} and {few} sequences at 2 bits and 32 tokens of context" in text
    (many,) = more
    assert f"between {below[many]} and {many} at 128 tokens or at more bits" in text
    roofline = crossings.loc["server-hbm3e", 128]["roofline_batch"]
    cells = [f"{roofline[bits]:.0f} at {bits}" for bits in (2, 3, 4, 16)]
    assert f"{cells[0]} bits, {', '.join(cells[1:])} (128 tokens, server)" in text
    assert f"it says {roofline[16]:.0f} sequences, the simulation {many} or fewer" in text


def test_bit_value():
    text, table = told("bit-value"), kept("bit_value")
    here = table[table["target_tokens_per_s"] == 10]
    third, fourth = (here[here["to_bits"] == bits].set_index("model") for bits in (3, 4))
    values = (third["bytes_per_s_per_bit"] / 1e9).map("{:.1f}".format)
    for model, value in values.items():
        assert re.search(rf"{value} (?:GB/s )?\((?:[\w., -]+, )?{re.escape(NAMES[model])}[,)]", text), model
    for rows, form in (
        (third, "{:.0f} to {:.0f}% more than its plane"),
        (fourth, "{:.0f} to {:.0f}% more than its plane"),
    ):
        over = 100 * rows["over_plane"]
        assert form.format(over.min(), over.max()) in text


def test_widths():
    text, units, sets = told("widths"), kept("widths_units"), kept("widths")
    tables = units[units["unit"] == "look-up"].set_index("widths")
    lookup = tables["lookup_mm2"].map("{:.2f}".format)
    assert f"{lookup['2']} mm2 for 2 bits, {lookup['2+3']} for 2+3, {lookup['2+3+4']} for 2+3+4" in text
    assert f"and {lookup['2+3+4+8']} for 2+3+4+8, on an array of {tables['array_mm2'].iloc[0]:.2f} mm2" in text
    serial = units[units["unit"] == "bit-serial"]["array_mm2"].unique()
    assert f"A bit-serial array takes {serial[0]:.2f} mm2 for every width" in text and len(serial) == 1

    def row(task, loss, widths, target=10):
        chosen = (sets["task"] == task) & (sets["loss"] == loss) & (sets["widths"] == widths)
        (found,) = sets[chosen & (sets["target_tokens_per_s"] == target)].to_dict("records")
        return found

    def saved(task, target, loss=0.0):
        return row(task, loss, "3", target)["area_mm2"] - row(task, loss, "2+3", target)["area_mm2"]

    beside = row("cnn-dm", 0, "2+3")["lookup_mm2"] - row("cnn-dm", 0, "3")["lookup_mm2"]
    assert f"supporting 2 beside 3 costs {beside:.2f} mm2 and saves {saved('cnn-dm', 10):.2f} mm2 (CNN/DM)" in text
    assert f"or {saved('dialogsum', 10):.2f} mm2 (DialogSum) of the whole NPU" in text
    less = [
        (row(task, 0, "3")["bandwidth_bytes_per_s"] - row(task, 0, "2+3")["bandwidth_bytes_per_s"]) / 1e9
        for task in ("cnn-dm", "dialogsum")
    ]
    assert f"needs {less[0]:.0f} to {less[1]:.0f} GB/s less" in text
    assert f"supporting 4 as well costs {row('cnn-dm', 0, '2+3+4')['over_best_mm2']:.2f} mm2" in text
    best = sets[sets["over_best_mm2"] == 0].set_index(["task", "loss", "target_tokens_per_s"])["widths"]
    for target in (10, 50):
        assert best["iwslt-fr-en", 0.0, target] == "3" and best["iwslt-fr-en", 0.02, target] == "2+3"
        assert best["cnn-dm", 0.0, target] == best["dialogsum", 0.0, target] == "2+3"
    savings = [saved("cnn-dm", 50), saved("dialogsum", 50), saved("iwslt-fr-en", 50, 0.02)]
    assert "saves {:.2f} (CNN/DM), {:.2f} (DialogSum) and {:.2f} mm2 (IWSLT with 2% lost)".format(*savings) in text
    assert "({0} of {0})".format(len(kept("widths_exact"))) in text


def test_energy():
    text, table = told("energy"), kept("energy")
    totals = 1e3 * table.pivot_table(index="weight_bits", columns="context", values="j_per_token", aggfunc="sum")
    here = totals[512]
    assert f"{here[2]:.0f} mJ at 2 bits, {here[3]:.0f} at 3, {here[4]:.0f} at 4 and {here[16]:,.0f} at 16" in text
    parts = table[(table["weight_bits"] == 3) & (table["context"] == 512)].set_index("component")["j_per_token"]
    share = parts / parts.sum()
    assert f"DRAM is {share['dram']:.0%} of it, static power {share['static']:.1%}, SRAM {share['sram']:.1%}" in text
    assert share[["matrix", "codebook_lookup", "sfu"]].sum() < 0.001 and "all arithmetic under 0.1%" in text
    assert f"instead of 3 saves {1 - here[2] / here[3]:.0%}" in text
    least, most = totals.columns.min(), totals.columns.max()
    more = totals.loc[3, most] - totals.loc[3, least]
    assert f"{most - least:,} more tokens of context add {more:.0f} mJ" in text
    ratio = DRAM_PJ_PER_BIT["lpddr5x"] / DRAM_PJ_PER_BIT["lpddr4"]
    assert f"with LPDDR5X's {DRAM_PJ_PER_BIT['lpddr5x']} pJ (read core only)" in text
    assert f"would cost {1 - share['dram'] * (1 - ratio):.0%} of it" in text


def test_kv_bits():
    text, crossings = told("kv-bits"), kept("kv_bits_crossings").set_index(["model", "batch"])
    for model in dict.fromkeys(crossings.index.get_level_values("model")):
        row = crossings.loc[model, 1]
        said = rf"{row['by_bytes_context']:,.0f} (?:tokens )?\({NAMES[model]}, [\w ,]*holds {row['max_context']:,.0f}"
        assert re.search(said, text), model
        assert pd.isna(row["simulated_context"])
    vicuna = crossings.loc["vicuna-7b"]["simulated_context"]
    assert f"at {vicuna[16]:,.0f} tokens with 16 sequences of Vicuna-7B, {vicuna[64]:.0f} with 64" in text
    eighth = crossings.loc["vicuna-7b", 1]["by_bytes_context"] / 8
    assert f"equal one weight bit at {eighth:,.0f} tokens" in text
    apart = (crossings["simulated_context"] / crossings["by_bytes_context"] - 1).abs().max()
    assert apart < 0.02 and "the simulation meets within 2%" in text


def test_switching():
    text, limits = told("switching"), kept("switching_limits").set_index("variant")
    share, seconds = limits["step_share_per_switch"], limits["seconds_per_switch"]
    assert (share[["no prefetch", "prefetch, width planned"]] == 0).all()
    old, codebooks = "prefetch, width assumed unchanged", "16 MiB of codebooks kept"
    assert f"prefetches the old width, {1e6 * seconds[old]:.0f} us, {share[old]:.2%} of a step" in text
    assert f"16 MiB of codebooks, {1e3 * seconds[codebooks]:.2f} ms, {share[codebooks]:.2%}" in text
    assert f"with both {share['both, 16 MiB']:.2%}" in text
    assert share.max() < 0.01 and "at every token costs less than 1%" in text


def test_codesign():
    text, savings, answers = told("codesign"), kept("codesign_savings"), kept("codesign")
    tasks = {"cnn-dm": "CNN/DM", "dialogsum": "DialogSum", "iwslt-fr-en": "IWSLT"}
    chosen = {(row["task"], row["target_tokens_per_s"]): row for row in savings.to_dict("records")}

    def answered(task):
        asked = {"task": task, "family": "pmpd", "loss": 0, "target_tokens_per_s": 10}
        (row,) = answers[(answers[list(asked)] == pd.Series(asked)).all(axis=1)].to_dict("records")
        return row

    for task in tasks:  # the last row of a task is the one with an answer
        row = chosen[task, 10]
        saved = f"saves {row['area_mm2_saving']:.0%}", f"and {row['energy_j_per_token_saving']:.0%}"
        assert re.search(rf"`{row['schedule_pmpd']}` {saved[0]} (?:of the area )?{saved[1]}", text), task
    for task, energy in (("cnn-dm", True), ("dialogsum", False)):
        row = chosen[task, 10]
        areas, least = (
            [row[f"{name}_{family}"] for family in ("pmpd", "uniform")]
            for name in ("area_mm2", "memory.bandwidth_bytes_per_s")
        )
        joules = [1e3 * row[f"energy_j_per_token_{family}"] for family in ("pmpd", "uniform")]
        macs = answered(task)["matrix.macs"]
        cells = ["{:.2f} for {:.2f} mm2".format(*areas), "{:.0f} for {:.0f} mJ".format(*joules)]
        cells += ["{:.1f} for {:.1f} GB/s".format(*(value / 1e9 for value in least)), f"{macs:,.0f} MACs"]
        assert f"({', '.join(cells if energy else [cells[0], *cells[2:]])})" in text
    assert isinstance(answered("iwslt-fr-en")["reason"], str)
    assert "on IWSLT no PMPD schedule keeps the quality" in text
    fast = [chosen[task, 50] for task in tasks]
    areas = [
        f"{row['area_mm2_saving']:.0%} ({row['area_mm2_pmpd']:.2f} for {row['area_mm2_uniform']:.2f}" for row in fast
    ]
    assert f"{areas[0]} mm2), {areas[1]}) and {areas[2]})" in text
    energies = [f"{100 * row['energy_j_per_token_saving']:.0f}" for row in fast]
    assert f"at {energies[0]}, {energies[1]} and {energies[2]}% of the energy" in text


def test_sensitivity():
    text, table = told("sensitivity"), kept("sensitivity")
    details = json.loads((STUDY / "results" / "sensitivity.json").read_text(encoding="utf-8"))["answer"]
    assert details.startswith(f"{re.search(r'`(p[^`]+)` on', text)[1]} on ")
    first = table.groupby("metric", sort=False).first()
    searched = table.drop_duplicates("parameter").set_index("parameter")
    bandwidth, macs = searched.loc["memory.bandwidth_bytes_per_s"], searched.loc["matrix.macs"]
    assert f"on {macs['value']:,.0f} MACs and {bandwidth['value'] / 1e9:.1f} GB/s" in text
    assert f"{bandwidth['low'] / 1e9:.1f} or {bandwidth['high'] / 1e9:.1f} GB/s" in text
    assert f"{macs['low']:,.0f} or {macs['high']:,.0f} MACs" in text

    def shares(metric, parameter):
        (row,) = table[(table["metric"] == metric) & (table["parameter"] == parameter)].to_dict("records")
        low, high = (100 * min(1.0, max(0.0, row[f"total_order_ci_{end}"])) for end in ("low", "high"))
        return f"{low:.0f} to {high:.0f}%"

    def reach(metric, digits):
        return " to ".join(f"{first.loc[metric, f'metric_{end}']:#.{digits}g}" for end in ("low", "high"))

    speed = reach("decode_tokens_per_s", 3)
    assert f"decoding stays within {speed.replace('9.78', '9.8')} tokens/s" in text
    assert f"({shares('decode_tokens_per_s', 'memory.bandwidth_bytes_per_s')} of the variance)" in text
    assert f"energy within {reach('energy_j_per_token', 3)} J a token" in text
    assert f"static power ({shares('energy_j_per_token', 'cost.static_w_per_mm2')})" in text
    assert f"array's size ({shares('energy_j_per_token', 'matrix.macs')})" in text
    assert f"area within {reach('area_mm2', 2)} mm2 ({shares('area_mm2', 'matrix.macs')} the number of MACs)" in text
    assert f"within {reach('ttft_s', 2)} s ({shares('ttft_s', 'matrix.macs')} the same)" in text
    assert f"{table['n'].iloc[0]} points a sample" in text
    assumed = table[table["assumed"]].groupby("metric")["total_order_ci_high"].max()
    little = {str(metric) for metric, share in assumed.items() if share < 0.01}
    assert little == {"decode_tokens_per_s", "area_mm2", "ttft_s"}
    assert "No assumed number of the NPU file has 1% of the variance of speed, area or first token" in text
