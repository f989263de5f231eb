"""What decoding-speed's page quotes is what its kept run measured, to the last digit shown."""

from quoted import json_of, rows_of, table_of, text_of

SPEED = ("studies", "decoding_speed", "README.md")
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
