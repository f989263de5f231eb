"""The numbers of a report: an exploration with its analyses, computed once and written as tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hwsim.trace import atomic_writer

if TYPE_CHECKING:
    import pandas as pd

    from dse import Exploration
    from dse.worth import Exchange


@dataclass(frozen=True)
class Numbers:
    """What figures and text are made of.

    Attributes:
        found: The exploration.
        stopped: Designs stopped by each limit (:func:`dse.worth.stopped`).
        relaxations: What loosening a limit buys, as ``explore prices`` left it in the folder, else among the recorded
            designs (:func:`dse.worth.relaxations`).
        exchanges: What a byte per second buys (:func:`dse.worth.exchanges`).
        rates: Their rates (:func:`dse.worth.exchange_rates`).
        importance: Of decisions for objectives (:func:`dse.importance.importance`); None below three designs.
        sensitivity: Tables that ``explore sensitivity`` left in the folder, by file name.
    """

    found: Exploration
    stopped: pd.DataFrame
    relaxations: pd.DataFrame
    exchanges: list[Exchange]
    rates: pd.DataFrame
    importance: pd.DataFrame | None
    sensitivity: dict[str, pd.DataFrame]

    @property
    def objectives(self) -> list[str]:
        """Names of the objectives."""
        return [objective.name for objective in self.found.study.objectives]

    def write_tables(self, folder: Path) -> None:
        """Write every table as CSV, atomically."""
        tables = {
            "pareto": self.found.pareto,
            "hypervolume": self.found.hypervolume,
            "stopped": self.stopped,
            "relaxations": self.relaxations,
            "exchange": self.rates,
            "importance": self.importance,
        }
        for name, table in tables.items():
            if table is not None:
                with atomic_writer(folder / f"{name}.csv") as file:
                    table.to_csv(file, index=False, lineterminator="\n")


def collect_numbers(folder: Path) -> Numbers:
    """Analyse the exploration in a folder.

    Raises:
        InputError: If it holds no sound record, or no design that could be simulated.
    """
    import pandas as pd

    from dse import load_exploration
    from dse.importance import importance
    from dse.worth import exchange_rates, exchanges, relaxations, stopped
    from hwsim.trace import InputError

    found = load_exploration(folder)
    known = int(found.trials["error"].isna().sum())
    if known == 0:
        reason = found.trials["error"].iloc[0] if len(found.trials) else "the run has only begun"
        raise InputError(f"{folder}: no design was simulated: {reason}")
    prices = _prices(folder, found)
    return Numbers(
        found=found,
        stopped=stopped(found),
        relaxations=relaxations(found) if prices is None else prices,
        exchanges=exchanges(found),
        rates=exchange_rates(found),
        importance=importance(found) if known >= 3 else None,
        sensitivity={path.stem: pd.read_csv(path) for path in sorted(folder.glob("sensitivity-*.csv"))},
    )


def _prices(folder: Path, found: Exploration) -> pd.DataFrame | None:
    """What ``explore prices`` left in the folder; None if it did not, or for another record that was there before."""
    import numpy as np
    import pandas as pd

    from dse.prices import FILE_NAME
    from dse.resume import SAME

    path = folder / FILE_NAME
    if not path.exists():
        return None
    table = pd.read_csv(path)
    front, objectives = found.pareto, found.study.objectives
    best = {
        one.name: front[one.name].max() if one.direction == "maximize" else front[one.name].min() for one in objectives
    }
    limits = {str(limit) for limit in found.study.constraints}
    if set(table["objective"]) != set(best) or not limits.issuperset(table["constraint"]):
        return None
    same = np.isclose(table["best"], table["objective"].map(best), rtol=SAME, atol=0)
    return table if same.all() else None
