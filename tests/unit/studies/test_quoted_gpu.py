"""What gpu-speedups' page quotes is what its kept run derived, to the last digit shown."""

import pytest

from hwsim import load_shape
from quoted import json_of, rows_of, table_of, text_of

PAGE = ("studies", "gpu_speedups", "README.md")
NAMES = {
    "MobileLLaMA": "mobilellama-1.4b",
    "Phi-1.5": "phi-1.5",
    "Zephyr-3B": "stablelm-zephyr-3b",
    "Vicuna-7B": "vicuna-7b",
}


def test_table_3():
    entries, text = rows_of("gpu_speedups", "table3"), text_of(*PAGE)
    agreeing = [row for row in entries if row["agrees"] == "True"]
    assert all(abs(float(row["published"]) - float(row["derived"])) < 0.0101 for row in agreeing)
    assert f"{len(agreeing)} of {len(entries)} entries agree within 0.01" in text
    (exception,) = (row for row in entries if row["agrees"] != "True")
    assert (exception["gpu"], exception["model"], exception["what"]) == ("RTX 4090", "mobilellama-1.4b", "attention")
    printed, derived = float(exception["published"]), float(exception["derived"])
    assert f"is printed as {printed:.2f} and derived as {derived:.2f}" in text
    bits = [float(row["mean_decode_bits"]) for row in rows_of("gpu_speedups", "mixtures")]
    assert "({:.3f} for Vicuna, {:.3f}, {:.3f}, and {:.2f} for Zephyr with the learned scheduler)".format(*bits) in text


def test_table_6():
    found = {(row["gpu"], row["model"]): row for row in rows_of("gpu_speedups", "table6")}
    shown = table_of(*PAGE, header="GPU|model|T(fp16) ms")
    assert len(shown) == len(found) == 8
    columns = ("linear_fp16_ms", "linear_high_ms", "linear_low_ms", "rest_ms", "predicted_pmpd", "published_pmpd")
    for gpu, name, *cells in shown:
        row = found[gpu, NAMES[name]]
        expected = [f"{float(row[column]):.2f}" for column in columns]
        assert cells == [*expected, f"{100 * float(row['error']):+.1f}%", f"{float(row['bound']):.2f}"], (gpu, name)


@pytest.mark.parametrize(("gpu", "largest"), [("A40", 0.025)])
def test_where_table_6_follows(gpu, largest):
    errors = [abs(float(row["error"])) for row in rows_of("gpu_speedups", "table6") if row["gpu"] == gpu]
    assert len(errors) == 4
    assert max(errors) < largest
    assert f"On the {gpu} all four are within {largest:.1%}" in text_of(*PAGE)


def test_where_table_6_contradicts_itself():
    rows = {row["model"]: row for row in rows_of("gpu_speedups", "table6") if row["gpu"] == "RTX 4090"}
    assert float(rows["phi-1.5"]["rest_ms"]) < 0, "a step shorter than its kernels"
    rest = [float(rows[model]["rest_ms"]) for model in ("mobilellama-1.4b", "stablelm-zephyr-3b")]
    assert "MobileLLaMA and Zephyr would spend {:.2f} and {:.2f} ms".format(*rest) in text_of(*PAGE)
    assert float(rows["vicuna-7b"]["published_pmpd"]) > float(rows["vicuna-7b"]["bound"])
    text = text_of(*PAGE)
    assert "Phi-1.5's step would be shorter than the kernels it is made of" in text
    assert "Vicuna's PMPD is faster than its own kernels allow were every step 2 bits wide" in text
    shapes = [load_shape(model) for model in NAMES.values()]
    megabytes = sorted(
        2 * shape.hidden_size * size / 1e6 for shape in shapes for size in (shape.hidden_size, shape.ffn_size)
    )
    assert f"({megabytes[0]:.0f} to {megabytes[-2]:.0f} MB, Vicuna's MLP apart) fit that GPU's 72 MB" in text
    assert megabytes[-1] > 72
    assert json_of("gpu_speedups", "manifest")["measured"] == []
    assert "No GPU has been measured yet" in text
