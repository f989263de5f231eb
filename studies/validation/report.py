"""The validation as a person reads it: verdicts by check, what failed, and every fitted parameter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from studies.common.output import format_table
from studies.validation.table import Outcome


def print_summary(outcomes: Mapping[str, Outcome]) -> None:
    """Print the verdicts, the failed rows and the fitted parameters."""
    rows = [row for outcome in outcomes.values() for row in outcome.rows]
    checks = dict.fromkeys(row.check for row in rows)
    verdicts = {check: Counter(row.verdict for row in rows if row.check == check) for check in checks}
    counts = [
        [check, *(str(found[verdict]) for verdict in ("pass", "fail", "shown"))] for check, found in verdicts.items()
    ]
    print(format_table(["check", "pass", "fail", "shown"], counts))
    if failed := [row for row in rows if row.verdict == "fail"]:
        print("\nfailed")
        for row in failed:
            bound = "" if row.bound is None else f", allowed {row.bound:.1%}"
            print(
                f"  {row.check}: {row.case}: {row.predicted:.4g} {row.unit}, reference {row.reference:.4g} "
                f"({row.error:+.1%}{bound})"
            )
    print("\nfitted parameters")
    for one in [one for outcome in outcomes.values() for one in outcome.fitted]:
        print(f"  {one.check}: {one.name} = {one.value:.6g} {one.unit}, fitted to {one.fitted_to}")
    print()
