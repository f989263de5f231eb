"""What the GPU of a measurement is: read, never set."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

UNKNOWN = "unknown"
_COMMAND_TIMEOUT_S = 10
# Names as nvidia-smi knows them; clocks and temperature as they are when asked.
_QUERIES = {
    "driver": "driver_version",
    "sm_clock_mhz": "clocks.sm",
    "max_sm_clock_mhz": "clocks.max.sm",
    "memory_clock_mhz": "clocks.mem",
    "power_limit_w": "power.limit",
    "temperature_c": "temperature.gpu",
}


def describe_device(device: torch.device) -> dict[str, str]:
    """Everything a figure of this GPU must be read with.

    Args:
        device: A CUDA device.

    Returns:
        Name, driver, compute capability, multiprocessors, memory and L2 bytes, clocks, versions of torch, its CUDA and
        triton, commit and UTC time; ``unknown`` where the machine does not tell.
    """
    import torch

    found = torch.cuda.get_device_properties(device)
    return {
        "device": found.name,
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": str(found.multi_processor_count),
        "memory_bytes": str(found.total_memory),
        "l2_bytes": str(found.L2_cache_size),
        **_smi(str(getattr(found, "uuid", ""))),
        **versions(),
    }


def versions() -> dict[str, str]:
    """Versions of torch, its CUDA and triton, the commit, and the UTC time."""
    import torch

    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda or UNKNOWN,
        "triton": _version("triton"),
        "commit": commit(),
        "date_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def commit() -> str:
    """The checkout's commit, ``-dirty`` where files differ from it; ``unknown`` without git."""
    here = str(Path(__file__).parent)
    return _output("git", "-C", here, "describe", "--always", "--dirty", "--abbrev=12") or UNKNOWN


def l2_bytes(device: torch.device) -> int:
    """Size of the device's L2 cache."""
    import torch

    return int(torch.cuda.get_device_properties(device).L2_cache_size)


def _smi(uuid: str) -> dict[str, str]:
    """What only nvidia-smi tells, of the GPU with this UUID."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_QUERIES.values())}", "--format=csv,noheader,nounits"]
    # CUDA may number the devices otherwise than nvidia-smi does.
    text = _output(*command, *(["-i", f"GPU-{uuid}"] if uuid else []))
    values = [value.strip() for value in text.split("\n", 1)[0].split(",")]
    if len(values) != len(_QUERIES):
        values = [UNKNOWN] * len(_QUERIES)
    return dict(zip(_QUERIES, values, strict=True))


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return UNKNOWN
