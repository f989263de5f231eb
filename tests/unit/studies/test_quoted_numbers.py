"""What documents quote of a kept run is what that run kept, to the last digit shown."""

import json
from collections import Counter

import pytest

from documents import REPOSITORY
from quoted import STUDIES, rows_of, text_of
from studies.codesign.report import shares_on_validation


def share(test):
    quality = (test["relative_quality"], test["relative_quality_low"], test["relative_quality_high"])
    value, low, high = (100 * one for one in quality)
    return f"{value:.1f}% [{low:.1f}, {high:.1f}]"


CODESIGN = json.loads((STUDIES / "codesign/example/codesign.json").read_text(encoding="utf-8"))


def in_words(label):
    """How both documents begin to tell a schedule: its prefill, and the first width of its decoding."""
    prefill, decode = label.removeprefix("p").split(":")
    return f"prefill {prefill}, decode {decode.partition('>')[0]}"


@pytest.mark.parametrize(
    ("document", "rival_form"), [("README.md", "{} bits | {} | {}"), ("studies/codesign/README.md", "{} bits: {}, {}")]
)
def test_the_codesign_runs_choices(document, rival_form):
    lines = (REPOSITORY / document).read_text(encoding="utf-8").splitlines()
    for one in CODESIGN["chosen"]:
        rival = one["uniform_rival"]
        (row,) = (line for line in lines if line.startswith(f"| {one['floor']:.0%} | prefill"))
        assert f"| {in_words(one['schedule'])}" in row
        assert f"| {one['test']['decode_tokens_per_s']:,.0f} | {share(one['test'])} |" in row
        rival_speed = f"{rival['test']['decode_tokens_per_s']:,.0f}"
        bits = rival["schedule"].partition(":")[2]
        assert row.endswith(f"| {rival_form.format(bits, rival_speed, share(rival['test']))} |")
        if document != "README.md":
            assert f"| {one['npu']['memory.bandwidth_bytes_per_s'] / 1e9:.2f} |" in row


@pytest.mark.parametrize("document", ["README.md", "studies/codesign/README.md"])
def test_what_test_prompts_say_of_the_codesign_runs_choices_and_their_rivals(document):
    text = text_of(document)
    kept, open_, val = [], [], shares_on_validation(CODESIGN)
    for one in CODESIGN["chosen"]:
        rival = one["uniform_rival"]
        assert min(val[one["schedule"]], val[rival["schedule"]]) >= one["floor"], "one rule, on validation prompts"
        assert rival["test"]["relative_quality_low"] >= one["floor"], "every rival keeps its floor on test"
        test = one["test"]
        assert test["relative_quality_high"] >= one["floor"], "none is told to miss it"
        (kept if test["relative_quality_low"] >= one["floor"] else open_).append(one)
    assert "Schedules and rivals are chosen by one rule, on validation prompts" in text
    (only,), (first, second) = kept, open_
    assert f"On test the {only['floor']:.0%} schedule and every rival keep" in text
    shares = [f"{one['explored']['relative_quality']:.1%}" for one in (first, second)]
    assert f"{first['floor']:.0%} schedule ({shares[0]} on validation)" in text
    assert f"and the {second['floor']:.0%} one ({shares[1]} there) reach below theirs" in text
    if document != "README.md":
        ratios = (one["test"]["decode_tokens_per_s"] for one in (first, second))
        rivals = (one["uniform_rival"]["test"]["decode_tokens_per_s"] for one in (first, second))
        faster = " and ".join(f"{ours / its - 1:.0%}" for ours, its in zip(ratios, rivals, strict=True))
        assert f"being {faster} faster than their rivals" in text


def test_the_codesign_runs_effort():
    explored, levels = CODESIGN["explored"], CODESIGN["explored"]["levels"]
    text = text_of("studies/codesign/README.md")
    assert f"{explored['evaluated']} designs were simulated in full, chosen by {levels['bound']:,} bounds" in text
    assert f"and {levels['short trace']:,} short traces; all {CODESIGN['front_size']} are on the front" in text


def test_the_model_cards_scores():
    check = json.loads((REPOSITORY / "accuracy/reference/check-test.json").read_text(encoding="utf-8"))
    text = text_of("accuracy/reference/MODEL_CARD.md")

    def against_full_precision(bits, metric):
        (found,) = (
            one["difference"]
            for one in check["comparisons"]
            if one["question"] == "each width against full precision" and (one["ours"], one["metric"]) == (bits, metric)
        )
        return f"{found['value']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]"

    for bits in ("8", "6", "5", "4", "3", "2"):
        (score,) = (one for one in check["scores"] if one["schedule"] == bits)
        bleu, rouge = f"{score['bleu']['value']:.2f}", f"{score['rouge_l']['value']:.2f}"
        differences = [against_full_precision(bits, metric) for metric in ("bleu", "rouge_l")]
        assert f"| {bits} | {bleu} | {differences[0]} | {rouge} | {differences[1]} |" in text


def test_the_least_bandwidth_of_pmpd():
    savings = [row for row in rows_of("pmpd_bandwidth", "savings") if row["loss"] == "0"]
    lines = (STUDIES / "pmpd_bandwidth/README.md").read_text(encoding="utf-8").splitlines()
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    names = {"vicuna-7b": "Vicuna-7B", "mobilellama-1.4b": "MobileLLaMA", "phi-1.5": "Phi-1.5"}
    tasks = {"cnn-dm": "CNN/DM", "dialogsum": "DialogSum"}
    compared, model = 0, ""
    for name, task, uniform, pmpd, saved in (row for row in table if len(row) == 5):
        model = name or model
        speeds = [
            row
            for row in savings
            if (names.get(row["model"]), tasks.get(row["task"])) == (model, task) and row["saving"]
        ]
        if not speeds:
            continue
        for family, cell in (("uniform", uniform), ("pmpd", pmpd)):
            values = " / ".join(f"{float(row[f'bandwidth_bytes_per_s_{family}']) / 1e9:.3g}" for row in speeds)
            assert cell.startswith(values), (model, task, cell, values)
        assert f"`{speeds[0]['schedule_pmpd']}`" in pmpd
        percent = sorted({f"{100 * float(row['saving']):.0f}" for row in speeds}, key=int)
        assert saved == f"{'-'.join(percent)}%"
        compared += len(speeds)
    assert compared == 12


def test_the_simulators_speed():
    text = text_of("studies/simulator_speed/README.md")
    found = {(row["measurement"], row["number"]): row for row in rows_of("simulator_speed", "summary")}

    def spread(measurement, number, shown):
        row = found[measurement, number]
        return [shown(float(row[name])) for name in ("median", "p20", "p80")]

    median, low, high = spread("events", "cpu_s", "{:.2f}".format)
    assert f"| {median} CPU s ({low}..{high}) |" in text
    assert "| {} ({}..{}) | >= 1,000 |".format(*spread("points", "points_per_s", "{:,.0f}".format)) in text
    thousands = spread("grid", "pairs_per_s", lambda value: f"{round(value, -3):,.0f}")
    assert "| {} ({}..{}) | >= 50,000 |".format(*thousands) in text
    assert f"| {float(found['events', 'peak_rss_bytes']['median']) / 1e6:.0f} MB |" in text
    cycles = {found["exact", name]["median"] for name in ("cycles", "memo_cycles")}
    assert len(cycles) == 1 and f"{float(cycles.pop()):,.0f} cycles" in text


CLAIMS = {
    "a high prefill helps low decoding (Table 4, Fig. 6)": ("table4", "high prefill helps low decoding"),
    "prefill bits matter more than decode bits (Table 4)": ("table4", "prefill bits matter more than decode bits"),
    "high bits first beat high bits last at equal bits (Fig. 3)": ("fig3", "high bits first, not last-half"),
    "high bits first beat the middle half": ("fig3", "high bits first, not middle-half"),
    "the first half high is as good as all high": ("fig3", "first half high is as good as all high"),
    "Static is as good as the high width (Table 1); in two cases it is the high width": (
        "table1",
        "static is as good as the high width",
    ),
    "Learned is as good as the high width": ("table1", "learned is as good as the high width"),
    "Learned is better than drawing by the label distribution (Fig. 7)": (
        "fig7",
        "further above the line than random-prior",
    ),
    "with GPTQ: Static is as good as the high width (Table 9); in three cases it is the high width": (
        "table9",
        "static is as good as the high width",
    ),
    "with GPTQ: a high prefill helps low decoding": ("table9", "high prefill helps low decoding"),
}


def deciding_comparisons():
    """Those by each model's first metric, which decides."""
    first = {}
    for row in rows_of("pmpd", "scores"):
        first.setdefault(row["model"], row["metric"])
    every = rows_of("pmpd", "comparisons")
    return every, [row for row in every if row["metric"] == first[row["model"]]]


def test_which_claims_of_the_paper_hold():
    every, deciding = deciding_comparisons()
    text = text_of("studies/pmpd/README.md")
    verdicts = Counter((row["experiment"], row["claim"], row["verdict"]) for row in deciding)
    for said, claim in CLAIMS.items():
        counts = [verdicts[(*claim, verdict)] for verdict in ("holds", "not resolved", "contradicted")]
        assert f"| {said} | {' | '.join(map(str, counts))} |" in text
    beaten = [row["verdict"] for row in deciding if "beats dense-and-sparse" in row["claim"]]
    assert f"beats dense-and-sparse at equal bits | {beaten.count('holds')} of {len(beaten)} | " in text
    assert f"There are {len(deciding)} such intervals of the deciding metrics ({len(every)} of all)" in text


def test_how_far_the_papers_claims_hold():
    _, deciding = deciding_comparisons()
    text = text_of("studies/pmpd/README.md")
    for experiment, claim, shown in (
        ("table4", "high prefill helps low decoding", "{:+.2f} [{:.2f}, {:.2f}]"),
        ("fig3", "high bits first, not last-half", None),
    ):
        rows = [row for row in deciding if (row["experiment"], row["claim"]) == (experiment, claim)]
        assert len(rows) == 8
        for row in rows:
            value, low, high = (float(row[name]) for name in ("value", "ci_low", "ci_high"))
            # The ends carry a sign where they lie on two sides of 0 or below it.
            sign = "+" if low < 0 < high else ""
            form = shown or f"{{:+.2f}} [{{:{sign}.2f}}, {{:{sign}.2f}}]"
            assert form.format(value, low, high) in text, (row["model"], row["pair"])


def test_the_measured_and_simulated_step_times():
    text = text_of("studies/trace_replay/README.md")
    widths = rows_of("trace_replay", "widths")
    for row in widths:
        values = [float(row[name]) for name in ("median_us", "p20_us", "p80_us")]
        form = "{:,.0f} ({:,.0f}..{:,.0f})" if row["clock"] == "cpu" else "{:.2f} ({:.2f}..{:.2f})"
        assert form.format(*values) in text
    for row in rows_of("trace_replay", "elasticity"):
        assert f"| {float(row['elasticity_median']):.2f} |" in text


def test_what_quantising_a_large_model_took():
    text = text_of("studies/large_model/README.md")
    for row in rows_of("large_model", "processes"):
        seconds, cpu = float(row["seconds"]), float(row["cpu_s"])
        memory = [float(row[name]) / 1e9 for name in ("peak_rss_bytes", "peak_anonymous_bytes")]
        partial = float(row["peak_partial_folder_bytes"]) / 1e9
        cells = [row["case"], row["process"], row["blocks"], f"{seconds:.0f}", f"{cpu:.0f}"]
        cells += [f"{cpu / float(row['weights']) * 1e6:.2f}", *(f"{one:.1f} GB" for one in (*memory, partial))]
        assert f"| {' | '.join(cells)} |" in text


def test_how_the_validation_was_judged():
    text = text_of("studies/validation/README.md")
    verdicts = Counter((row["check"], row["verdict"]) for row in rows_of("validation", "validation"))
    for check in {check for check, _ in verdicts}:
        passed, judged = verdicts[check, "pass"], verdicts[check, "pass"] + verdicts[check, "fail"]
        (row,) = (part for part in text.split("| | ") if part.startswith(check))
        assert row.split("|")[2].strip() == (f"{passed} of {judged}" if judged else "shown"), check
