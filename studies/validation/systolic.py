"""Check 3: cycles of systolic arrays against SCALE-Sim's."""

from __future__ import annotations

from hwsim.service import systolic_cycles
from studies.validation.table import Cell, Outcome, at_most, read_data

CHECK = "3 systolic"


def check() -> Outcome:
    """Compare 42 recorded products, 21 for each dataflow."""
    details: list[dict[str, Cell]] = []
    for product in read_data("scalesim"):
        rows, columns, m, n, k = (int(product[name]) for name in ("rows", "columns", "m", "n", "k"))
        dataflow = product["dataflow"]
        array = (columns, 1, rows) if dataflow == "output-stationary" else (columns, rows, 1)
        predicted, counted = systolic_cycles(array, dataflow, n, k, m), int(product["scalesim_cycles"])
        details.append(
            {
                "dataflow": dataflow,
                "array": f"{rows}x{columns}",
                "product": f"{m}x{k}x{n}",
                "predicted_cycles": predicted,
                "scalesim_cycles": counted,
                "difference": predicted - counted,
            }
        )
    table = []
    for dataflow in dict.fromkeys(str(detail["dataflow"]) for detail in details):
        differences = [abs(int(str(one["difference"]))) for one in details if one["dataflow"] == dataflow]
        case = f"{dataflow}: largest difference of {len(differences)} products"
        table.append(at_most(CHECK, case, "cycles", max(differences), 0))
    return Outcome(table, details)
