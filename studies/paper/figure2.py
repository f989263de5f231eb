"""Fig. 2 and App. A.8: the same prompt under full precision, each width, a high prefill and PMPD, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hwsim.trace import FULL_PRECISION_BITS, SWITCH_POINTS, Schedule, canonical_sha256, switch_steps
from studies.paper import plots
from studies.paper.comparison import Comparison, Found
from studies.paper.published import CITATION
from studies.paper.result import Request, Result

if TYPE_CHECKING:
    from studies.pmpd.bench import Bench, Measured
    from studies.pmpd.samples import Sample

SUBJECTS = ("selvic", "stories260K")
FULL = "full precision"
WIDTHS = (4, 3, 2)
PAIRS = ((4, 3), (3, 2))
PREFIX = "identical_prefix_tokens"
MARK = " ‖ "
"""Stands where a text leaves the full-precision one."""


def methods(max_new_tokens: int) -> dict[str, Schedule]:
    """What each prompt is answered under; PMPD switches at the first inner candidate, a third of the bound."""
    switch = switch_steps(max_new_tokens, SWITCH_POINTS)[1]
    found = {FULL: Schedule.uniform(FULL_PRECISION_BITS)}
    found |= {f"{width} bits": Schedule.uniform(width) for width in WIDTHS}
    for high, low in PAIRS:
        found[f"prefill {high}, decode {low}"] = Schedule.uniform(low, high)
        found[f"PMPD {high} then {low}"] = Schedule.from_pairs(high, [(0, high), (switch, low)])
    return found


def settings(request: Request) -> Mapping[str, Any]:
    """What decides the numbers: the models, their text and the schedules."""
    from studies.paper.subjects import make_subject, question_settings
    from studies.pmpd.run import describe

    found = [describe(make_subject(request, name)) for name in _names(request)]
    asked = question_settings(request) if request.model is not None and request.questions is not None else {}
    schedules = {name: one.label() for name, one in methods(found[0]["max_new_tokens"]).items()}
    return {"models": found, "first_schedules": schedules, **asked}


def compute(request: Request) -> Found:
    """Decode the reported prompts, choose some by a rule, and say where every text leaves full precision."""
    from studies.paper.subjects import FirstTurns, prepare, question_file
    from studies.pmpd.bench import SEED
    from studies.pmpd.subjects import QUOTABLE

    found = Found()
    samples: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    for name in _names(request):
        made = prepare(request, name)
        bench = made.bench
        if request.model is not None and request.questions is not None:
            bound = made.subject.report.max_new_tokens
            bench = prepare(request, name, FirstTurns(question_file(request), bench.lm, bound)).bench
        schedules = methods(bench.subject.report.max_new_tokens)
        measured = bench.measure("samples", schedules, metrics=[_ranked(bench), PREFIX])
        for one in measured.values():
            if one.method != FULL:
                curves += _curve(bench.subject.name, one, measured[FULL])
                found.comparisons.append(_first_difference(bench, one))
        samples += _samples(bench, measured, quotable=request.own is not None or bench.subject.name in QUOTABLE)
        facts[bench.subject.name] = {
            "prompts": len(measured[FULL].texts),
            "text": bench.subject.text,
            "max_new_tokens": bench.subject.report.max_new_tokens,
            "schedules": {method: one.label for method, one in measured.items()},
        }
    found.tables = {"samples": samples, "curves": curves}
    found.facts = {
        "models": facts,
        "seed": SEED,
        "device": request.device,
        "citation": f"{CITATION}, Fig. 2 and Appendix A.8",
    }
    return found


def divergence(text: str, reference: str) -> int | None:
    """Character at which a text leaves its reference; None where they are equal.

    >>> divergence("the cat sat", "the cow sat"), divergence("same", "same")
    (5, None)
    """
    if text == reference:
        return None
    pairs = enumerate(zip(text, reference, strict=False))
    return next((place for place, (ours, theirs) in pairs if ours != theirs), min(len(text), len(reference)))


def marked(text: str, reference: str) -> str:
    """The text on one line, marked where it leaves its reference.

    >>> marked("the cat sat", "the cow sat")
    'the c ‖ at sat'
    """
    place = divergence(text, reference)
    parts = [text] if place is None else [text[:place], text[place:]]
    return MARK.join(" ".join(part.split()) for part in parts)


def _names(request: Request) -> Sequence[str | None]:
    from studies.pmpd.subjects import subject_makers

    if request.model is not None:
        return (None,)
    known = ("selvic",) if request.quick else tuple(subject_makers())
    return request.subjects or tuple(name for name in SUBJECTS if name in known)


def _ranked(bench: Bench) -> str:
    """A metric with one value per prompt: Rouge-L, to gold where the task has it."""
    return "rouge_l" if bench.subject.report.has_references else "fidelity_rouge_l"


def _equal_tokens(one: Measured) -> np.ndarray[Any, np.dtype[np.float64]]:
    return one.statistics[PREFIX][:, 0]


def _curve(model: str, one: Measured, full: Measured) -> Iterator[dict[str, Any]]:
    """Share of prompts whose first t tokens are the full-precision ones, for t from 0."""
    lengths = np.array(list(full.tokens.values()))
    equal = _equal_tokens(one)
    for tokens in range(int(lengths.max()) + 1):
        same = equal >= np.minimum(tokens, lengths)
        yield {"model": model, "method": one.method, "tokens": tokens, "share": float(same.mean()), "n": len(same)}


def _first_difference(bench: Bench, one: Measured) -> Comparison:
    score = one.scores[PREFIX]
    return Comparison(
        case=f"{bench.subject.name}, {one.method}",
        quantity="leading tokens equal to full precision",
        unit="tokens",
        paper=None,
        paper_basis="texts only",
        ours=score.value,
        our_basis=f"{one.label}, {one.mean_bits:.2f} mean bits",
        kind="measured",
        same_subject=False,
        ci_low=score.low,
        ci_high=score.high,
        n=score.n,
        headline=True,
    )


def _samples(bench: Bench, measured: Mapping[str, Measured], *, quotable: bool) -> Iterator[dict[str, Any]]:
    """For each of the paper's two comparisons three prompts chosen by a rule, with every method's text.

    Args:
        bench: What was measured.
        measured: By method.
        quotable: Whether the prompts themselves may stand in the results, or only their hashes.
    """
    from studies.pmpd.samples import choose_samples

    metric = _ranked(bench)
    high, low = PAIRS[-1]
    others = list(measured.values())
    chosen: list[tuple[str, Sample]] = []
    for result, ours in (("Fig. 2", f"prefill {high}, decode {low}"), ("A.8", f"PMPD {high} then {low}")):
        theirs = measured[f"{low} bits"]
        chosen += [(result, one) for one in choose_samples(bench, result, measured[ours], theirs, others, metric)]
    for result, sample in chosen:
        reference = sample.answers[FULL][0]
        for method, (text, score) in sample.answers.items():
            yield {
                "model": bench.subject.name,
                "result": result,
                "chosen": sample.title.removeprefix(f"{result}: "),
                "prompt": sample.prompt if quotable else f"hash {canonical_sha256(sample.prompt)[:16]}",
                "method": method,
                "schedule": measured[method].label,
                "metric": metric,
                "score": round(score, 2),
                "differs_from_character": divergence(text, reference),
                "text": text,
                "marked": marked(text, reference),
            }


RESULT = Result(
    name="fig-2",
    title="Fig. 2 and A.8: sample outputs",
    takes="2 minutes",
    runs_on="small real models; --model: any model, on MT-Bench's first turns with --questions",
    paper="Three prompts that 2-bit Vicuna-7B fails and that a 3-bit prefill mends (Fig. 2), one success and one "
    "failure of PMPD with 4 and 3 bits on MT-Bench (A.8); chosen by the authors.",
    ours="The same prompt under full precision, 4, 3 and 2 bits, a high prefill, and PMPD, side by side; a double bar "
    "stands where a text leaves the full-precision one. Prompts are chosen by a rule: the largest gain, the median and "
    "the largest loss. Beside them, over all prompts, how long outputs stay equal.",
    why="Other models, and no choice by hand: a chosen success says nothing about how often it happens, so that the "
    "median and the largest loss are shown too.",
    caption="Share of outputs that still equal the full-precision output after so many tokens, by schedule.",
    compute=compute,
    settings=settings,
    draw=plots.figure2,
    why_on="selvic and stories260K",
)
