"""Fig. 3: where the high width is spent during decoding, at equal mean bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from studies.paper import plots
from studies.paper.comparison import Found
from studies.paper.result import Request, Result
from studies.paper.small_models import FOUR_MODELS, SHARED_RUN, claim_comparisons, found_of, measurements, settings_of

EXPERIMENT = "fig3"
BASIS = "Phi-1.5 on CNN/DM, 4/3 bits; bars without numbers"
CLAIMS = (
    "high bits first, not last-half",
    "high bits first, not middle-half",
    "high bits first, not alternate",
    "first half high is as good as all high",
)


def settings(request: Request) -> Mapping[str, Any]:
    """What decides the numbers."""
    return settings_of(request, EXPERIMENT)


def compute(request: Request) -> Found:
    """The patterns at exactly equal bits and lengths, pair by pair."""
    measured = measurements(request, EXPERIMENT)
    found = found_of(measured)
    for claim in CLAIMS:
        found.comparisons += claim_comparisons(
            measured, claim, paper_basis=BASIS, paper_share=None if "alternate" in claim else 1.0
        )
    return found


RESULT = Result(
    name="fig-3",
    title="Fig. 3: high bits in the first, middle or last half",
    takes=SHARED_RUN,
    runs_on="the shipped model; --subject: other small ones; --model: any",
    paper="With Phi-1.5 on CNN/DM, high bits in the first half of the response match high bits throughout; in the "
    "middle or last half they do worse; alternating them does well too.",
    ours="The same patterns at the lengths of the high width's responses, so that mean bits are exactly equal, on "
    "small models at both pairs of widths; differences paired over prompts.",
    why="Other models and texts. The order matters where a response is open-ended and compared with another response: "
    "the first step that differs sends the rest elsewhere. In translation the source stays in view and an early error "
    "can be recovered from, so that the order makes little difference.",
    caption="Score less that of the high width throughout, for the high width in different places at equal "
    "mean bits; 95% paired intervals.",
    compute=compute,
    settings=settings,
    draw=plots.patterns,
    experiment=EXPERIMENT,
    why_on=FOUR_MODELS,
)
