"""Co-design on the qualities that the paper prints: explorations for one model of its Table 1."""

from __future__ import annotations

from math import ceil, log
from typing import TYPE_CHECKING, Any

from dse import explore, parse_study
from dse.quality_files import read_named_quality
from hwsim import NpuConfig
from hwsim.trace import canonical_sha256, unknown_name
from studies.architect.settings import Settings
from studies.pmpd_bandwidth.run import QUALITY, TASKS, Case, make_cases
from studies.pmpd_bandwidth.run import Settings as BandwidthSettings

if TYPE_CHECKING:
    from dse import Exploration


CONFIRMATIONS = 0  # the event engine takes seconds for one design: it runs what is answered, not the whole front


def bandwidths_around(npu: NpuConfig, low: float, high: float, points: int) -> dict[str, Any]:
    """A log parameter over a range of bandwidths, with as many more points as it takes to reach twice the NPU's own.

    >>> from hwsim import load_npu
    >>> bandwidths_around(load_npu("pmpd-16k"), 4e9, 512e9, 8)
    {'type': 'log', 'low': 4000000000.0, 'high': 512000000000.0, 'points': 8}
    >>> bandwidths_around(load_npu("server-hbm3e"), 4e9, 512e9, 8)
    {'type': 'log', 'low': 4000000000.0, 'high': 4096000000000.0, 'points': 11}
    """
    own, step = npu.memory.bandwidth_bytes_per_s, (high / low) ** (1 / (points - 1))
    below, above = (max(0, ceil(log(ratio) / log(step))) for ratio in (2 * low / own, 2 * own / high))
    if below:
        low /= step**below
    if above:
        high *= step**above
    return {"type": "log", "low": low, "high": high, "points": points + below + above}


def published_models() -> list[str]:
    """Models that the paper's Table 1 gives qualities of."""
    return sorted({record.model_name for record in read_named_quality(QUALITY)})


def published_cases(settings: Settings) -> list[Case]:
    """The model's tasks, with the schedules of each family.

    Raises:
        InputError: If the table does not hold the model.
    """
    if settings.model not in published_models():
        raise unknown_name("model of the published table", settings.model, published_models())
    asked = BandwidthSettings(out=settings.out, models=(settings.model,))
    return make_cases(asked, read_named_quality(QUALITY))


def run_study(settings: Settings, case: Case, name: str, fields: dict[str, Any]) -> Exploration:
    """Explore one task exactly, or go on where it was stopped.

    Args:
        settings: Gives the NPU, the KV cache's and the lm_head's bits, and the folder.
        case: Model and task.
        name: Of the study; its folder is called after it and what is asked.
        fields: ``schedules``, ``parameters``, ``objectives`` and ``constraints`` of the study file.

    Raises:
        InputError: If the study cannot run, or its record cannot be read or written.
        NoDesignError: If no design keeps the limits.
    """
    load = TASKS[case.task]
    study = {
        "name": name,
        "npu": settings.npu,
        "workloads": [
            {
                "model": case.model,
                "prompt_tokens": load.prompt_tokens,
                "decode_tokens": load.decode_tokens,
                "kv_bits": settings.kv_bits,
                "lm_head_bits": settings.lm_head_bits,
                "task": case.task,
            }
        ],
        "quality": [QUALITY],
        "quality_metric": load.metric,
        "quality_reference": "high-precision",
        "sampler": "exact",
        "confirmations": CONFIRMATIONS,
        **fields,
    }
    npu, _ = settings.load()
    # A folder each: a record of another NPU or model refused here would pass for limits that no design keeps.
    asked = canonical_sha256([study, npu.model_dump(mode="json")])
    folder = settings.out / "explorations" / f"{name}-{asked[:8]}"
    return explore(parse_study(study, name), folder, progress=settings.progress)
