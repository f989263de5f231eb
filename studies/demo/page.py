"""The page: controls and event wiring; what they do is in the modules without gradio."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from hwsim import NPU_NAMES, SHAPE_NAMES
from hwsim.trace import BittaperError
from studies.common.machine import cpu_model
from studies.demo import render
from studies.demo.choices import NO_RIVAL, PRECISIONS, RIVALS, SCHEDULERS, Choices, default_widths
from studies.demo.conversation import Conversation, Conversations, Engine, Turn
from studies.demo.figures import png, response_timeline, step_timeline
from studies.demo.npu import OWN_SHAPE, replay

SAME_AS_HIGH = "as High"
EXAMPLE_CHARACTERS = 70
QUEUE_POLL_S = 0.02
"""How long a click waits at most before it is seen."""
NOTHING_YET = '<div class="bt-empty">The NPU replays a response as soon as it has ended.</div>'


@dataclass(frozen=True)
class _Controls:
    """The components that say how to answer, in the order their values arrive."""

    precision: gr.Radio
    scheduler: gr.Radio
    widths: gr.CheckboxGroup
    prefill: gr.Dropdown
    switch: gr.Slider
    max_new_tokens: gr.Slider
    rival: gr.Dropdown

    def inputs(self) -> list[Any]:
        """All of them."""
        return [getattr(self, name) for name in self.__dataclass_fields__]


def _choices(values: tuple[Any, ...]) -> Choices | BittaperError:
    """What the controls say, or why it cannot be done."""
    precision, scheduler, widths, prefill, switch, max_new_tokens, rival = values
    try:
        return Choices(
            precision=precision,
            scheduler=scheduler,
            widths=tuple(widths),
            prefill_weight_bits=None if prefill == SAME_AS_HIGH else int(prefill),
            switch_step=int(switch),
            max_new_tokens=int(max_new_tokens),
            rival=(rival or NO_RIVAL).strip(),
        )
    except BittaperError as error:
        return error


def _simulated(npu: str) -> tuple[gr.Dropdown, gr.Dropdown]:
    """Which NPU, and which model on it; any of them may be chosen after the fact."""
    npus = list(NPU_NAMES) if npu in NPU_NAMES else [npu, *NPU_NAMES]
    with gr.Row():
        hardware = gr.Dropdown(npus, value=npu, label="Simulated NPU", elem_id="npu", min_width=150)
        shape = gr.Dropdown(
            [OWN_SHAPE, *SHAPE_NAMES], value=OWN_SHAPE, label="Simulated model", elem_id="shape", min_width=150
        )
    return hardware, shape


def _about_learned(engine: Engine) -> str:
    if engine.learned is None:
        return f"Learned is greyed out: {engine.why_not_learned}."
    config = engine.learned.config
    widths = " and ".join(str(bits) for bits in config.widths)
    return (
        f"Learned chooses one of {config.points} switch positions for each prompt, between {widths} bits; it does not "
        "look at the precision set and switch position below."
    )


class Page:
    """What the events of the page do; every tab has its own conversation.

    Attributes:
        blocks: The page, ready to be served.
    """

    def __init__(self, engine: Engine, npu: str) -> None:
        """Build the page.

        Args:
            engine: What answers.
            npu: The NPU that is chosen at first: a name, or a file.
        """
        self.engine, self.tabs = engine, Conversations(engine)
        with gr.Blocks(title="bittaper demo", analytics_enabled=False, fill_width=True) as self.blocks:
            self._build(npu)
        self.blocks.queue(default_concurrency_limit=None, api_open=False)
        # Gradio looks for work every millisecond, and for progress bars, of which there are none, every ten.
        self.blocks._queue.sleep_when_free = QUEUE_POLL_S
        self.blocks._queue.progress_update_sleep_when_free = 1.0

    def _build(self, npu: str) -> None:
        gr.HTML(render.heading(self.engine.model.about, self._measured, on_cpu=self.engine.device == "cpu"))
        with gr.Row():
            with gr.Column(scale=4, min_width=420):
                gr.HTML(render.legend(self.engine.widths))
                transcript = gr.HTML(self._transcript(()), elem_id="transcript", max_height=760)
                prompt, send, stop, clear, busy = self._prompt()
            with gr.Column(scale=3, min_width=420):
                controls = self._controls()
                hardware, shape = _simulated(npu)
                numbers = gr.HTML(NOTHING_YET, elem_id="numbers")
        step = gr.HTML("", elem_id="step")
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        simulated: dict[str, Any] = {"inputs": [hardware, shape], "outputs": [numbers, step], **quiet}
        values = [prompt, *controls.inputs()]
        # One event for both ways to send: the page keeps a second one back until the first has ended.
        asked = gr.on(
            [send.click, prompt.submit],
            self.ask,
            values,
            [transcript, send, busy],
            concurrency_limit=None,
            trigger_mode="once",
            **quiet,
        )
        asked.then(self.free, None, [send, busy], queue=False, **quiet).then(self.simulate, **simulated)
        hardware.input(self.simulate, **simulated)
        shape.input(self.simulate, **simulated)
        stop.click(self.stop, None, None, queue=False, **quiet)
        cleared = [transcript, prompt, send, busy, numbers, step]
        clear.click(self.clear, None, cleared, queue=False, cancels=asked, **quiet)
        self.blocks.unload(self.leave)

    def _prompt(self) -> tuple[gr.Textbox, gr.Button, gr.Button, gr.Button, gr.HTML]:
        prompt = gr.Textbox(
            label="Prompt", lines=3, max_lines=8, elem_id="prompt", placeholder="Write a prompt, then press Send"
        )
        with gr.Row():
            send = gr.Button("Send", variant="primary", elem_id="send", min_width=90)
            stop = gr.Button("Stop", elem_id="stop", min_width=90)
            clear = gr.Button("Clear", elem_id="clear", min_width=90)
        busy = gr.HTML("", elem_id="busy", padding=False)
        if references := self.engine.model.references:
            examples = gr.Dropdown(
                [(f"{text[:EXAMPLE_CHARACTERS]}…", text) for text in references],
                value=None,
                label="Example prompts",
                elem_id="examples",
            )
            examples.input(lambda text: text, examples, prompt, show_progress="hidden", api_visibility="private")
        return prompt, send, stop, clear, busy

    def _controls(self) -> _Controls:
        widths = self.engine.widths
        model = self.engine.model
        most = model.lm.shape.max_context - 1
        learned = self.engine.learned is not None
        with gr.Row():
            precision = gr.Radio(
                list(PRECISIONS), value="PMPD", label="Precision", elem_id="precision", scale=5, min_width=220
            )
            scheduler = gr.Radio(
                list(SCHEDULERS),
                value="Static",
                label="Scheduler of PMPD",
                elem_id="scheduler",
                interactive=learned,
                scale=4,
                min_width=200,
            )
        gr.HTML(render.note(_about_learned(self.engine)))
        chosen = gr.CheckboxGroup(
            list(widths),
            value=list(default_widths(widths)),
            label="Precision set: bits of decoding; High is the widest, Low the narrowest, PMPD falls through them",
            elem_id="widths",
        )
        with gr.Row():
            switch = gr.Slider(
                0,
                most,
                value=min(20, model.usual_tokens // 2),
                step=1,
                label="Switch position",
                elem_id="switch",
                min_width=180,
            )
            max_new_tokens = gr.Slider(
                1,
                most,
                value=model.usual_tokens,
                step=1,
                label="Max new tokens",
                elem_id="max-new-tokens",
                min_width=180,
            )
        with gr.Row():
            prefill = gr.Dropdown(
                [SAME_AS_HIGH, *map(str, widths)],
                value=SAME_AS_HIGH,
                label="Prefill bits of PMPD",
                elem_id="prefill",
                min_width=150,
            )
            rival = gr.Dropdown(
                list(RIVALS),
                value="High",
                allow_custom_value=True,
                label="Compare with, or p4:4>3@20",
                elem_id="rival",
                min_width=180,
            )
        return _Controls(precision, scheduler, chosen, prefill, switch, max_new_tokens, rival)

    @property
    def _measured(self) -> str:
        """What the speeds beneath the answers are measured on."""
        return cpu_model() if self.engine.device == "cpu" else self.engine.device

    def _transcript(self, turns: tuple[Turn, ...]) -> str:
        return render.transcript(turns, self._measured)

    def _tab(self, request: gr.Request) -> Conversation | None:
        return self.tabs.find(str(request.session_hash))

    def ask(self, request: gr.Request, prompt: str, *values: Any) -> Iterator[tuple[str, gr.Button, str]]:
        """Answer; gives the tab's transcript as it grows, with Send off and why."""
        for turns in self.tabs.of(str(request.session_hash)).ask(prompt, _choices(values)):
            yield self._transcript(turns), gr.Button(interactive=False), render.busy(turns)

    def free(self) -> tuple[gr.Button, str]:
        """However the answer ended, the next prompt may be sent."""
        return gr.Button(interactive=True), ""

    def simulate(self, npu: str, shape: str, request: gr.Request) -> Iterator[tuple[str, str]]:
        """Replay the tab's last turn that has tokens; the inside of a step, which takes longest, last."""
        tab = self._tab(request)
        turns = [turn for turn in (tab.turns if tab else ()) if turn.replies and turn.replies[0].tokens]
        if not turns:
            yield NOTHING_YET, ""
            return
        try:
            replays = replay(self.engine.model, turns[-1], npu, shape)
        except BittaperError as error:
            yield render.message(str(error)), ""
            return
        numbers = render.replay_table(replays) + render.image(
            png(response_timeline(replays)), "The responses over time on the simulated NPU, by weight precision"
        )
        yield numbers, ""
        step = step_timeline(replays)
        if step is not None:
            yield numbers, render.image(png(step), "What each unit of the NPU does within one decode step")

    def stop(self, request: gr.Request) -> None:
        """End the tab's decoding before its next decoder block."""
        if (tab := self._tab(request)) is not None:
            tab.stop()

    def clear(self, request: gr.Request) -> tuple[str, str, gr.Button, str, str, str]:
        """Forget the tab's turns."""
        if (tab := self._tab(request)) is not None:
            tab.clear()
        return self._transcript(()), "", *self.free(), NOTHING_YET, ""

    def leave(self, request: gr.Request) -> None:
        """The tab was closed or left."""
        self.tabs.drop(str(request.session_hash))
