"""What the command prints of a finished run."""

from __future__ import annotations

from studies.common.output import format_table
from studies.trace_replay.run import Tables


def print_tables(tables: Tables) -> None:
    """Print step times by width, and what a switch changes."""
    rows = [
        [
            f"{row['trace']}: {row['clock']}",
            str(row["weight_bits"]),
            f"{row['n_steps']} of {row['n_sequences']}",
            f"{row['median_us']:,.4g}",
            f"{row['p20_us']:,.4g}..{row['p80_us']:,.4g}",
            f"{row['steps_per_s']:,.4g}",
        ]
        for row in tables["widths"].to_dict("records")
    ]
    header = ["trace: clock", "bits", "steps of responses", "median µs", "20..80%", "steps/s"]
    print(format_table(header, rows))
    print()
    rows = [
        [
            f"{row['trace']}: {row['clock']}",
            f"{row['from_bits']} > {row['to_bits']}",
            str(row["n_switches"]),
            f"{row['ratio_median']:.3f}",
            f"{row['ratio_p20']:.3f}..{row['ratio_p80']:.3f}",
            f"{row['elasticity_median']:.2f}",
        ]
        for row in tables["elasticity"].to_dict("records")
    ]
    if rows:
        print(format_table(["trace: clock", "bits", "switches", "before / after", "20..80%", "bit elasticity"], rows))
        print("bit elasticity: 1 where a step's time is proportional to the bits, 0 where it does not depend on them")
    else:
        print("no switch of width in these traces")
