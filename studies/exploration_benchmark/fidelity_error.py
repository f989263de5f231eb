"""How far the metrics of a handful of steps are from those of the full trace, on real NPUs and models."""

from __future__ import annotations

from typing import Any

import numpy as np
from tqdm import tqdm

from hwsim.trace import InputError

PAIRS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("vicuna-7b", "pmpd-16k", {}),
    ("mobilellama-1.4b", "pmpd-4k", {}),
    ("phi-1.5", "pmpd-4k", {"control.prefetch": "assume-unchanged"}),
    ("stablelm-zephyr-3b", "pmpd-16k", {"buffers.resident_codebook_kib": 1024}),
    ("llama-3-8b", "flightllm-u280", {}),
)
DESIGNS = 40
PROMPT_TOKENS, DECODE_TOKENS = 300, 200
SCHEDULES = ("p4:4", "p3:3", "p4:4>3@60", "p4:4>3@100", "p4:3")
PARAMETERS = {
    "memory.bandwidth_bytes_per_s": {"type": "log", "low": 8e9, "high": 512e9},
    "matrix.macs": {"type": "categorical", "choices": [512, 4096, 16384]},
    "buffers.weight_kib": {"type": "categorical", "choices": [128, 256, 512]},
    "sfu.lanes": {"type": "categorical", "choices": [4, 16, 64]},
}
METRICS = ("decode_tokens_per_s", "ttft_s", "e2e_s", "energy_j_per_token", "dram_bytes_per_token")


def measure_fidelity(*, progress: bool) -> list[dict[str, Any]]:
    """Relative errors over random designs: one row per pair of model and NPU and metric."""
    from dse.fidelity import ShortTrace
    from dse.problem import prepare
    from dse.simulator import Simulator
    from dse.study import parse_study

    rows: list[dict[str, Any]] = []
    for model, npu, fixed in tqdm(PAIRS, desc="short traces", unit="pair", disable=not progress, leave=False):
        always = {path: {"type": "categorical", "choices": [value]} for path, value in fixed.items()}
        fields = {
            "workloads": [{"model": model, "prompt_tokens": PROMPT_TOKENS, "decode_tokens": DECODE_TOKENS}],
            "npu": npu,
            "schedules": list(SCHEDULES),
            "parameters": {**PARAMETERS, **always},
            "objectives": [{"name": "decode_tokens_per_s", "direction": "maximize"}],
        }
        problem = prepare(parse_study(fields, "fidelity"))
        assert isinstance(problem.evaluate, Simulator)
        rng = np.random.default_rng(0)
        designs = [problem.space.random(rng) for _ in range(DESIGNS)]
        short = ShortTrace(problem.evaluate)
        pairs = [
            (promised, full)
            for promised, full in zip(short.many(designs), problem.metrics_many(designs), strict=True)
            if not isinstance(promised, InputError) and not isinstance(full, InputError)
        ]
        for metric in METRICS:
            errors = [abs(promised[metric] / full[metric] - 1) for promised, full in pairs]
            middle, high = np.quantile(errors, [0.5, 0.95]).tolist()
            label = ", ".join([npu, *(f"{path} = {value}" for path, value in fixed.items())])
            share = {"median": middle, "p95": high, "largest": max(errors)}
            rows.append({"model": model, "npu": label, "metric": metric, "n": len(pairs), **share})
    return rows
