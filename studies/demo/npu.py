"""The simulated NPU beside the page: replies as traces, replayed by the simulator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hwsim.trace import Trace
from studies.demo.conversation import Reply, Turn
from studies.demo.model import DemoModel

if TYPE_CHECKING:
    from hwsim import NpuConfig, SimulationResult

OWN_SHAPE = "same model"


@dataclass(frozen=True)
class Replay:
    """A reply as the NPU runs it.

    Attributes:
        reply: What was decoded.
        result: Its simulation.
    """

    reply: Reply
    result: SimulationResult

    @property
    def energy_per_token_j(self) -> float:
        """Energy of the whole response, prefill included, over its tokens."""
        return self.result.energy_j / len(self.reply.tokens)

    @property
    def bytes_per_token(self) -> float:
        """Off-chip traffic of the whole response, prefill included, over its tokens."""
        return self.result.dram_bytes / len(self.reply.tokens)


@dataclass(frozen=True)
class Replays:
    """A turn's replies on one NPU.

    Attributes:
        npu: The hardware.
        shape: Name of the simulated model.
        mismatch: Whether that is another model than the one that answered.
        replays: In the order of the turn's replies.
    """

    npu: NpuConfig
    shape: str
    mismatch: bool
    replays: tuple[Replay, ...]


def reply_trace(model: DemoModel, reply: Reply) -> Trace:
    """The trace of a reply of at least one token; one that was stopped ends where it was stopped."""
    from accuracy.evaluation.traces import trace_header
    from hwsim.trace import TraceSequence, collect_provenance, run_length

    header = trace_header(
        model.lm, task="demo", scheduler=reply.scheduler, provenance=collect_provenance(state=reply.state)
    )
    sequence = TraceSequence(
        id="demo",
        prompt_tokens=reply.prompt_tokens,
        generated_tokens=len(reply.tokens),
        prefill_weight_bits=reply.scheduler.prefill_weight_bits,
        decode_weight_bits=run_length(reply.decode_weight_bits),
        finish_reason=reply.tokens[-1].finish_reason or "length",
        prefill_ns=reply.tokens[0].pass_ns,
        step_ns=tuple(token.pass_ns or 0 for token in reply.tokens[1:]),
    )
    return Trace(header=header, sequences=(sequence,))


def replay(model: DemoModel, turn: Turn, npu: str | Path, shape: str = OWN_SHAPE) -> Replays:
    """Simulate every reply of a turn that has tokens.

    Args:
        model: What answered.
        turn: Its replies.
        npu: A named NPU or a file.
        shape: The model to simulate: :data:`OWN_SHAPE`, or a named shape that the same widths are replayed on.

    Raises:
        InputError: If the NPU does not support a width, or the model or the sequence does not fit.
    """
    from hwsim import SimulationOptions, load_npu, load_shape, simulate

    config = load_npu(npu)
    own = shape == OWN_SHAPE
    simulated = model.lm.shape if own else load_shape(shape)
    options = SimulationOptions(engine="fast", allow_model_mismatch=not own)
    replays = tuple(
        Replay(reply, simulate(config, simulated, reply_trace(model, reply), options))
        for reply in turn.replies
        if reply.tokens
    )
    return Replays(config, simulated.name, not own, replays)
