"""What quantization-quality's page quotes is what its kept run measured, to the last digit shown."""

import pytest

from quoted import json_of, rows_of, table_of, text_of

PAGE = ("studies", "quantization_quality", "README.md")
STUDY = "quantization_quality"
MODELS = ("selvic", "stories260K", "m30k-fren-2M", "fren-paragraphs-4M")
LOSS = "log_perplexity_minus_full"
# The JSON file holds all digits: 1.0385008 is 1.0385 in the table, which rounds down.
QUALITY = {
    (row["model"], row["quantizer"], row["matched_to"] or "", str(row["bits"])): row
    for row in json_of(STUDY, "quantization_quality")["quality"]
}
NO_STORE = ("stories260K", "2.39 and codebooks")


def group(model):
    return "g32" if model == "stories260K" else "g64"


def loss_and_bits(model, quantizer, bits, matched_to=""):
    row = QUALITY[model, quantizer, matched_to, bits]
    return f"{float(row[LOSS]):.3f} ({float(row['bits_per_weight']):.2f})"


def interval(model, quantizer, bits, quantity, digits):
    row = QUALITY[model, quantizer, "", bits]
    value, low, high = (float(row[quantity + end]) for end in ("", "_low", "_high"))
    return f"{value:+.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def test_what_was_measured_on_what():
    manifest, text = json_of(STUDY, "manifest"), text_of(*PAGE)
    for name, *cells in table_of(*PAGE, header="model|full-precision perplexity"):
        model = name.split(" (")[0]
        row = QUALITY[model, "full precision", "", "16"]
        assert cells[0] == f"{float(row['perplexity']):.3f}, n = {row['answers']}"
        assert cells[2].startswith(f"{manifest['models'][model]['calibration_texts']} ")
    prompts = [QUALITY[model, "full precision", "", "16"]["prompts"] for model in MODELS]
    assert "Fidelity: {}, {}, {} and {} prompts".format(*prompts) in text
    seconds = float(manifest["provenance"]["cpu_s_of_the_last_call"]), manifest["added"]["cpu_s"]
    assert "{:,.0f} s in the kept run, {:.0f} s for the rows added".format(*seconds) in text
    assert f"{manifest['added']['rows_measured_again_and_equal']} rows measured again were equal" in text


QUANTIZERS = {
    "nested": "nested",
    "nested, Fisher": "nested-fisher",
    "nested, Hessian": "nested-hessian",
    "direct": "direct",
    "RTN": "rtn",
    "GPTQ": "gptq",
    "GPTQ, groups": "gptq-{}",
}


def test_the_losses_at_three_bits():
    shown = {name: cells for name, *cells in table_of(*PAGE, header="3 bits|selvic")}
    assert list(shown) == list(QUANTIZERS)
    for name, quantizer in QUANTIZERS.items():
        assert shown[name] == [loss_and_bits(model, quantizer.format(group(model)), "3") for model in MODELS], name


def test_the_losses_at_two_bits():
    kinds = {
        "nested = direct (the seed is the exact optimum)": ("nested", ""),
        "+ Fisher": ("nested-fisher", ""),
        "+ Hessian": ("nested-hessian", ""),
        "+ groups": ("nested-{}", ""),
        "+ outliers to 2.39 and codebooks": ("dns", "2.39 and codebooks"),
        "+ outliers and Hessian": ("dns-hessian", "2.39 and codebooks"),
        "+ outliers and Hessian, as nested 3": ("dns-hessian", "nested 3"),
        "RTN": ("rtn", ""),
        "GPTQ": ("gptq", ""),
        "GPTQ, groups": ("gptq-{}", ""),
    }
    shown = {name: cells for name, *cells in table_of(*PAGE, header="2-bit codes|selvic")}
    assert list(shown) == list(kinds)
    for name, (quantizer, matched_to) in kinds.items():
        expected = [
            ""
            if (model, matched_to) == NO_STORE
            else loss_and_bits(model, quantizer.format(group(model)), "2", matched_to)
            for model in MODELS
        ]
        assert shown[name] == expected, name


def test_dense_and_sparse_at_the_average_of_a_nested_width():
    shown = table_of(*PAGE, header="average of|selvic")
    assert len(shown) == 4
    for name, *cells in shown:
        width = int(name.split(",")[0].removeprefix("nested "))
        for model, cell in zip(MODELS, cells, strict=True):
            plain, hessian = (
                float(QUALITY[model, kind, f"nested {width}", str(width - 1)][LOSS]) for kind in ("dns", "dns-hessian")
            )
            nested = float(QUALITY[model, "nested", "", str(width)][LOSS])
            told = f"{plain:.3f} / {hessian:.3f} ({nested:.3f})".replace("-0.000", "0.000")
            assert cell == told, (width, model)


def test_where_outliers_lead_as_point_estimates():
    led = {
        (model, width, kind)
        for model in MODELS
        for width in (3, 4, 5)
        for kind in ("dns", "dns-hessian")
        if float(QUALITY[model, kind, f"nested {width}", str(width - 1)][LOSS])
        < float(QUALITY[model, "nested", "", str(width)][LOSS])
    }
    assert led == {(MODELS[2], 4, "dns-hessian"), (MODELS[3], 4, "dns-hessian"), (MODELS[0], 5, "dns-hessian")}
    assert (
        "one more bit is better than outliers at 3, 4 and 5 bits on every model; with the Hessian outliers lead at "
        in (text := text_of(*PAGE))
    )
    assert "at 4 on m30k and fren-paragraphs and at 5 on selvic" in text


@pytest.mark.parametrize("bits", ["2", "3"])
def test_what_is_resolved_against_nesting(bits):
    def difference(model, quantizer):
        row = QUALITY[model, quantizer, "", bits]
        return [float(row[f"log_perplexity_minus_nested{end}"]) for end in ("_low", "", "_high")]

    assert all(difference(model, "rtn")[0] > 0 for model in MODELS), "nested is better than RTN"
    translation = (MODELS[0], *MODELS[2:])
    assert all(difference(model, "gptq")[2] < 0 for model in translation), "GPTQ is better than plain nesting"
    assert difference("stories260K", "gptq")[0] > 0
    resolved = [model for model in MODELS if difference(model, "nested-hessian")[2] < 0]
    assert resolved == list(MODELS if bits == "2" else MODELS[1:])


def test_the_differences_in_prose():
    text, against = text_of(*PAGE), "log_perplexity_minus_nested"
    gptq = [float(QUALITY[model, "gptq", "", "3"][against]) for model in (MODELS[0], *MODELS[2:])]
    assert "(3 bits: {:.3f}, {:.3f} and {:.3f} nats".format(*gptq) in text
    for bits in ("3", "2"):
        assert f"{bits} bits: {interval('stories260K', 'gptq', bits, against, 2)}" in text
    hessian = sorted(float(QUALITY[model, "nested-hessian", "", "2"][against]) for model in MODELS)
    assert f"at 2 bits on every model ({hessian[-1]:.2f} to {hessian[0]:.2f} nats" in text
    worse = sorted(float(QUALITY[model, "nested-hessian", "", "8"][LOSS]) for model in MODELS)
    assert f"8 bits are {worse[0]:.4f} to {worse[-1]:.3f} nats worse" in text
    rouge = [float(QUALITY["stories260K", kind, "", "8"]["rouge_l"]) for kind in ("nested-hessian", "nested")]
    assert "Rouge-L at 8 bits is {:.0f} instead of {:.0f} on stories260K".format(*rouge) in text
    lower = QUALITY["fren-paragraphs-4M", "nested-hessian", "", "8"]
    points = [-float(lower[f"rouge_l_minus_nested{end}"]) for end in ("", "_high", "_low")]
    assert "{:.1f} [{:.1f}, {:.1f}] points lower on fren-paragraphs".format(*points) in text
    fisher = [interval(model, "nested-fisher", "2", against, 2) for model in ("stories260K", "fren-paragraphs-4M")]
    assert "(2 bits: {} and {})".format(*fisher) in text
    direct = [interval(model, "direct", "3", against, 3) for model in ("stories260K", "fren-paragraphs-4M")]
    assert "(3 bits, direct minus nested): {} on stories260K, {} on".format(*direct) in text


def test_what_is_told_of_two_bits():
    text = text_of(*PAGE)
    rows = rows_of(STUDY, "quality")
    assert {row["logits_finite"] for row in rows} == {"True"}
    full = max(float(row["max_abs_hidden"]) for row in rows if row["quantizer"] == "full precision")
    largest = max(float(row[name]) for row in rows for name in ("max_abs_hidden", "max_abs_linear_output"))
    assert f"largest value that any layer put out is {largest:.0f}" in text
    assert f"full precision itself reaches {full:.0f}" in text
    left = [
        float(QUALITY[model, "dns-hessian", "2.39 and codebooks", "2"][LOSS])
        / float(QUALITY[model, "nested", "", "2"][LOSS])
        for model in MODELS
        if model != "stories260K"
    ]
    assert f"they leave {100 * min(left):.0f} to {100 * max(left):.0f}% of what plain 2 bits cost" in text
    chosen = [float(QUALITY["selvic", kind, "nested 3", "2"][LOSS]) for kind in ("dns-fisher", "dns-fisher-magnitude")]
    assert "on selvic ({:.3f} against {:.3f} at nested 3's average".format(*chosen) in text
    usable = max(float(row["rouge_l"]) for row in rows if (row["model"], row["bits"]) == ("stories260K", "2"))
    assert f"Rouge-L is at most {usable:.1f}" in text


def stores(model, quantizer, widths):
    return [
        row
        for row in rows_of(STUDY, "bytes")
        if (row["model"], row["quantizer"], row["widths"]) == (model, quantizer, widths)
    ]


def test_the_bytes():
    shown = {name: cells for name, *cells in table_of(*PAGE, header="store without kept fp16 weights|selvic")}
    several = {(row["model"], row["what"]): float(row["layer_bytes"]) for row in rows_of(STUDY, "nested_store")}
    expected = {name: [] for name in shown}
    files = []
    for model in MODELS:
        (full,) = stores(model, "fp16 model", "16")
        without, kept = sorted(stores(model, "nested", "2..8"), key=lambda row: float(row["layers_over_fp16"]))
        megabytes = float(kept["fp16_bytes"]) / 1e6
        cells = [f"{megabytes:.2f} MB"]
        cells += [f"{float(row['layers_over_fp16']):.2f} x" for row in (without, kept)]
        for bits in ("2", "4"):
            (alone,) = stores(model, "direct", bits)
            cells.append(f"{float(alone['layers_over_fp16']):.2f} x")
        share = several[model, "one nested store"] / several[model, "7 single-width k-means stores"]
        cells += [f"{share:.2f} x", f"{float(without['weight_file_bytes']) / 1e6:.2f} MB"]
        files.append(f"{float(full['weight_file_bytes']) / 1e6:.2f}")
        for column, cell in zip(expected.values(), cells, strict=True):
            column.append(cell)
    assert shown == expected
    assert f"weight file, nested 2..8 (fp16 model's: {', '.join(files)} MB)" in shown


def test_the_bits_that_are_read():
    def read(quantizer, bits):
        found = [float(QUALITY[model, quantizer.format(group(model)), "", bits]["bits_per_weight"]) for model in MODELS]
        return min(found), max(found)

    text = text_of(*PAGE)
    assert "2 bits read {:.1f} to {:.1f}".format(*read("nested", "2")) in text
    assert read("nested", "8")[0] > 16
    assert "nested 3 bits read {:.2f} to {:.2f} bits".format(*read("nested", "3")) in text
    assert "GPTQ with groups {:.2f} to {:.2f}".format(*read("gptq-{}", "3")) in text
    assert f"7 and 8 bits ({read('nested', '7')[0]:.1f} bits and more on such rows)" in text
