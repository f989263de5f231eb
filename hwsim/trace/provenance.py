"""Where a number came from: commit, versions, seed, device, configuration hash (design decision 9)."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("bittaper", "numpy", "optuna", "pandas", "simpy", "torch", "transformers", "triton")


def _commit() -> str:
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip() or "unknown"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def collect_provenance(**extra: object) -> dict[str, str]:
    """Describe this run: commit, time (UTC), Python and package versions, machine, and ``extra`` as text."""
    found = {package: _version(package) for package in PACKAGES}
    return {
        "commit": _commit(),
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **{package: text for package, text in found.items() if text is not None},
        **{key: str(value) for key, value in extra.items()},
    }
