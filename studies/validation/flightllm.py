"""Check 4: FlightLLM on the VHK158, LLaMA2-7B at INT4, against its authors' own profiler.

The profiler is public (FlightLLM/flightllm_test_demo, folder ``profile``; numbers in ``data/flightllm_vhk158.csv``).
Read from it, not fitted: it times the instructions of one of the four SLRs, each with a matrix unit, 8 of the 32 HBM
channels and an SFU of 16 lanes; weights, lm_head among them, are INT4, q and k with 70% of them stored; keys and values
are INT8; HBM sustains 0.70 of its peak; step i of a response attends to prompt + i + 1 tokens, rounded up to 16.

Two constants remain:

- ``SLR share``, taken over: all times are divided by 3.2. Over the four SLRs that is a share of 0.8 of the machine.
- ``KV share``, fitted to what 1,000 more tokens of context add to a step: the share of the HBM's peak at which keys and
  values arrive. The profiler reads them twice, once to append the new ones and once for attention, pads the 128 columns
  of a head's values to an instruction's 512, and starts no load before the operation before has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hwsim import NpuConfig, SimulationOptions, SimulationResult, load_npu, load_shape, simulate
from hwsim.config import Timing
from hwsim.trace import Schedule, synthetic_trace
from studies.validation.table import Cell, Fitted, Outcome, Row, read_data, shown, within

CHECK = "4 FlightLLM"
NPU, MODEL, WEIGHT_BITS = "flightllm-vhk158", "vicuna-7b", 4  # LLaMA2-7B has Vicuna's shape
KV_BITS, LM_HEAD_BITS = 8, 4
SLRS, CORRECTION = 4, 3.2
HBM_EFFICIENCY = 0.70
LANES = 16 * SLRS
A_BUFFER_KIB = 8192  # all of it; the NPU file assumes that half of it holds activations
BUCKET = 16
TIME_BOUND, RATE_BOUND = 0.10, 0.05
STEP_CONTEXT, STEP_MS = 512, 9.81  # their step at token 512, and how busy its units are
BUSY = {"matrix": 0.925, "dram": 0.725, "sfu": 0.030}
NO_CODEBOOKS: dict[str, object] = {"buffers.resident_codebook_kib": 1 << 17}  # INT4 has none; all stay on chip
KV_SHARES, SLR_SHARES = (0.05, 0.70), (0.5, 1.0)  # searched
BISECTIONS = 24


@dataclass(frozen=True)
class Case:
    """One published case: prompt and response, and what the profiler says."""

    prompt_tokens: int
    decode_tokens: int
    prefill_ms: float
    decode_ms: float

    @property
    def mean_context(self) -> float:
        """Mean tokens that its steps attend to."""
        buckets = [-(-(self.prompt_tokens + step + 1) // BUCKET) * BUCKET for step in range(self.decode_tokens)]
        return sum(buckets) / len(buckets)

    @property
    def tokens_per_s(self) -> float:
        """Published rate, from the published decode time, which has more digits."""
        return self.decode_tokens / self.decode_ms * 1e3


@dataclass(frozen=True)
class Constants:
    """The two constants; None where one is not used."""

    slr_share: float | None = None
    kv_share: float | None = None

    def __str__(self) -> str:
        parts = []
        if self.slr_share is not None:
            parts.append(f"SLR share = {self.slr_share:.3f} (theirs)")
        if self.kv_share is not None:
            parts.append(f"KV share = {self.kv_share:.3f}")
        return ", ".join(parts)


def _quiet_timing(timing: Timing) -> dict[str, object]:
    """No overheads: the published efficiency stands for all of them."""
    values = timing.model_dump()
    return {name: 0 if name.startswith("t_") and name != "t_refi_ns" else value for name, value in values.items()}


def published_npu(constants: Constants, others: Mapping[str, object] | None = None) -> NpuConfig:
    """The VHK158 as the profiler describes it, with ``others`` changed as well."""
    base = load_npu(NPU)
    share = constants.slr_share or 1.0
    peak = base.memory.bandwidth_bytes_per_s
    timing = _quiet_timing(base.memory.timing)
    changes: dict[str, object] = {
        **NO_CODEBOOKS,
        "clock_hz": base.clock_hz * share,
        "matrix.sparsity": {"group": 16, "index_bits": 4, "density": {"q_proj": 0.7, "k_proj": 0.7}},
        "sfu.lanes": LANES,
        "memory.bandwidth_bytes_per_s": peak * HBM_EFFICIENCY * share,
        "memory.timing": timing,
    }
    if constants.kv_share is not None:
        # Keys and values lie in HBM channels of their own, which serve them at this share.
        changes["second_memory"] = {
            **base.memory.model_dump(),
            "bandwidth_bytes_per_s": peak * constants.kv_share,
            "timing": timing,
            "holds": ["kv"],
            "technology": "hbm2",
        }
    return load_npu(NPU, {**changes, **(others or {})})


def _run(npu: NpuConfig, prompt_tokens: int, decode_tokens: int) -> SimulationResult:
    shape = load_shape(MODEL)
    trace = synthetic_trace(
        shape,
        Schedule.uniform(WEIGHT_BITS),
        prompt_tokens=prompt_tokens,
        decode_tokens=decode_tokens,
        kv_bits=KV_BITS,
        lm_head_bits=LM_HEAD_BITS,
    )
    return simulate(npu, shape, trace, SimulationOptions(engine="fast"))


def _added_ms(cases: Sequence[Case], tokens_per_s: Sequence[float]) -> float:
    """Milliseconds that 1,000 tokens of context add to a step, between the first and the last case."""
    added = 1e3 / tokens_per_s[-1] - 1e3 / tokens_per_s[0]
    return added / (cases[-1].mean_context - cases[0].mean_context) * 1e3


def _rate(result: SimulationResult) -> float:
    assert result.decode_tokens_per_s is not None
    return result.decode_tokens_per_s


def _bisect(low: float, high: float, too_low: Callable[[float], bool]) -> float:
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if too_low(middle) else (low, middle)
    return high


def _fit_kv_share(slr_share: float, cases: Sequence[Case]) -> float:
    """The share at which the simulated milliseconds per 1,000 tokens are the published ones; they fall with it."""
    ends = [cases[0], cases[-1]]
    published = _added_ms(ends, [case.tokens_per_s for case in ends])

    def adds_more(share: float) -> bool:
        npu = published_npu(Constants(slr_share, share))
        rates = [_rate(_run(npu, case.prompt_tokens, case.decode_tokens)) for case in ends]
        return _added_ms(ends, rates) > published

    return _bisect(*KV_SHARES, adds_more)


def _slr_share_of_rate(kv_share: float, case: Case) -> float:
    """The SLR share that a fit to one rate would give; only to compare with the profiler's."""

    def too_slow(share: float) -> bool:
        result = _run(published_npu(Constants(share, kv_share)), case.prompt_tokens, case.decode_tokens)
        return _rate(result) < case.tokens_per_s

    return _bisect(*SLR_SHARES, too_slow)


def _compare(name: str, npu: NpuConfig, cases: Sequence[Case], fitted: str, *, judged: bool) -> list[Row]:
    """Prefill, added milliseconds and the three rates of one prompt length."""
    results = [_run(npu, case.prompt_tokens, case.decode_tokens) for case in cases]
    rates = [_rate(result) for result in results]
    published = _added_ms(cases, [case.tokens_per_s for case in cases])
    prompt = cases[0].prompt_tokens
    values = [
        (f"prefill of {prompt} tokens", "ms", results[0].prefill_s * 1e3, cases[0].prefill_ms, TIME_BOUND),
        (
            f"time that 1,000 more tokens of context add, prompt {prompt}",
            "ms",
            _added_ms(cases, rates),
            published,
            TIME_BOUND,
        ),
        *(
            (f"rate, {prompt} + {case.decode_tokens} tokens", "tokens/s", rate, case.tokens_per_s, RATE_BOUND)
            for case, rate in zip(cases, rates, strict=True)
        ),
    ]
    return [
        within(CHECK, f"{name}: {what}", unit, predicted, reference, bound, fitted)
        if judged
        else shown(CHECK, f"{name}: {what}", unit, predicted, reference, fitted)
        for what, unit, predicted, reference, bound in values
    ]


def _compare_step(npu: NpuConfig, fitted: str) -> list[Row]:
    """One decode step and how busy it keeps each unit."""
    with_step, prefill = (_run(npu, STEP_CONTEXT - 1, steps) for steps in (1, 0))
    cycles = with_step.cycles - prefill.cycles
    rows = [shown(CHECK, f"step at token {STEP_CONTEXT}", "ms", 1e3 * cycles / npu.clock_hz, STEP_MS, fitted)]
    for unit, published in BUSY.items():
        busy = (with_step.busy_cycles[unit] - prefill.busy_cycles[unit]) / cycles
        rows.append(shown(CHECK, f"busy share of {unit} in that step", "1", busy, published, fitted))
    return rows


def check() -> Outcome:
    """No, one and two constants against the prompt of 128 tokens; the prompt of 512 held out."""
    every = [
        Case(int(row["prompt_tokens"]), int(row["decode_tokens"]), float(row["prefill_ms"]), float(row["decode_ms"]))
        for row in read_data("flightllm_vhk158")
    ]
    cases = [case for case in every if case.prompt_tokens == every[0].prompt_tokens]
    held_out = [case for case in every if case not in cases]
    slr_share = CORRECTION / SLRS
    kv_share = _fit_kv_share(slr_share, cases)
    both = Constants(slr_share, kv_share)
    variants: list[tuple[str, NpuConfig, Constants, bool]] = [
        ("NPU file as it is", load_npu(NPU, NO_CODEBOOKS), Constants(), False),
        ("no constant", published_npu(Constants()), Constants(), False),
        ("one constant", published_npu(Constants(slr_share)), Constants(slr_share), False),
        ("two constants", published_npu(both), both, True),
    ]
    rows: list[Row] = []
    for name, npu, constants, judged in variants:
        rows += _compare(name, npu, cases, str(constants), judged=judged)
    rows += _compare("two constants, held out", variants[-1][1], held_out, str(both), judged=False)
    rows += _compare_step(variants[-1][1], str(both))
    whole_buffer = published_npu(both, {"buffers.activation_kib": A_BUFFER_KIB})
    case = f"prefill of {held_out[0].prompt_tokens} tokens with {A_BUFFER_KIB} KiB for activations"
    prefill_ms = _run(whole_buffer, held_out[0].prompt_tokens, 0).prefill_s * 1e3
    rows.append(shown(CHECK, case, "ms", prefill_ms, held_out[0].prefill_ms, str(both)))
    middle = cases[len(cases) // 2]
    case = f"SLR share fitted to the rate of {middle.prompt_tokens} + {middle.decode_tokens} tokens instead"
    rows.append(shown(CHECK, case, "of the machine", _slr_share_of_rate(kv_share, middle), slr_share))
    details: list[dict[str, Cell]] = [
        {
            "variant": variant,
            "target": target,
            "predicted": row.predicted,
            "published": row.reference,
            "error": row.error,
        }
        for row in rows
        if ": " in row.case
        for variant, target in [row.case.split(": ", 1)]
    ]
    fitted = [
        Fitted(CHECK, "SLR share", slr_share, "of the machine", "nothing; taken over: the profiler's 3.2 over 4 SLRs"),
        Fitted(
            CHECK,
            "KV share",
            kv_share,
            "of the HBM's peak",
            "milliseconds that 1,000 tokens of context add, prompt of 128",
        ),
    ]
    return Outcome(rows, details, fitted)
