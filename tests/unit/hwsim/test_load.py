from __future__ import annotations

import pytest

from hwsim.load import NPU_NAMES, canonical_shapes, load_npu
from hwsim.trace import InputError


def test_the_named_npus_are_those_of_the_paper():
    assert {"pmpd-4k", "pmpd-16k"} <= set(NPU_NAMES)
    for name, macs in (("pmpd-4k", 4096), ("pmpd-16k", 16384)):
        npu = load_npu(name)
        assert (npu.name, npu.matrix.macs, npu.clock_hz) == (name, macs, 1e9)
        assert npu.memory.bandwidth_bytes_per_s == 32e9


def test_the_flightllm_npus_have_the_published_array_clock_and_bandwidth():
    for name, bandwidth in (("flightllm-u280", 460e9), ("flightllm-vhk158", 819.2e9)):
        npu = load_npu(name)
        assert (npu.clock_hz, npu.matrix.macs, npu.memory.bandwidth_bytes_per_s) == (225e6, 16384, bandwidth)
        n, k, m = npu.matrix.mv
        assert n * k * m == 4096


def test_every_number_of_a_named_npu_has_its_reason_beside_it():
    from importlib import resources

    for name in NPU_NAMES:
        text = (resources.files("hwsim") / "npus" / f"{name}.yaml").read_text()
        assert "assumed" in text
        assert text.startswith("#")


def test_overrides_set_dotted_paths():
    npu = load_npu(
        "pmpd-4k",
        {"memory.bandwidth_bytes_per_s": 16e9, "sfu.functions.softmax.passes": 3, "matrix.lookups_per_cycle.4": 7},
    )
    assert npu.memory.bandwidth_bytes_per_s == 16e9
    assert npu.sfu.functions["softmax"].passes == 3
    assert npu.matrix.lookups_per_cycle[4] == 7


@pytest.mark.parametrize("exponent", range(6, 20))
def test_canonical_shapes_have_the_asked_macs_and_only_grow(exponent):
    macs = 1 << exponent
    mm, mv = canonical_shapes(macs)
    assert mm[0] * mm[1] * mm[2] == mv[0] * mv[1] * mv[2] == macs
    for small, large in zip((mm, mv), canonical_shapes(2 * macs), strict=True):
        assert all(a <= b for a, b in zip(small, large, strict=True))


def test_the_macs_knob_resizes_the_array_and_its_lookups():
    npu = load_npu("pmpd-4k", {"matrix.macs": 16384})
    larger = load_npu("pmpd-16k")
    assert (npu.matrix.mm, npu.matrix.mv) == (larger.matrix.mm, larger.matrix.mv)
    assert npu.matrix.lookups_per_cycle == larger.matrix.lookups_per_cycle


def test_a_path_given_with_the_macs_knob_refines_it():
    npu = load_npu("pmpd-4k", {"matrix.lookups_per_cycle.2": 5, "matrix.macs": 16384})
    assert npu.matrix.lookups_per_cycle[2] == 5


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"memory.bandwith_bytes_per_s": 1e9}, ["memory.bandwith_bytes_per_s", "did you mean", "bandwidth"]),
        ({"sfu.functions.tanh.passes": 1}, ["'sfu.functions.tanh.passes'", "functions has activation, multiply, norm"]),
        ({"bandwidth": 1}, ["'bandwidth'", "an NPU has buffers, clock_hz"]),
        ({"clock_hz.x": 1}, ["'clock_hz.x'; did you mean 'clock_hz'?"]),
        ({"memory": 5}, ["memory = 5", "dictionary"]),
        ({"memory.bandwidth_bytes_per_s": -1e9}, ["bandwidth_bytes_per_s", "-1000000000.0", "> 0"]),
        ({"memory.bandwidth_bytes_per_s": 32}, ["bandwidth_bytes_per_s = 32", "32 GB/s is 32e9"]),
        ({"memory.bandwidth_bytes_per_s": float("nan")}, ["bandwidth_bytes_per_s", "finite"]),
        ({"clock_hz": 1}, ["clock_hz = 1", "1 GHz is 1e9"]),
        ({"sfu.lanes": 0}, ["sfu.lanes = 0", "greater than or equal to 1"]),
        ({"matrix.mv": [0, 64, 1]}, ["matrix.mv.0 = 0", "greater than 0"]),
        ({"matrix.kind": "systolic"}, ["kind = 'systolic'", "dataflow = None"]),
        ({"matrix.dataflow": "weight-stationary"}, ["kind = 'mpe'", "dataflow = 'weight-stationary'"]),
        ({"matrix.kind": "systolic", "matrix.dataflow": "output-stationary"}, ["mm = [2, 16, 128]", "k = 1"]),
        ({"matrix.cores": 3}, ["mm has 2 rows per cycle", "cores = 3"]),
        ({"matrix.macs": 5000}, ["matrix.macs = 5000", "power of two"]),
        ({"matrix.macs": "many"}, ["matrix.macs = 'many'", "power of two"]),
        ({"matrix.weight_widths": [2, 9]}, ["matrix.weight_widths.1 = 9"]),
        ({"matrix.weight_widths": [1, 2]}, ["lookups_per_cycle lacks 1 bits"]),
        ({"buffers.weight_kib": 0}, ["buffers.weight_kib = 0", "greater than 0"]),
        ({"memory.timing.t_rfc_ns": 5000}, ["t_rfc_ns = 5000", "t_refi_ns = 3904"]),
        ({"memory.burst_bytes": 4096}, ["row_bytes = 2048", "burst_bytes = 4096"]),
        ({"buffers.kv_kib": 2e6, "memory.bandwidth_bytes_per_s": 1e9}, ["buffers.kv_kib = 2e+06", "2.05 s", "1 s"]),
        ({"cost.node": "3nm"}, ["cost.node = '3nm'"]),
        ({"cost.dram": "sram"}, ["cost.dram = 'sram'", "'lpddr4'", "'hbm2e'"]),
        ({"cost.static_w_per_mm2": -1}, ["cost.static_w_per_mm2 = -1", "greater than or equal to 0"]),
        ({"sfu.lanes": 1.5}, ["sfu.lanes = 1.5", "integer"]),
        ({"sfu.functions.norm.passes": 0}, ["sfu.functions.norm.passes = 0", "greater than or equal to 1"]),
        ({"sfu.functions": {}}, ["sfu.functions", "lacks 'softmax'"]),
        ({"matrix.lookups_per_cycle.4": 0}, ["matrix.lookups_per_cycle.4 = 0", "greater than 0"]),
        ({"matrix.weight_widths": []}, ["matrix.weight_widths", "at least 1 item"]),
        ({"matrix.weight_widths": [2, 2]}, ["matrix.weight_widths", "each width may appear once"]),
        ({"matrix.activation_bits": 7}, ["matrix.activation_bits = 7", "4, 8 or 16"]),
        ({"matrix.mm": [2, 16]}, ["matrix.mm.2", "Field required"]),
        ({"matrix.bit_serial": "perhaps"}, ["matrix.bit_serial = 'perhaps'", "boolean"]),
        ({"memory.channels": 0}, ["memory.channels = 0", "greater than or equal to 1"]),
        ({"memory.capacity_bytes": -5}, ["memory.capacity_bytes = -5", "greater than or equal to 1"]),
        ({"memory.bandwidth_bytes_per_s": "fast"}, ["bandwidth_bytes_per_s = 'fast'", "number"]),
        ({"memory.bandwidth_bytes_per_s": 3.2e19}, ["bandwidth_bytes_per_s = 3.2e+19", "1e15 bytes per second"]),
        ({"memory.timing.t_rcd_ns": -1}, ["memory.timing.t_rcd_ns = -1", "greater than or equal to 0"]),
        ({"buffers.global_kib": float("inf")}, ["buffers.global_kib = inf", "2097152"]),
        ({"buffers.weight_kib": float("nan")}, ["buffers.weight_kib = nan", "2097152"]),
        ({"control.issue_cycles": -1}, ["control.issue_cycles = -1", "greater than or equal to 0"]),
        ({"clock_hz": 1e12}, ["clock_hz = 1000000000000.0", "1e6..1e11"]),
        ({"matrix.bit_serail": True}, ["'matrix.bit_serail'; did you mean 'matrix.bit_serial'?"]),
        ({"control.prefil_bucket_tokens": 8}, ["did you mean 'control.prefill_bucket_tokens'?"]),
    ],
)
def test_a_bad_value_is_one_line_with_field_value_and_bound(overrides, parts):
    with pytest.raises(InputError) as caught:
        load_npu("pmpd-4k", overrides)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_an_unknown_npu_suggests_the_nearest():
    with pytest.raises(InputError, match="unknown NPU 'pmpd-4'; did you mean 'pmpd-4k'"):
        load_npu("pmpd-4")


@pytest.mark.parametrize(
    ("text", "part"),
    [("clock_hz: [", ":1: not YAML"), ("- 1", "must be a mapping"), ("clock_hz: 1.0e+9\nname: x", "Field required")],
)
def test_a_bad_file_is_named(tmp_path, text, part):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=part) as caught:
        load_npu(path)
    assert "mine.yaml" in str(caught.value)


def test_an_own_file_loads_as_the_named_one_does(tmp_path):
    from importlib import resources

    text = (resources.files("hwsim") / "npus" / "pmpd-4k.yaml").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert load_npu(path) == load_npu("pmpd-4k")
    path.write_text(text + "\nspeed: 2\n")
    with pytest.raises(InputError, match="unknown NPU parameter 'speed' = 2; an NPU has buffers, clock_hz"):
        load_npu(path)


@pytest.mark.parametrize(
    ("written", "misspelt", "parts"),
    [
        (
            "bandwidth_bytes_per_s",
            "bandwith_bytes_per_s",
            ["'memory.bandwith_bytes_per_s'", "did you mean 'memory.band"],
        ),
        ("weight_kib", "weights_kib", ["'buffers.weights_kib' = 1024", "did you mean 'buffers.weight_kib'?"]),
        ("lanes", "lane", ["'sfu.lane' = 16", "did you mean 'sfu.lanes'? sfu has functions, lanes"]),
        ("{passes: 2, l", "{pases: 2, l", ["'sfu.functions.softmax.pases' = 2", "functions.softmax.passes'?"]),
        ("t_rfc_ns", "t_rfc", ["'memory.timing.t_rfc' = 280", "did you mean 'memory.timing.t_rfc_ns'?"]),
    ],
)
def test_a_misspelt_key_of_a_file_is_refused_with_the_nearest_one(tmp_path, written, misspelt, parts):
    from importlib import resources

    path = tmp_path / "mine.yaml"
    text = (resources.files("hwsim") / "npus" / "pmpd-4k.yaml").read_text()
    path.write_text(text.replace(written, misspelt, 1))
    with pytest.raises(InputError) as caught:
        load_npu(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: unknown NPU parameter")
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"gone\.yaml: no such file"):
        load_npu(tmp_path / "gone.yaml")
