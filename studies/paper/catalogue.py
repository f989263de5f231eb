"""Every result of the paper that is reproduced here, in the paper's order."""

from __future__ import annotations

from studies.paper import (
    figure2,
    figure3,
    figure5,
    figure6,
    figure7,
    gpu,
    table1,
    table2,
    table4,
    table5,
    table9,
)
from studies.paper.result import Result

RESULTS: dict[str, Result] = {
    one.name: one
    for one in (
        figure2.RESULT,
        figure3.RESULT,
        table1.RESULT,
        table2.RESULT,
        gpu.TABLE3,
        figure5.RESULT,
        figure6.RESULT,
        figure7.RESULT,
        table4.RESULT,
        table5.RESULT,
        gpu.TABLE6,
        table9.RESULT,
    )
}
