"""How much the answers of a chosen design rest on each number."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from itertools import product
from typing import Any

import pandas as pd

from dse import NoDesignError, measure_sensitivity
from studies.architect.codesign import LOSSES, least, search
from studies.architect.published import published_cases
from studies.architect.settings import Finding, Settings
from studies.common.output import si

QUESTION = "How much do the answers of one chosen design rest on each number, the assumed ones included?"
LITTLE = 0.01  # share of the variance that is not worth a word
METRICS = {
    "area_mm2": "area {:.3g} to {:.3g} mm2",
    "energy_j_per_token": "energy {:.3g} to {:.3g} J/token",
    "decode_tokens_per_s": "decoding {:.3g} to {:.3g} tokens/s",
    "ttft_s": "TTFT {:.3g} to {:.3g} s",
}


def reaches(sensitivity: pd.DataFrame, searched: Collection[str]) -> str:
    """How far each searched parameter was varied around the design.

    >>> rows = [{"parameter": "matrix.macs", "low": 1024, "high": 16384}]
    >>> rows.append({"parameter": "memory.bandwidth_bytes_per_s", "low": 29.7e9, "high": 32.2e9})
    >>> reaches(pd.DataFrame(rows), {"matrix.macs", "memory.bandwidth_bytes_per_s"})
    'matrix.macs 1,024 to 16,384, memory.bandwidth_bytes_per_s 29.7 GB/s to 32.2 GB/s'
    """
    texts = {}
    for row in sensitivity.drop_duplicates("parameter").to_dict("records"):
        name = row["parameter"]
        if name in searched:
            ends = (float(row["low"]), float(row["high"]))
            texts[name] = " to ".join(si(end, "B/s") if name.endswith("_per_s") else f"{end:,.0f}" for end in ends)
    return ", ".join(f"{name} {text}" for name, text in texts.items())


def share_text(row: Mapping[Hashable, Any]) -> str:
    """A number with the interval of its share of the variance; a share beyond 0..100% is an estimate's error.

    >>> share_text({"parameter": "matrix.macs", "total_order_ci_low": 0.663, "total_order_ci_high": 1.102})
    'matrix.macs (66 to 100% of the variance)'
    """
    low, high = (100 * min(1.0, max(0.0, row[f"total_order_ci_{end}"])) for end in ("low", "high"))
    return f"{row['parameter']} ({low:.0f} to {high:.0f}% of the variance)"


def deciding_text(mine: pd.DataFrame) -> str:
    """Which numbers decide a metric, as far as the intervals tell: those that overlap the first one's.

    Args:
        mine: Rows of one metric, the largest share first.
    """
    rows = mine.to_dict("records")
    first = [row for row in rows if row["total_order_ci_high"] >= rows[0]["total_order_ci_low"]]
    if all(row["total_order_ci_high"] <= 0 for row in rows):
        return "nothing moves it"
    text = " and ".join(map(share_text, first))
    return f"decided by {text}" if len(first) == 1 else f"decided by {text}, whose order is open"


def compute(settings: Settings) -> Finding:
    """Sobol's indices around the least PMPD design of the first task and target that have one.

    They are those of ``bittaper explore sensitivity`` with its own number of points.
    """
    missing = []
    for target, case in product(settings.targets_tokens_per_s, published_cases(settings)):
        try:
            found = search(settings, case, "pmpd", target, LOSSES[-1])
            break
        except NoDesignError as error:
            missing.append(str(error))
    else:
        return Finding(f"No PMPD schedule keeps the limits at any speed asked for: {missing[0]}.", {}, "", "")
    best = least(found)
    number = int(best["number"])
    measured = measure_sensitivity(found, design=number, progress=settings.progress)
    table = measured.table
    cells = []
    for metric, mine in table.groupby("metric", sort=False):
        low, high = (float(mine.iloc[0][f"metric_{end}"]) for end in ("low", "high"))
        cells.append(f"{METRICS[str(metric)].format(low, high)}, {deciding_text(mine)}")
    assumed = table[table["assumed"]].groupby("metric")["total_order_ci_high"].max()
    quiet = [METRICS[str(metric)].partition(" ")[0] for metric, share in assumed.items() if share < LITTLE]
    answer = (
        f"{best['schedule']} on {best['matrix.macs']:,.0f} MACs and {best['bandwidth_bytes_per_s'] / 1e9:.3g} GB/s "
        f"(least area for {case.task} at {target:g} tokens/s), every assumed number of the NPU file within "
        f"{measured.around:.0%} and every searched one at its neighbours: {'; '.join(cells)}. "
        + (
            f"No assumed number of it has more than {LITTLE:.0%} of the variance of {', '.join(quiet)}. "
            if quiet
            else ""
        )
        + "In brackets 95% intervals of the total share."
    )
    points = int(table["n"].iloc[0])
    return Finding(
        answer,
        {"sensitivity": table},
        f"Numbers vary independently and evenly; {points} points a sample, {measured.simulated:,} designs simulated; "
        f"intervals are bootstrapped. What was searched goes to its neighbours in the search, "
        f"{reaches(table, found.study.parameters)}, which decides the shares as much as the NPU does."
        + (f" Caution: {measured.caution}." if measured.caution else ""),
        "Constants of area and energy in hwsim.cost, which are not part of an NPU file. Held fixed: "
        + ("; ".join(f"{name} ({reason})" for name, reason in measured.held.items()) or "nothing")
        + ".",
        {"design": case.task, "trial": number, "target_tokens_per_s": target, "loss": LOSSES[-1]},
    )
