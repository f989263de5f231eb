"""What decoding-speed's and cpu-decoding's pages quote is what their kept runs measured, to the last digit shown."""

import pytest
from pandas import read_csv

from quoted import STUDIES, json_of, rows_of, table_of, text_of
from studies.cpu_decoding.run import slower_widths

SPEED, CPU = ("studies", "decoding_speed", "README.md"), ("studies", "cpu_decoding", "README.md")
MODELS = ("selvic", "stories260K", "m30k-fren-2M", "fren-paragraphs-4M")


def spread(row, name):
    median, low, high = (float(row[f"{name}_{part}"]) for part in ("median", "p20", "p80"))
    return f"{median:.2f} ({low:.2f}..{high:.2f})"


def test_the_speed_of_batches():
    found = {(row["model"], row["mode"], row["batch_size"]): row for row in rows_of("decoding_speed", "summary")}
    shown = table_of(*SPEED, header="mode|batch|selvic")
    assert {(model, mode, batch) for mode, batch, *_ in shown for model in MODELS} == set(found)
    for mode, batch, *cells in shown:
        for model, cell in zip(MODELS, cells, strict=True):
            row = found[model, mode, batch]
            ratio = "1" if mode == "plain loop" else spread(row, "ratio_to_plain")
            assert cell == f"{float(row['tokens_per_cpu_s_median']):.0f}; {ratio}", (model, mode, batch)


def test_what_the_page_says_of_batches():
    text, rows = text_of(*SPEED), rows_of("decoding_speed", "summary")
    ratios = {
        (mode, batch): [
            float(row["ratio_to_plain_median"]) for row in rows if (row["mode"], row["batch_size"]) == (mode, batch)
        ]
        for mode, batch in (("own decoder", "64"), ("generate", "1"))
    }
    most = ratios["own decoder", "64"]
    assert f"A batch of 64 makes {min(most):.0f} to {max(most):.0f} times the tokens per second" in text
    slower = sorted(1 - one for one in ratios["generate", "1"])
    assert f"`generate` {100 * slower[0]:.0f} to {100 * slower[-1]:.0f}% slower" in text
    runs = rows_of("decoding_speed", "speed")
    own = [row for row in runs if (row["mode"], row["batch_size"]) == ("own decoder", "1")]
    tokens = sum(int(row["tokens"]) for row in own)
    assert f"All {sum(int(row['prompts']) for row in own)} responses of each way at batch 1 ({tokens:,} tokens)" in text
    assert {float(row["differ_from_plain"]) for row in runs if row["batch_size"] == "1"} == {0}
    manifest = json_of("decoding_speed", "manifest")["provenance"]
    assert f"The kept run took {manifest['cpu_s']} CPU seconds" in text
    assert {row["n"] for row in rows} == {manifest["repeats"]} == {"5"}


def test_the_steps_that_shared_prefixes_save():
    found = {
        (row["model"], row["widths"], row["points"]): (row["schedules"], f"{100 * float(row['steps_saved']):.1f}")
        for row in rows_of("decoding_speed", "sharing")
    }
    shown = table_of(*SPEED, header="widths|N|schedules")
    assert len(shown) == 14
    for widths, points, schedules, *cells in shown:
        for model, cell in zip(("every response at its bound", *MODELS), cells, strict=True):
            assert found[model, str(len(widths.split(","))), points] == (schedules, cell)


def test_the_speed_up_of_a_tree():
    shown = {row[0]: row[1:] for row in table_of(*SPEED, header="model|decode steps saved")}
    for row in rows_of("decoding_speed", "grid_summary"):
        saved = float(row["steps_saved"])
        assert shown.pop(row["model"]) == [f"{saved:.1%}", spread(row, "speed_up"), f"{1 / (1 - saved):.2f}"]
    assert not shown


def test_the_caches():
    found = {
        (row["model"], row["batch_size"], row["cache"]): row for row in rows_of("decoding_speed", "caches_summary")
    }
    shown = table_of(*SPEED, header="model|batch|preallocated")
    assert len(shown) == 8
    for model, batch, *cells in shown:
        for cache, cell in zip(("preallocated", "StaticCache"), cells, strict=True):
            assert cell == spread(found[model, batch, cache], "ratio_to_dynamic"), (model, batch, cache)
    ratios = {
        batch: sorted(
            float(row["ratio_to_dynamic_median"])
            for (_, size, cache), row in found.items()
            if (size, cache) == (batch, "preallocated")
        )
        for batch in ("1", "32")
    }
    equal, *faster = ratios["32"]
    text = text_of(*SPEED)
    assert round(equal, 2) == 1
    assert f"At batch 32 the preallocated cache is {100 * (faster[0] - 1):.0f} to {100 * (faster[-1] - 1):.0f}%" in text
    assert f"too small to matter ({ratios['1'][0]:.2f} to {ratios['1'][-1]:.2f})" in text


def test_what_a_batch_changes():
    found = {(row["model"], row["dtype"]): row for row in rows_of("decoding_speed", "agreement")}
    *each, (name, *total) = table_of(*SPEED, header="model|float32|float16")
    assert (name, [row[0] for row in each]) == ("all", list(MODELS))
    for model, single, half, gap in each:
        for dtype, cell in (("float32", single), ("float16", half)):
            assert cell == f"{found[model, dtype]['differ']} of {found[model, dtype]['responses']}"
        widest = found[model, "float16"]["largest_gap"]
        assert gap == (f"{float(widest):.2g}" if widest else "-")
    sums = {
        dtype: [sum(int(found[model, dtype][key]) for model in MODELS) for key in ("differ", "responses", "tokens")]
        for dtype in ("float32", "float16")
    }
    assert total[:2] == [f"{differ} of {n} ({tokens:,} tokens)" for differ, n, tokens in sums.values()]
    differ, n, _ = sums["float16"]
    assert f"here computed on a CPU), {differ / n:.0%} do" in text_of(*SPEED)


LOADED = {"shipped": "shipped, 1.5M", "random": "random Llama, 110M"}


def test_the_speed_on_a_cpu():
    found = {(row["model"], row["mode"], row["weight_bits"]): row for row in rows_of("cpu_decoding", "summary")}
    shown = table_of(*CPU, header="mode|bits|shipped")
    assert 2 * len(shown) == len(found)
    for mode, bits, *cells in shown:
        expected = []
        for model in LOADED.values():
            row = found[model, mode, "16" if bits == "-" else bits]
            ratio = "{} ({}..{})".format(*(f"{float(row[f'ratio_{part}']):.2f}" for part in ("median", "p20", "p80")))
            expected += [f"{float(row['tokens_per_cpu_s_median']):.3g}", "1" if mode == "float32" else ratio]
        assert cells == expected, (mode, bits)


def test_what_the_page_says_of_speed_on_a_cpu():
    text, rows = text_of(*CPU), rows_of("cpu_decoding", "summary")
    small, large = (
        {mode: sorted(float(row["ratio_median"]) for row in rows if (row["model"], row["mode"]) == (model, mode))
         for mode in ("cached", "unpacked")}
        for model in LOADED.values()
    )  # fmt: skip
    assert [len(one["cached"]) for one in (small, large)] == [8, 8]
    ends = [f"{one['cached'][0]:.2f} to {one['cached'][-1]:.2f}" for one in (small, large)]
    assert f"eight ratios lie at {ends[0]} on the small model and {ends[1]} on the large one" in text
    medians = [(one["cached"][3] + one["cached"][4]) / 2 for one in (small, large)]
    assert [f"{one:.2f}" for one in medians] == ["1.00", "1.00"]
    assert "with a median of 1.00 each" in text
    assert "no width lies below it beyond the spread of two float runs" in text
    assert slower_widths(read_csv(STUDIES / "cpu_decoding" / "results" / "summary.csv")).empty
    slower = [[1 / one["unpacked"][-1], 1 / one["unpacked"][0]] for one in (small, large)]
    assert "slower by {:.1f} to {:.1f} times on the small model".format(*slower[0]) in text
    assert "and {:.1f} to {:.1f} times on the large one".format(*slower[1]) in text
    counts = [{row["n"] for row in rows if row["model"] == model} for model in LOADED.values()]
    assert "n = {} repeats of the small model and n = {} of the large one".format(*(n for (n,) in counts)) in text


@pytest.mark.parametrize(("column", "model", "digits"), [(2, "shipped", 1), (3, "random", 0)])
def test_the_memory_on_a_cpu(column, model, digits):
    found = {
        (row["mode"], row["weight_bits"], row["whole_store"]): float(row["weight_bytes"]) / 1e6
        for row in rows_of("cpu_decoding", "memory")
        if row["model"] == LOADED[model]
    }
    shown = table_of(*CPU, header="loaded|runs")
    assert len(shown) == len(found)
    for row in shown:
        mode, _, bits = row[1].partition(" at ")
        megabytes = found[mode, bits or "16", str(row[0].startswith("whole"))]
        assert row[column] == f"{megabytes:.{digits}f}", row


def test_what_a_process_grew_by():
    more = [(int(row["resident_bytes"]) - int(row["weight_bytes"])) / 1e6 for row in rows_of("cpu_decoding", "memory")]
    assert f"by the tensors' bytes and {min(more):.1f} to {max(more):.1f} MB more" in text_of(*CPU)
