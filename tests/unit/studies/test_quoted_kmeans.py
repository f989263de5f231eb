"""What kmeans-comparison's page quotes is what its kept run measured, to the last digit shown."""

from statistics import median

import pytest

from quoted import json_of, rows_of, table_of, text_of

PAGE = ("studies", "kmeans_comparison", "README.md")
WEIGHTINGS = ("unweighted", "Fisher")
STUDY = "kmeans_comparison"


def test_how_many_rows_were_compared():
    text, seed = text_of(*PAGE), rows_of(STUDY, "seed")
    models = {row["model"]: int(row["rows"]) for row in seed}
    manifest = json_of(STUDY, "manifest")["provenance"]
    assert f"{sum(models.values()):,} rows of four models" in text
    assert manifest["rows"] == str(sum(models.values()))
    assert len(models) == 4
    assert f"over {manifest['calibration_texts_per_model']} calibration texts" in text
    assert f"n = {manifest['repeats']} repeats" in text
    clusterings = sum(int(row["rows"]) for row in seed)
    assert f"Of {clusterings:,} clusterings" in text
    assert {row[f"rows_{other}_below"] for row in seed for other in ("original", "scikit-learn")} == {"0"}


def test_the_errors_at_the_seed_width():
    seed = rows_of(STUDY, "seed")
    shown = table_of(*PAGE, header="seed|flash1dkmeans")
    assert [row[0] for row in shown] == ["2 bits", "3 bits", "4 bits"]
    for name, *cells in shown:
        expected = []
        for other in ("original", "scikit-learn"):
            for weighting in WEIGHTINGS:
                ratios = [
                    float(row[f"{other}_over_ours"])
                    for row in seed
                    if (row["seed_bits"], row["weighting"]) == (name[0], weighting)
                ]
                expected.append(f"{min(ratios):.3f}..{max(ratios):.3f}")
        assert cells == expected, name


def over_models(column, *, seed, bits, weighting):
    return [
        float(row[column])
        for row in rows_of(STUDY, "nested")
        if (row["seed_bits"], row["bits"], row["weighting"]) == (str(seed), str(bits), weighting)
    ]


def test_the_nested_pipeline():
    nested = rows_of(STUDY, "nested")
    kept = sum(float(row["original_over_ours"]) >= 1 for row in nested)
    assert f"never above the original's: {kept} of {len(nested)} combinations" in text_of(*PAGE)
    assert kept == len(nested)
    shown = table_of(*PAGE, header="bits|original / ours")
    assert [row[0] for row in shown] == list("2345678")
    for bits, *cells in shown:
        expected = []
        for weighting in WEIGHTINGS:
            where = {"seed": 2, "bits": bits, "weighting": weighting}
            expected.append(f"{median(over_models('original_over_ours', **where)):.3f}")
            expected.append(f"{sum(over_models('rows_original_below', **where)):.0f}")
        for weighting in WEIGHTINGS:
            price = median(over_models("ours_over_direct", seed=2, bits=bits, weighting=weighting))
            expected.append("" if bits == "8" else f"{price:.2f}" if price < 3 else f"{price:.1f}")
        assert cells == expected, bits


def test_choosing_several_widths_jointly():
    shown = table_of(*PAGE, header="seed|at the seed")
    at_seed, given_back = [], []
    for seed, *cells in shown:
        first = int(seed)
        for bits, cell in zip((first, first + 1, first + 2, 8), cells, strict=True):
            ratios = over_models("jointly_over_ours", seed=first, bits=bits, weighting="Fisher")
            assert cell == f"{median(ratios):.3f} ({min(ratios):.3f}..{max(ratios):.3f})", (seed, bits)
        where = {"bits": first + 2, "weighting": "Fisher", "seed": first}
        price = [1 - 1 / one for one in over_models("ours_over_direct", **where)]
        saved = [1 - one for one in over_models("jointly_over_ours", **where)]
        given_back.append(median(back / lost for back, lost in zip(saved, price, strict=True)))
        at_seed += over_models("jointly_over_ours", seed=first, bits=first, weighting="Fisher")
    assert [row[0] for row in shown] == ["2", "3", "4"]
    text = text_of(*PAGE)
    assert "It gives back half to three quarters of the price of nesting two bits up" in text
    assert min(given_back) >= 0.5 and max(given_back) <= 0.76, given_back
    cost = sorted(
        median(over_models("jointly_over_ours", seed=seed, bits=seed, weighting="Fisher")) for seed in (2, 3, 4)
    )
    assert f"costs {100 * (cost[0] - 1):.0f} to {100 * (cost[-1] - 1):.0f}% at the seed" in text


ROWS = {
    "generated, 64 rows of 4096": "generated, 4096 columns",
    "fren-paragraphs-4M, rows of 688": "fren-paragraphs-4M, 688 columns",
    "selvic, rows of 384": "selvic, 384 columns",
}
METHODS = ("ours", "ours, jointly", "original", "original, sorted by numpy")


def seconds(cores):
    return {
        (row["rows"], row["seed_bits"], row["parent_bits"], row["method"]): float(row["p50"])
        for row in rows_of(STUDY, "times")
        if row["cores"] == cores
    }


def test_the_seconds():
    found = seconds("1")
    shown = table_of(*PAGE, header="rows|widths|ours")
    assert len(shown) == 8
    for rows, widths, *cells in shown:
        seed, _, parent = widths.partition(" to ")
        expected = [f"{found[ROWS[rows], seed, parent, method]:.3f}" for method in METHODS]
        assert cells == expected, (rows, widths)


def ratios_to_ours(found, method):
    return {
        key[:3]: value / found[(*key[:3], "ours")] for key, value in found.items() if key[3] == method
    }  # fmt: skip


FROM_FOUR_BITS = ("fren-paragraphs-4M, 688 columns", "4")


def test_how_the_times_compare():
    text, found = text_of(*PAGE), seconds("1")
    original, presorted = (ratios_to_ours(found, method) for method in ("original", "original, sorted by numpy"))
    apart = {key[2]: one for key, one in original.items() if key[:2] == FROM_FOUR_BITS}
    others = [one for key, one in original.items() if key[:2] != FROM_FOUR_BITS]
    assert f"takes {min(others):.1f} to {max(others):.1f} times as long as ours" in text
    assert f"({apart['8']:.2f}; the seed alone {apart['4']:.2f})" in text
    assert f"would take {min(presorted.values()):.2f} to {max(presorted.values()):.2f} times our time" in text
    learned = {key: one for key, one in found.items() if key[3] == "scikit-learn"}
    generated = [one for key, one in learned.items() if key[0].startswith("generated")]
    real = [one for key, one in learned.items() if not key[0].startswith("generated")]
    assert f"scikit-learn takes {min(generated):.1f} to {max(generated):.1f} s" in text
    assert f"{min(real):.0f} to {max(real):.0f} s on the real ones" in text


def test_the_times_on_both_cores():
    found = seconds("2")
    ours = {key: 1 / one for key, one in ratios_to_ours(found, "original").items()}
    (apart,) = (one for key, one in ours.items() if (*key[:2], key[2]) == (*FROM_FOUR_BITS, "8"))
    others = [one for key, one in ours.items() if key[:2] != FROM_FOUR_BITS]
    assert f"takes {min(others):.2f} to {max(others):.2f} of the original's time, and {apart:.2f} on rows of 688" in (
        text_of(*PAGE)
    )


def test_what_the_joint_tree_costs_a_row():
    found = seconds("1")
    for name, columns in (("generated, 4096 columns", 4096), ("fren-paragraphs-4M, 688 columns", 688)):
        more = found[name, "2", "8", "ours, jointly"] - found[name, "2", "8", "ours"]
        assert more * columns / 1e6 == pytest.approx(0.3e-3, rel=0.25), name
    assert "costs about 0.3 ms a row whatever its length" in text_of(*PAGE)
