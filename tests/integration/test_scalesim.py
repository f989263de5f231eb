"""Systolic cycles against SCALE-Sim itself, as its package index offers it, in a virtual environment of its own.

It cannot stand beside our pinned packages: scalesim 3.0.0 turns an array of one element into an integer, which
numpy refuses from 2.4 on.
"""

import csv
import random
import subprocess
import sys

import pytest

from hwsim.service import systolic_cycles

SCALE_SIM = "scalesim==3.0.0"
# What it imports; it requires more (numba, matplotlib, cython), which its simulation never loads.
IMPORTED = ("numpy<2.4", "pandas", "tqdm")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# SRAM that holds all operands, and bandwidth as the array asks for it: no stalls, compute cycles alone.
CONFIG = """\
[general]
run_name = run
[architecture_presets]
ArrayHeight: {rows}
ArrayWidth: {columns}
IfmapSramSzkB: 16384
FilterSramSzkB: 16384
OfmapSramSzkB: 16384
IfmapOffset: 0
FilterOffset: 10000000
OfmapOffset: 20000000
Dataflow: {dataflow}
ReadRequestBuffer: 1
WriteRequestBuffer: 1
[layout]
IfmapCustomLayout: False
IfmapSRAMBankBandwidth: 10
IfmapSRAMBankNum: 10
IfmapSRAMBankPort: 2
FilterCustomLayout: False
FilterSRAMBankBandwidth: 10
FilterSRAMBankNum: 10
FilterSRAMBankPort: 2
[sparsity]
SparsitySupport: false
[run_presets]
InterfaceBandwidth: CALC
UseRamulatorTrace: False
"""

RUN = """\
import sys
from scalesim.scale_sim import scalesim
for folder in sys.argv[1:]:
    files = {"config": "config.cfg", "topology": "products.csv", "layout": "layout.csv"}
    files = {name: f"{folder}/{file}" for name, file in files.items()}
    scalesim(save_disk_space=True, verbose=False, input_type_gemm=True, **files).run_scale(top_path=folder)
"""

DATAFLOWS = {"output-stationary": "os", "weight-stationary": "ws"}
LARGE = ((128, 128), [(512, 512, 512)])


def _cases():
    """Arrays ``(rows, columns)`` with products ``(m, n, k)``: random ones, and odd ones on odd arrays."""
    draw = random.Random(2410)
    sizes = (4, 8, 16, 32)
    cases = [
        ((draw.choice(sizes), draw.choice(sizes)), [tuple(draw.randint(1, 100) for _ in range(3)) for _ in range(4)])
        for _ in range(5)
    ]
    odd = [(1, 1, 1), (1, 97, 64), (64, 1, 33), (31, 29, 1), (7, 63, 65)]
    return [*cases, ((5, 23), odd), ((33, 2), odd), ((1, 8), odd), ((8, 1), odd), LARGE]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of an environment that holds SCALE-Sim."""
    folder = tmp_path_factory.mktemp("scalesim") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*install, "--no-deps", SCALE_SIM], capture_output=True, text=True, check=False, timeout=300)
    if "No matching distribution found" in done.stderr:
        pytest.skip(f"the package index offers no {SCALE_SIM}")
    assert done.returncode == 0, done.stderr
    subprocess.run([*install, *IMPORTED], check=True, capture_output=True, timeout=300)
    return python


@pytest.fixture(scope="module")
def reports(python, tmp_path_factory):
    """SCALE-Sim's compute report of every case, by dataflow."""
    top = tmp_path_factory.mktemp("reports")
    folders = {}
    for dataflow, short in DATAFLOWS.items():
        for number, ((rows, columns), products) in enumerate(_cases()):
            folder = folders[dataflow, number] = top / f"{short}{number}"
            folder.mkdir()
            (folder / "config.cfg").write_text(CONFIG.format(rows=rows, columns=columns, dataflow=short))
            lines = [f"product{index},{m},{n},{k},\n" for index, (m, n, k) in enumerate(products)]
            (folder / "products.csv").write_text("".join(["Layer,M,N,K,\n", *lines]))
            (folder / "layout.csv").write_text("Layer,\n")
    run = [python, "-c", RUN, *folders.values()]
    subprocess.run(run, check=True, stdout=subprocess.DEVNULL, timeout=600)

    def read(folder):
        with (folder / "run" / "COMPUTE_REPORT.csv").open(newline="") as file:
            return list(csv.DictReader(file, skipinitialspace=True))

    return {key: read(folder) for key, folder in folders.items()}


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_cycles_equal_scale_sims_on_twenty_random_products_and_on_odd_ones(reports, dataflow):
    compared = 0
    for number, ((rows, columns), products) in enumerate(_cases()):
        array = (columns, 1, rows) if dataflow == "output-stationary" else (columns, rows, 1)
        report = reports[dataflow, number]
        for (m, n, k), row in zip(products, report, strict=True):
            assert row["Stall Cycles"] == "0"
            assert systolic_cycles(array, dataflow, n, k, m) == int(row["Total Cycles"]), (array, m, n, k)
            compared += 1
    assert compared == 20 + 20 + 1


@pytest.mark.parametrize(("dataflow", "cycles"), [("output-stationary", 12_255), ("weight-stationary", 14_303)])
def test_scale_sim_counts_what_is_known_of_a_large_product(reports, dataflow, cycles):
    (row,) = reports[dataflow, _cases().index(LARGE)]
    assert int(row["Total Cycles"]) == cycles
