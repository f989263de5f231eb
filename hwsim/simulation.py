"""NPU + model shape + trace -> result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from hwsim.analytic import run_analytic
from hwsim.checks import check_trace
from hwsim.config import NpuConfig
from hwsim.events import EventEngine
from hwsim.execution import execute
from hwsim.fast import FastEngine
from hwsim.metrics import SimulationResult, summarise
from hwsim.plan import plan_steps
from hwsim.program import Engine
from hwsim.trace import InputError, ModelShape, Trace, unknown_name

ModeName = Literal["realistic", "pmpd-analytic"]
EngineName = Literal["events", "fast"]
MODES: tuple[str, ...] = get_args(ModeName)
ENGINES: tuple[str, ...] = get_args(EngineName)


@dataclass(frozen=True, slots=True)
class SimulationOptions:
    """How to simulate.

    Attributes:
        mode: ``realistic``, or ``pmpd-analytic``: the idealised model behind the paper's Fig. 5, which counts
            the decoder's linear weights and an int8 KV cache over the peak bandwidth and nothing else.
        engine: ``events``: SimPy, instruction by instruction. ``fast``: recurrences, equal to the cycle.
        allow_model_mismatch: Accept a trace of another model; the result is labelled.
        exact: Event engine without memo: every stage of every step is simulated.
        analytic_codebooks: ``pmpd-analytic`` also counts codebook traffic.
    """

    mode: ModeName = "realistic"
    engine: EngineName = "events"
    allow_model_mismatch: bool = False
    exact: bool = False
    analytic_codebooks: bool = False

    def __post_init__(self) -> None:
        for field, known in (("mode", MODES), ("engine", ENGINES)):
            if getattr(self, field) not in known:
                raise unknown_name(field, getattr(self, field), known)


def _knowing(npu: NpuConfig) -> NpuConfig:
    """The NPU with a compiler that knows what comes next, if it guesses at all."""
    if npu.control.prefetch == "none":
        return npu
    return npu.model_copy(update={"control": npu.control.model_copy(update={"prefetch": "planned"})})


def _refuse_batches(trace: Trace) -> None:
    if trace.header.execution == "batched":
        raise InputError("trace execution = 'batched': pmpd-analytic knows one sequence at a time; use 'realistic'")


def simulate(
    npu: NpuConfig,
    shape: ModelShape,
    trace: Trace,
    options: SimulationOptions | None = None,
) -> SimulationResult:
    """Simulate every sequence of ``trace`` on ``npu``, one after another or in batches, as its header says.

    Bits of activations, KV cache and lm_head come from the trace's header. Where its scheduler is ``learned``, that
    one's run behind each prefill is part of the time to the first token.

    Args:
        npu: The hardware, from :func:`hwsim.load_npu`.
        shape: The model, from :func:`hwsim.load_shape`.
        trace: What ran: precision of every step.
        options: Mode and engine; defaults if left out.

    Raises:
        InputError: If the trace belongs to another model and that is not allowed, a width is not supported, a
            sequence is too long, or the model does not fit the memory or a tile its buffer.
    """
    options = options or SimulationOptions()
    mismatch = trace.header.model.shape.sha256() != shape.sha256()
    if mismatch and not options.allow_model_mismatch:
        raise InputError(
            f"trace model '{trace.header.model.name}' has another shape than '{shape.name}': "
            "simulate the trace's own model, or allow the mismatch (--allow-model-mismatch) and get a labelled result"
        )
    check_trace(npu, shape, trace)
    engine: Engine = FastEngine() if options.engine == "fast" else EventEngine(exact=options.exact)
    resident = npu.buffers.resident_codebook_kib > 0
    plan = plan_steps(trace, resident_codebooks=resident)
    expected = None
    if options.mode == "pmpd-analytic":
        _refuse_batches(trace)
        execution = run_analytic(npu, shape, plan, codebooks=options.analytic_codebooks)
    else:
        execution = execute(npu, shape, trace.header, plan, engine)
        guesses = npu.control.prefetch == "assume-unchanged"
        if plan.switch_rows and (resident or guesses):
            expected = execute(_knowing(npu), shape, trace.header, plan.with_warm_switches(), FastEngine())
    return summarise(
        npu,
        model=shape.name,
        mode=options.mode,
        engine=options.engine if options.mode == "realistic" else "analytic",
        model_mismatch=mismatch,
        execution=execution,
        expected=expected,
        mean_decode_bits=trace.mean_decode_bits() if trace.decode_steps() else None,
        events=(engine.simulated, engine.memoised),
    )
