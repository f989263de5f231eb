"""Turns and simulations as HTML. Everything that a prompt or a model wrote is escaped here, and nowhere else."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby, takewhile

from studies.common.output import si
from studies.demo.conversation import Reply, Turn
from studies.demo.npu import Replay, Replays

# The page's components fill values into templates of their own; as entities these characters mean only themselves.
_TEMPLATE_CHARACTERS = str.maketrans({"$": "&#36;", "{": "&#123;", "}": "&#125;", "`": "&#96;"})
NONE_YET = "&ndash;"


def escape(text: str) -> str:
    """Text that means itself: no markup, no attribute's end, no template.

    >>> print(escape('<b onclick="x">${1}'))
    &lt;b onclick=&quot;x&quot;&gt;&#36;&#123;1&#125;
    """
    return html.escape(text, quote=True).translate(_TEMPLATE_CHARACTERS)


def heading(about: str, measured: str, *, on_cpu: bool) -> str:
    """The top of the page: what answers, what is measured and what is simulated."""
    caveat = (
        " On a CPU all widths compute alike, and the first step at a width unpacks its weights: fewer bits are not "
        "faster here."
        if on_cpu
        else ""
    )
    return (
        '<div class="bt-head"><h1>bittaper: progressive mixed-precision decoding</h1>'
        f"<p>{escape(about)}</p><p>Text and widths are really decoded; speeds beneath an answer are measured on this "
        f"machine ({escape(measured)}).{caveat} The NPU is simulated, running the same widths step by step.</p></div>"
    )


def transcript(turns: Sequence[Turn], measured: str) -> str:
    """All turns of a tab, the newest last.

    Args:
        turns: What was asked and answered.
        measured: What the speeds were measured on.
    """
    if not turns:
        return '<div class="bt-empty">Answers appear here, each token in the colour of its weight precision.</div>'
    return "".join(_turn(turn, measured) for turn in turns)


def busy(turns: Sequence[Turn]) -> str:
    """Why nothing can be sent while a tab's newest turn is being answered, and what can be done about it."""
    waiting = any(reply.state == "waiting" for turn in turns[-1:] for reply in turn.replies)
    reason = (
        "The model is answering another tab first. Send is off until this prompt is answered; Stop takes it back."
        if waiting
        else "Answering. Send is off until the answer has ended; Stop ends it now."
    )
    return f'<p class="bt-busy" role="status">{reason}</p>'


def legend(widths: Iterable[int]) -> str:
    """What the colours and underlines mean, for the widths on the page."""
    keys = " ".join(f'<span class="bt-key bt-w{bits}"><b>{bits}</b> bit</span>' for bits in sorted(set(widths)))
    return f'<div class="bt-legend" aria-label="Colours of the weight precisions">Weight precision: {keys}</div>'


def _turn(turn: Turn, measured: str) -> str:
    replies = "".join(_reply(reply, measured, turn.reference) for reply in turn.replies)
    parts = [f'<div class="bt-prompt"><span class="bt-who">You</span>{escape(turn.prompt)}</div>']
    if replies:
        parts.append(f'<div class="bt-replies">{replies}</div>')
    if turn.reference is not None:
        parts.append(
            f'<div class="bt-reference"><span class="bt-who">Correct translation</span>{escape(turn.reference)}</div>'
        )
    if turn.error:
        parts.append(f'<div class="bt-error" role="alert">{escape(turn.error)}</div>')
    return f'<section class="bt-turn">{"".join(parts)}</section>'


def _reply(reply: Reply, measured: str, reference: str | None) -> str:
    how = reply.schedule.label() if reply.schedule is not None else "chosen for each prompt"
    return (
        f'<article class="bt-reply" data-state="{reply.state}">'
        f'<header><b>{escape(reply.title)}</b> <code title="prefill bits : decode bits &gt; next bits @ first step">'
        f"{escape(how)}</code></header>"
        f'<div class="bt-tokens">{_tokens(reply)}</div>{_switching(reply)}'
        f"{_metrics(reply, measured)}{_verdict(reply, reference)}</article>"
    )


def _switching(reply: Reply) -> str:
    """Where the width changed, as it ran, and where it would still have; nothing where one width was asked for."""
    schedule, ran = reply.schedule, reply.decode_weight_bits
    fixed = reply.scheduler.schedule is not None
    if schedule is None or not ran or (fixed and len(schedule.decode) == 1):
        return ""
    first, *later = schedule.decode
    done = [f"to {one.weight_bits} at decode step {one.start_step}" for one in later if one.start_step < len(ran)]
    ahead = [f"to {one.weight_bits} at decode step {one.start_step}" for one in later if one.start_step >= len(ran)]
    parts = [f"Decoded at {first.weight_bits} bits"]
    if done:
        parts.append(f", switched {', then '.join(done)}")
    if ahead:
        parts.append(
            f"; {'will switch' if reply.state == 'decoding' else 'ended before it switched'} {', '.join(ahead)}"
        )
    chosen = "" if fixed else " Chosen for this prompt."
    return f'<p class="bt-note bt-switch">{"".join(parts)}.{chosen}</p>'


def _verdict(reply: Reply, reference: str | None) -> str:
    """Where a finished reply leaves the right answer."""
    if reference is None or reply.state != "complete":
        return ""
    words, right = reply.text.split(), reference.split()
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(words, right, strict=False)))
    if words == right:
        return '<p class="bt-note">As the correct translation.</p>'
    return f'<p class="bt-note">Leaves the correct translation at word {same + 1} of {len(right)}.</p>'


def _tokens(reply: Reply) -> str:
    """The text in runs of one width, coloured, underlined and labelled; each token tells its own bits on hover."""
    runs = []
    for bits, group in groupby(reply.tokens, key=lambda token: token.weight_bits):
        words = "".join(
            f'<span title="{"prefill" if token.prefill else f"decode step {token.index - 1}"}, {bits} bits, '
            f'{si((token.pass_ns or 0) / 1e9, "s")}">{escape(token.text)}</span>'
            for token in group
            if token.text
        )
        runs.append(f'<span class="bt-run bt-w{bits}"><sup aria-label="{bits} bits:">{bits}</sup>{words}</span>')
    return "".join(runs) or "&hellip;"


_ENDS = {
    "starting": "starting",
    "waiting": "waiting for another tab's response",
    "decoding": "decoding",
    "stopped": "stopped",
    "failed": "failed",
}


def _metrics(reply: Reply, measured: str) -> str:
    """Speed and average bits, as measured."""
    speed, bits, prefill = reply.decode_tokens_per_s, reply.mean_decode_bits, reply.prefill_s
    ended = reply.state == "complete"
    reason = reply.tokens[-1].finish_reason if ended else None
    state = _ENDS.get(reply.state, "complete" if reason == "eos" else "complete: max new tokens reached")
    cells = [
        ("Decoding speed", NONE_YET if speed is None else f"{speed:,.1f} tokens/s", f"measured on {measured}"),
        (
            "Average bits",
            NONE_YET if bits is None else f"{bits:.2f}",
            f"over {len(reply.decode_weight_bits)} decode steps",
        ),
        ("First token", NONE_YET if prefill is None else si(prefill, "s"), f"prompt of {reply.prompt_tokens} tokens"),
        ("Tokens", str(len(reply.tokens)), f"of at most {reply.max_new_tokens}; {state}"),
    ]
    return (
        '<dl class="bt-metrics">'
        + "".join(
            f"<div><dt>{name}</dt><dd>{value}</dd><small>{escape(note)}</small></div>" for name, value, note in cells
        )
        + "</dl>"
    )


def _rate(tokens_per_s: float) -> str:
    return f"{tokens_per_s:,.0f}" if tokens_per_s >= 1000 else f"{tokens_per_s:.1f}"


_ROWS: tuple[tuple[str, Callable[[Replay], float | None], Callable[[float], str]], ...] = (
    ("Decoding speed, tokens/s", lambda one: one.result.decode_tokens_per_s, _rate),
    ("Energy per token", lambda one: one.energy_per_token_j, lambda value: si(value, "J")),
    ("Off-chip traffic per token", lambda one: one.bytes_per_token, lambda value: si(value, "B")),
    ("Time to first token", lambda one: one.result.ttft_s, lambda value: si(value, "s")),
    ("Whole response", lambda one: one.result.e2e_s, lambda value: si(value, "s")),
    ("Average decode bits", lambda one: one.result.mean_decode_bits, lambda value: f"{value:.2f}"),
    ("Tokens", lambda one: float(len(one.reply.tokens)), lambda value: f"{value:.0f}"),
)


def replay_table(replays: Replays) -> str:
    """The simulated numbers of a turn, side by side."""
    heads = "".join(f'<th scope="col">{escape(one.reply.title)}</th>' for one in replays.replays)
    compared = len(replays.replays) > 1
    body = []
    for name, value_of, form in _ROWS:
        values = [value_of(one) for one in replays.replays]
        cells = [NONE_YET if value is None else form(value) for value in values]
        if compared:
            mine, other = values[:2]
            cells.append(f"{mine / other:.2f}&times;" if mine is not None and other else NONE_YET)
        body.append(f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    mismatch = (
        f"The widths of this response replayed on the shape of {escape(replays.shape)}: its speed, not its text. "
        if replays.mismatch
        else ""
    )
    ratio = '<th scope="col">ratio</th>' if compared else ""
    return (
        '<table class="bt-table"><caption>Simulated on '
        f"{escape(replays.npu.name)}, not measured</caption><thead><tr><td></td>{heads}"
        f"{ratio}</tr></thead><tbody>{''.join(body)}</tbody></table>"
        f'<p class="bt-note">{mismatch}Energy and traffic are of the whole response, prefill included, over its '
        "tokens. Energy uses constants that are quoted or assumed.</p>"
    )


def image(png: bytes, alt: str) -> str:
    """A figure, inside the page."""
    data = base64.b64encode(png).decode()
    return f'<img class="bt-figure" alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def note(text: str) -> str:
    """Small print."""
    return f'<p class="bt-note">{escape(text)}</p>'


def message(text: str) -> str:
    """One line in place of what could not be shown."""
    return f'<div class="bt-error" role="alert">{escape(text)}</div>'
