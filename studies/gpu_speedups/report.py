"""What the command prints of a finished run."""

from __future__ import annotations

import pandas as pd

from studies.common.output import format_table
from studies.gpu_speedups.run import Tables


def print_tables(tables: Tables) -> None:
    """Print what follows from the paper's latencies, what does not, and the measured devices."""
    layers = tables["table3"]
    agree = int(layers["agrees"].sum())
    print(f"Table 3 from Tables 7 and 8: {agree} of {len(layers)} entries agree within 0.01")
    for row in layers[~layers["agrees"]].to_dict("records"):
        print(
            f"  {row['gpu']}, {row['model']}, {row['what']}, {row['method']}: "
            f"printed {row['published']:.2f}, derived {row['derived']:.2f}"
        )
    print()
    print("Table 6 from Tables 7 and 8: time outside the linear layers fitted to baseline-h, PMPD predicted")
    print(_end_to_end(tables["table6"]))
    for name in ("device_table3", "device_table6"):
        if name in tables:
            print()
            print(tables[name].to_string(index=False, float_format="%.2f"))


def _end_to_end(table: pd.DataFrame) -> str:
    rows = [
        [
            f"{row['gpu']}, {row['model']}",
            f"{row['linear_fp16_ms']:.2f}",
            f"{row['linear_high_ms']:.2f}",
            f"{row['linear_low_ms']:.2f}",
            f"{row['rest_ms']:.2f}",
            f"{row['predicted_pmpd']:.2f}",
            f"{row['published_pmpd']:.2f}",
            f"{row['error']:+.1%}",
            f"{row['bound']:.2f}",
            row["verdict"],
        ]
        for row in table.to_dict("records")
    ]
    header = ["GPU, model", "fp16 ms", "high ms", "low ms", "rest ms (fitted)"]
    return format_table([*header, "predicted", "printed", "error", "bound", ""], rows)
