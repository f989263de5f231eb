"""Where a number came from: commit, versions, seed, device, configuration hash (design decision 9)."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("bittaper", "numpy", "optuna", "pandas", "simpy", "torch", "transformers", "triton")


def _git(folder: Path, *command: str) -> str:
    # No lock: a run may read the index while somebody commits.
    full = ["git", "--no-optional-locks", "-C", str(folder), *command]
    return subprocess.run(full, capture_output=True, text=True, timeout=10, check=True).stdout


def commit_of(source: Path, results: Path | None = None) -> str:
    """Name the commit that a file of the code is of.

    Args:
        source: A file of the code, perhaps in a checkout.
        results: Folder that the run writes; changes in it are what came of the code and not changes of it, unless
            the folder holds Python files.

    Returns:
        As ``git describe`` names it, with ``-dirty`` behind it where tracked files differ from it; ``unknown`` without
        git, or where the file is not tracked, as in an installation.
    """
    try:
        if not _git(source.parent, "ls-files", "--", source.name):
            return "unknown"
        name = _git(source.parent, "describe", "--always", "--abbrev=12").strip()
        top = Path(_git(source.parent, "rev-parse", "--show-toplevel").removesuffix("\n")).resolve()
        counted = ["."]
        if results is not None and top in results.resolve().parents:
            own = results.resolve().relative_to(top).as_posix()
            tracked = _git(top, "ls-files", "-z", "--", f":(literal){own}").split("\0")
            if not any(path.endswith(".py") for path in tracked):
                counted.append(f":(exclude,literal){own}")
        changed = _git(top, "status", "--porcelain", "--untracked-files=no", "--", *counted)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{name}-dirty" if changed else name


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def collect_provenance(results: Path | None = None, /, **extra: object) -> dict[str, str]:
    """Describe this run: commit, time (UTC), Python and package versions, machine, and ``extra`` as text.

    Args:
        results: Folder that the run writes: in a checkout, its own results do not make the commit dirty.
        extra: What else to keep, by name.
    """
    found = {package: _version(package) for package in PACKAGES}
    return {
        "commit": commit_of(Path(__file__), results),
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **{package: text for package, text in found.items() if text is not None},
        **{key: str(value) for key, value in extra.items()},
    }
