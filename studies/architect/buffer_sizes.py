"""How large the on-chip buffers must be, and what their area costs."""

from __future__ import annotations

from itertools import product
from typing import Any

import pandas as pd

from hwsim import NpuConfig, SimulationOptions, evaluate_grid, simulate
from hwsim.cost import area_mm2
from hwsim.trace import InputError, ModelShape, Schedule, synthetic_trace
from studies.architect.settings import Finding, Settings

QUESTION = "How large must each on-chip buffer be, where is the knee, and what area does it cost?"
BUFFERS = ("weight", "kv", "activation", "codebook", "global")
LADDER_KIB = tuple(2.0**exponent for exponent in range(-2, 16))  # 0.25 KiB to 32 MiB
ENOUGH = 0.99  # share of the best speed that counts as reached
PHASES = {"decode": "decode_tokens_per_s", "prefill": "prompts_per_s"}


def with_buffers(npu: NpuConfig, sizes_kib: dict[str, float]) -> NpuConfig:
    """The same NPU with other buffers."""
    changes = {f"{name}_kib": size for name, size in sizes_kib.items()}
    return npu.model_copy(update={"buffers": npu.buffers.model_copy(update=changes)})


def _speeds(settings: Settings, npu: NpuConfig, shape: ModelShape, bits: int) -> tuple[float, float]:
    grid = evaluate_grid(
        [npu],
        shape,
        [Schedule.uniform(bits)],
        prompt_tokens=settings.prompt_tokens,
        decode_tokens=settings.decode_tokens,
        kv_bits=settings.kv_bits,
        lm_head_bits=settings.lm_head_bits,
    )
    return float(grid.decode_tokens_per_s[0, 0]), 1 / float(grid.prefill_s[0, 0])


def size_table(settings: Settings, npu: NpuConfig, shape: ModelShape) -> pd.DataFrame:
    """One buffer at a time through the ladder, the others as the NPU has them."""
    rows: list[dict[str, Any]] = []
    for name in BUFFERS:
        for size in LADDER_KIB:
            sized = with_buffers(npu, {name: size})
            for bits in sorted(settings.weight_bits):
                row: dict[str, Any] = {"buffer": name, "kib": size, "weight_bits": bits}
                try:
                    decode, prefill = _speeds(settings, sized, shape, bits)
                    row |= {"decode_tokens_per_s": decode, "prompts_per_s": prefill, "too_small": None}
                except InputError as error:
                    row |= {"decode_tokens_per_s": None, "prompts_per_s": None, "too_small": str(error)}
                rows.append(row | {"sram_mm2": area_mm2(sized)["sram"]})
    return pd.DataFrame(rows).astype({"decode_tokens_per_s": float, "prompts_per_s": float})


def knee_kib(sizes: pd.DataFrame, column: str) -> float:
    """Least size that reaches ``ENOUGH`` of the best speed of the ladder.

    The best need not be at the largest size: tiles fill half of a buffer, and nothing hides the load of the first one.
    """
    return float(sizes.loc[sizes[column] >= ENOUGH * sizes[column].max(), "kib"].min())


def knee_table(sizes: pd.DataFrame, npu: NpuConfig) -> pd.DataFrame:
    """The knee of each buffer, width and phase, beside what the NPU has.

    ``share_at_least`` and ``share_at_most``: speed at the smallest size that runs, and at the largest, over the best.

    Raises:
        InputError: If no size of a buffer runs.
    """
    rows: list[dict[str, Any]] = []
    for name, bits in product(BUFFERS, sorted(set(sizes["weight_bits"]))):
        mine = sizes[(sizes["buffer"] == name) & (sizes["weight_bits"] == bits)]
        given = getattr(npu.buffers, f"{name}_kib")
        runs = mine[mine["too_small"].isna()]
        for phase, column in PHASES.items():
            if runs.empty:
                raise InputError(
                    f"no size of buffers.{name}_kib up to {LADDER_KIB[-1]:,.0f} runs: {mine.iloc[-1]['too_small']}"
                )
            best = runs[column].max()
            rows.append(
                {
                    "buffer": name,
                    "weight_bits": bits,
                    "phase": phase,
                    "least_kib_that_runs": runs["kib"].min(),
                    "knee_kib": knee_kib(runs, column),
                    "given_kib": given,
                    "best_speed": best,
                    "share_at_least": runs.iloc[0][column] / best,
                    "share_at_most": runs.iloc[-1][column] / best,
                }
            )
    return pd.DataFrame(rows)


def combined_table(settings: Settings, npu: NpuConfig, shape: ModelShape, knees: pd.DataFrame) -> pd.DataFrame:
    """All buffers at their knees at once, beside the NPU as it is."""
    chosen = {name: float(knees[knees["buffer"] == name]["knee_kib"].max()) for name in BUFFERS}
    decode_only = knees[knees["phase"] == "decode"]
    for_decode = {name: float(decode_only[decode_only["buffer"] == name]["knee_kib"].max()) for name in BUFFERS}
    sized = {"as given": npu, "knees": with_buffers(npu, chosen), "knees of decoding": with_buffers(npu, for_decode)}
    rows: list[dict[str, Any]] = []
    for bits in sorted(settings.weight_bits):
        trace = synthetic_trace(
            shape,
            Schedule.uniform(bits),
            prompt_tokens=settings.prompt_tokens,
            decode_tokens=settings.decode_tokens,
            kv_bits=settings.kv_bits,
            lm_head_bits=settings.lm_head_bits,
        )
        for label, one in sized.items():
            result = simulate(one, shape, trace, SimulationOptions(engine="fast"))
            rows.append(
                {
                    "buffers": label,
                    "weight_bits": bits,
                    "total_kib": sum(getattr(one.buffers, f"{name}_kib") for name in BUFFERS),
                    "sram_mm2": result.area_by_component_mm2["sram"],
                    "area_mm2": result.area_mm2,
                    "decode_tokens_per_s": result.decode_tokens_per_s,
                    "ttft_s": result.ttft_s,
                }
            )
    return pd.DataFrame(rows)


def answer_of(knees: pd.DataFrame, combined: pd.DataFrame) -> str:
    """The sentence: what each phase needs, and what all knees together do to speed, first token and area."""
    peaks: Any = knees.pivot_table(index="buffer", columns="phase", values="knee_kib", aggfunc="max")
    cells = [f"{name} {peaks.loc[name, 'decode']:g}/{peaks.loc[name, 'prefill']:g}" for name in BUFFERS]
    pairs: Any = combined.pivot_table(index="weight_bits", columns="buffers", values=["decode_tokens_per_s", "ttft_s"])
    speed, ttft = pairs["decode_tokens_per_s"], pairs["ttft_s"]
    area: Any = combined.drop_duplicates("buffers").set_index("buffers")["sram_mm2"]

    def change(label: str) -> str:
        slower, times = (speed[label] / speed["as given"]).min() - 1, (ttft[label] / ttft["as given"]).max()
        return (
            f"{area[label]:.2f} mm2 of SRAM, decoding {slower:+.1%} and {times:.3g} times the time to the first token "
            "at the worst width"
        )

    return (
        f"KiB for {ENOUGH:.0%} of the best decoding / prefill speed at the most demanding width: {', '.join(cells)}. "
        f"Together the larger of both take {change('knees')}, beside the NPU as given with {area['as given']:.2f} mm2; "
        f"those of decoding alone {change('knees of decoding')}."
    )


def compute(settings: Settings) -> Finding:
    """Vary every buffer, find the knees, and check them together."""
    npu, shape = settings.load()
    sizes = size_table(settings, npu, shape)
    knees = knee_table(sizes, npu)
    combined = combined_table(settings, npu, shape, knees)
    return Finding(
        answer_of(knees, combined),
        {"buffer_sizes": sizes, "buffer_knees": knees, "buffer_combined": combined},
        "One buffer varies at a time, the others stay as the NPU has them; no load exceeds half a buffer. SRAM area is "
        "one constant per byte (hwsim.cost), which small macros exceed.",
        "Batches; energy of larger macros; the effect of ports and banks on the array.",
    )
