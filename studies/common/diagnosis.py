"""What this machine has, and what each use of the program still needs."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from studies.common.machine import usable_cores

NAME = "bittaper"
ROOT = Path(__file__).parent.parent.parent
MISSING = "is missing"
MIN_FREE_BYTES = 10**9
"""Disk that a study of a small model may need, its store, traces and figures included."""


@dataclass(frozen=True)
class Finding:
    """One thing that a use needs.

    Attributes:
        what: Its name.
        found: What is there: a version, a path, a size.
        problem: What is wrong; None where nothing is.
        remedy: The command, or the step, that mends it.
    """

    what: str
    found: str | None
    problem: str | None = None
    remedy: str | None = None


@dataclass(frozen=True)
class Use:
    """Something a user wants to do.

    Attributes:
        name: For people and programs.
        commands: What of the command line belongs to it.
        extra: Extra of the distribution that it needs; "" for none.
        checks: Besides packages.
    """

    name: str
    commands: str
    extra: str = ""
    checks: tuple[Callable[[], Finding], ...] = ()

    def findings(self) -> list[Finding]:
        """Everything it needs, packages first."""
        return [*packages(self.extra), *(check() for check in self.checks)]


def packages(extra: str) -> Iterator[Finding]:
    """Every package that the program itself and one of its extras need, with its version held against the bound."""
    from packaging.requirements import Requirement

    listed = requirements(extra)
    if listed is None:
        yield Finding(f"extra '{extra}'", None, "is not known to this installation", _install(extra))
        return
    for text in listed:
        requirement = Requirement(text)
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield Finding(requirement.name, None, MISSING, _install(extra))
            continue
        if requirement.specifier.contains(found, prereleases=True):
            yield Finding(requirement.name, found)
        else:
            problem = f"is {found}, must be {requirement.specifier}"
            yield Finding(requirement.name, found, problem, f"pip install '{requirement.name}{requirement.specifier}'")


def requirements(extra: str) -> list[str] | None:
    """What ``pip install bittaper[extra]`` asks for; None where there is no such extra.

    A checkout's ``pyproject.toml`` counts before what was recorded at installation, which may be older.
    """
    from packaging.requirements import Requirement

    project = ROOT / "pyproject.toml"
    if project.is_file():
        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        extras = table["optional-dependencies"]
        if extra and extra not in extras:
            return None
        found, open_extras = list(table["dependencies"]), [extra] if extra else []
        while open_extras:
            for text in extras[open_extras.pop()]:
                requirement = Requirement(text)
                if requirement.name == NAME:
                    open_extras += requirement.extras
                else:
                    found.append(text)
        return found
    marked = [Requirement(text) for text in requires(NAME) or ()]
    if extra and not any(one.marker and f'"{extra}"' in str(one.marker) for one in marked):
        return None
    return [str(one) for one in marked if one.marker is None or one.marker.evaluate({"extra": extra})]


def _install(extra: str) -> str:
    asked = f"[{extra}]" if extra else ""
    if (ROOT / "pyproject.toml").is_file():
        target = f"-e '.{asked}'" if asked else "-e ."
        return f"pip install -c constraints.txt {target}  (in {ROOT})"
    return f"pip install '{NAME}{asked}'"


def writable() -> Finding:
    """Whether results can be written here."""
    what = "write permission here"
    try:
        with tempfile.NamedTemporaryFile(dir=Path.cwd()):
            return Finding(what, "yes")
    except OSError as error:
        return Finding(what, None, f"is missing ({error.strerror})", "change to another folder, or give --out one")


def free_disk() -> Finding:
    """Free disk below the working folder."""
    free = shutil.disk_usage(Path.cwd()).free
    found = f"{free / 2**30:.1f} GiB"
    if free >= MIN_FREE_BYTES:
        return Finding("free disk here", found)
    return Finding(
        "free disk here", found, f"is {found}; a study may need 1 GB", "free some, or give --out another disk"
    )


def gpu() -> Finding:
    """A GPU that torch sees."""
    if find_spec("torch") is None:
        return Finding("GPU", None, "is unknown without torch", _install("gpu"))
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("GPU", None, f"is unknown: torch does not load ({error})", "reinstall torch: pytorch.org")
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        free, total = torch.cuda.mem_get_info()
        memory = f"{free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        return Finding("GPU", f"{torch.cuda.get_device_name()} (sm_{major}{minor}, {memory})")
    cuda = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    built = f"torch {torch.__version__} is built {cuda}"
    if Path("/dev/nvidiactl").exists():
        return Finding("GPU", None, f"has a driver but is not usable; {built}", "install a CUDA build: pytorch.org")
    return Finding("GPU", None, f"was not found; {built}", "use a machine with an NVIDIA GPU; all else runs on a CPU")


def compiler() -> Finding:
    """A C compiler, with which Triton builds its launchers."""
    return _program("C compiler", ("cc", "gcc", "clang"), "apt-get install gcc")


def browser() -> Finding:
    """Chromium, in which the tests of pages look at them."""
    return _program("Chromium", ("chromium", "chromium-browser", "google-chrome"), "apt-get install chromium")


def _program(what: str, names: Sequence[str], remedy: str) -> Finding:
    found = next((path for name in names if (path := shutil.which(name))), None)
    return Finding(what, found) if found else Finding(what, None, MISSING, remedy)


USES = (
    Use("simulate", "simulate, compare, report, and the architects' studies", checks=(writable,)),
    Use("explore", "explore", checks=(writable, free_disk)),
    Use(
        "evaluate",
        "quantize, evaluate, trace, allocate, solve, train-scheduler, study codesign",
        "accuracy",
        (writable, free_disk),
    ),
    Use("kernels", "kernels, and decoding on a GPU", "gpu", (gpu, compiler)),
    Use("demo", "demo", "demo"),
    Use("docs", "make docs, and tests of pages in a browser", "docs", (browser,)),
    Use("parquet", "simulate --table-format parquet, explore export --parquet", "parquet"),
    Use("several machines", "explore run --cluster or --storage, evaluate --workers", "cluster"),
)


def machine() -> dict[str, str]:
    """This machine in words."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    card = gpu()
    return {
        "bittaper": _own_version(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": str(usable_cores()),
        "memory": f"{total / 2**30:.1f} GiB, {free / 2**30:.1f} free",
        "free disk here": str(free_disk().found),
        "gpu": card.found or f"none ({card.problem})",
        "models from the hub": _hub(),
    }


def _own_version() -> str:
    try:
        return version(NAME)
    except PackageNotFoundError:
        return "not installed (running from a checkout)"


def _hub() -> str:
    """Whether the model hub is asked, and how many models lie in its cache."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    count = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    return f"{count} in {cache}; {'offline (HF_HUB_OFFLINE)' if offline else 'asked where a name is no folder'}"
