"""Check every kernel on this machine: on its GPU, or in Triton's CPU interpreter where there is none.

Whether Triton interprets is fixed when its functions are defined, so the checks run in processes of their own, which
also compile side by side. What a process printed before it died counts; what it did not get to is a failure.
"""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from kernels.errors import KernelError

INTERPRET = "TRITON_INTERPRET"


@dataclass(frozen=True)
class Finding:
    """What became of one check.

    Attributes:
        name: What was checked.
        passed: Whether it holds.
        detail: Error and tolerance, what the compiler made of it, or what went wrong.
        values: The same as numbers.
        seconds: How long it took, compiling included.
    """

    name: str
    passed: bool
    detail: str
    values: dict[str, float]
    seconds: float

    def line(self) -> str:
        """As a line of text."""
        return f"{'ok  ' if self.passed else 'FAIL'}  {self.name:<58}  {self.detail}"


@dataclass(frozen=True)
class Task:
    """What a process is asked to do.

    Attributes:
        kind: ``run`` for the products and steps, ``compile`` for what the compiler makes of the kernels.
        device: ``cuda``, or ``cpu`` for the interpreter.
        only: Text that a check's name must contain.
        seed: Of the random data.
        share: Which checks: every ``shares``-th from here on.
        shares: Processes.
    """

    kind: str
    device: str
    only: str
    seed: int
    share: int = 0
    shares: int = 1


def check(task: Task, jobs: int, report: Callable[[Finding], None]) -> list[Finding]:
    """Run checks in processes.

    Args:
        task: What, for all processes together.
        jobs: How many at a time.
        report: Takes each finding as soon as it is there.

    Returns:
        All findings in the order of their list.

    Raises:
        KernelError: If no check has such a name.
    """
    names = _names(task)
    if not names:
        raise KernelError(f"--only {task.only}: no check has such a name")
    jobs = min(jobs, len(names))
    found: dict[str, Finding] = {}
    environment = {key: value for key, value in os.environ.items() if key != INTERPRET}
    if task.kind == "run" and task.device == "cpu":
        environment[INTERPRET] = "1"
    processes = []
    for share in range(jobs):
        part = Task(task.kind, task.device, task.only, task.seed, share, jobs)
        command = [sys.executable, "-m", "kernels.check", json.dumps(asdict(part))]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))

    def listen(process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                finding = Finding(**json.loads(line))
                found[finding.name] = finding
                report(finding)

    try:
        threads = [Thread(target=listen, args=(process,), daemon=True) for process in processes]
        for thread in threads:
            thread.start()
        for thread, process in zip(threads, processes, strict=True):
            thread.join()
            process.wait()
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    for number, name in enumerate(names):
        if name not in found:
            code = processes[number % jobs].returncode
            found[name] = Finding(name, False, f"not checked: its process ended with code {code}", {}, 0.0)
            report(found[name])
    return [found[name] for name in names]


def write_csv(path: Path, findings: Sequence[Finding], facts: dict[str, str]) -> None:
    """Findings as a table, with what they were found on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "passed", "detail", "seconds", *facts])
        for finding in findings:
            writer.writerow([finding.name, finding.passed, finding.detail, f"{finding.seconds:.2f}", *facts.values()])


def run_facts(task: Task) -> dict[str, str]:
    """What findings must be read with."""
    import torch

    if task.kind == "run" and task.device == "cuda":
        from kernels.bench.device import describe_device

        return describe_device(torch.device("cuda", torch.cuda.current_device()))
    from kernels.bench.device import versions

    return {"device": "compiler" if task.kind == "compile" else "interpreter", **versions()}


def default_device() -> str:
    """``cuda`` where the kernels can run on the GPU, else ``cpu``.

    Raises:
        KernelError: If there is a GPU but the kernels cannot run on it.
    """
    import torch

    from kernels.dispatch import device_obstacle

    if not torch.cuda.is_available():
        return "cpu"
    obstacle = device_obstacle(torch.device("cuda", torch.cuda.current_device()))
    if obstacle is not None:
        raise KernelError(f"{obstacle}; --device cpu checks in the interpreter")
    return "cuda"


def _checks(task: Task) -> list[tuple[str, Callable[[], Finding]]]:
    """Names of the checks and how to run them; neither compiles nor interprets anything yet."""
    import torch

    from kernels.check_cases import Case, cases
    from kernels.check_compiled import CompiledCase, compiled_cases

    device = torch.device(task.device)

    def run(case: Case) -> Finding:
        torch.manual_seed(task.seed)
        begin = time.perf_counter()
        error = case.error(device)
        detail = f"error {error:.1e}  tolerance {case.tolerance:.0e}  seed {task.seed}"
        # JSON has no NaN.
        values = {"tolerance": case.tolerance} | ({"error": error} if math.isfinite(error) else {})
        return Finding(case.name, error <= case.tolerance, detail, values, time.perf_counter() - begin)

    def compiled(case: CompiledCase) -> Finding:
        begin = time.perf_counter()
        values, problems = case.inspect()
        detail = "  ".join(f"{name} {value:g}" for name, value in values.items())
        return Finding(
            case.name,
            not problems,
            "  ".join([detail, *problems]),
            values,
            time.perf_counter() - begin,
        )

    every: list[tuple[str, Callable[[], Finding]]] = []
    if task.kind == "run":
        every += [(case.name, lambda case=case: run(case)) for case in cases(device)]  # type: ignore[misc]
    else:
        every += [(case.name, lambda case=case: compiled(case)) for case in compiled_cases()]  # type: ignore[misc]
    return [(name, function) for name, function in every if task.only in name]


def _names(task: Task) -> list[str]:
    return [name for name, _ in _checks(task)]


def _run_share(task: Task) -> None:
    """Run a process's checks and print a finding a line."""
    for name, function in _checks(task)[task.share :: task.shares]:
        begin = time.perf_counter()
        try:
            finding = function()
        except Exception as error:
            # Whatever one kernel does, the others are checked too.
            what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            finding = Finding(name, False, what, {}, time.perf_counter() - begin)
        print(json.dumps(asdict(finding)), flush=True)


def summary(findings: Sequence[Finding]) -> dict[str, Any]:
    """Findings as JSON holds them."""
    return {
        "passed": all(finding.passed for finding in findings),
        "failed": [finding.name for finding in findings if not finding.passed],
        "checks": [asdict(finding) for finding in findings],
    }


if __name__ == "__main__":
    _run_share(Task(**json.loads(sys.argv[1])))
