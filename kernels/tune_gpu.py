"""Times the candidates of :mod:`kernels.tune` on this machine's GPU, compiled beforehand on all cores.

Every candidate is checked before it is timed: some of its outputs, first and last row among them, against float64,
and all of them for being numbers. Times are medians inside a CUDA graph over copies that leave the cache cold
(:mod:`kernels.bench.timing`), float16.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kernels.bench.problems import CUBLAS_TOLERANCE, TOLERANCE, random_nested, sampled_rows, swiglu
from kernels.bench.timing import Timer, graph_timer, plan_rotation, rotated_copies, time_graph
from kernels.config import GemmConfig, GemvConfig
from kernels.errors import KernelError
from kernels.tune import Measured, Product, TuneOptions, TuneSummary, candidates, products, today, tune
from kernels.tuning import Choice, TuningTable, file_name

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from kernels.layout import PackedWeight

# A configuration is at least some per cent better or it does not matter: twenty replays of at least 200 us each.
_REPLAYS = 20
# Of the minutes given, for compiling; without a limit, this many seconds.
_COMPILE_SHARE = 0.35
_COMPILE_S = 300.0
# Beyond the limit, until a process is ended: the longest compilation.
_GRACE_S = 10.0
# Of the free memory, so that cuBLAS and dequantised weights fit beside the copies.
_ROTATION_SHARE = 2


@dataclass(frozen=True)
class _Weight:
    """A packed weight and what some of its rows hold."""

    packed: PackedWeight
    rows: Tensor
    dense: Tensor


class GpuMeasure:
    """Prepares products on one GPU; the weight and its copies serve all numbers of vectors in turn."""

    def __init__(self, device: torch.device, timer: Timer | None, l2_bytes: int) -> None:
        """Use ``timer`` to time; without one, :attr:`Measured.time_us` only runs and checks a candidate."""
        self._device, self._timer, self._l2_bytes = device, timer, l2_bytes
        self._key: object = None
        self._weight: _Weight | None = None
        self._copies: list[PackedWeight] = []

    def __call__(self, product: Product) -> Measured:
        """Make the product's weight and activations."""
        import torch

        weight = self._prepare(product)
        packed = weight.packed
        generator = torch.Generator(self._device).manual_seed(product.M)
        shape = (product.M, product.case.K)
        x = torch.randn(shape, generator=generator, device=self._device).half()
        expected = x.double() @ weight.dense.double().t()
        if product.case.swiglu:
            expected = swiglu(expected[:, 0::2], expected[:, 1::2])

        def time_us(choice: Choice) -> float:
            width = product.case.N // 2 if product.case.swiglu else product.case.N
            out = torch.full((product.M, width), float("nan"), dtype=torch.float16, device=self._device)
            multiply = partial(run_choice, choice, x, product.weight_bits, out, product.case.swiglu)
            multiply(packed)
            error = float((out[:, weight.rows].double() - expected).abs().max() / expected.abs().max())
            tolerance = CUBLAS_TOLERANCE if choice.path == "dequantize" else TOLERANCE
            if not bool(out.isfinite().all()) or error > tolerance:
                raise KernelError(f"wrong result: error {error:.1e} of the largest output, must be <= {tolerance:.0e}")
            if self._timer is None:
                return 0.0
            calls = [partial(multiply, copy) for copy in self._rotation(packed, product.weight_bits)]
            return time_graph(calls, replays=_REPLAYS, timer=self._timer).p50_us

        return Measured(packed.decoder(product.weight_bits), packed.block_bytes, time_us)

    def _prepare(self, product: Product) -> _Weight:
        import torch

        from kernels.layout import pack
        from kernels.naive import dequantize

        case, bits = product.case, product.weight_bits
        key = (case, bits, product.uniform)
        if self._weight is None or self._key != key:
            self._weight, self._copies = None, []
            torch.cuda.empty_cache()
            planes, lut, group_size = random_nested(case.N, case.K, bits, self._device, uniform=product.uniform)
            outputs = sampled_rows(case.N // 2 if case.swiglu else case.N, self._device)
            rows = torch.stack((2 * outputs, 2 * outputs + 1), 1).flatten() if case.swiglu else outputs
            dense = dequantize(planes[:, rows].contiguous(), lut[rows], case.K, group_size)
            packed = pack(planes, {bits: lut}, case.K, group_size)
            self._key, self._weight = key, _Weight(packed, outputs, dense)
        return self._weight

    def _rotation(self, packed: PackedWeight, weight_bits: int) -> list[PackedWeight]:
        """Copies of a weight, made when first timed."""
        import torch

        if not self._copies:
            tables = sum(table.nbytes for table in packed.tables(weight_bits))
            limit = torch.cuda.mem_get_info(self._device)[0] // _ROTATION_SHARE
            rotation = plan_rotation(packed.planes.nbytes + tables, self._l2_bytes, limit)
            self._copies = rotated_copies(packed, rotation.copies)
        return self._copies


def run_choice(choice: Choice, x: Tensor, weight_bits: int, out: Tensor, swiglu: bool, packed: PackedWeight) -> None:
    """Compute one product in one way, into ``out``."""
    from kernels.dispatch import dequantized_product
    from kernels.gemm import gemm, gemm_swiglu
    from kernels.gemv import gemv, gemv_swiglu

    if choice.path == "dequantize":
        dequantized_product(x, packed, weight_bits, None, None, out, swiglu=swiglu)
    elif isinstance(choice.config, GemvConfig):
        (gemv_swiglu if swiglu else gemv)(x, packed, weight_bits, out=out, config=choice.config)
    elif isinstance(choice.config, GemmConfig):
        (gemm_swiglu if swiglu else gemm)(x, packed, weight_bits, out=out, config=choice.config)


def tune_device(
    options: TuneOptions, folder: Path, *, jobs: int = 1, say: Callable[[str], None] = print
) -> TuneSummary:
    """Tune this machine's GPU into ``folder``, one file named after it.

    Args:
        options: What to tune.
        folder: Where the table is, or is to be; ``kernels/tuning`` for a packaged one.
        jobs: Processes that compile candidates before anything is timed.
        say: Takes a line of progress.

    Raises:
        KernelError: If there is no GPU that the kernels can run on, or the table there is of another one.
    """
    import torch

    from kernels.bench.device import describe_device, l2_bytes
    from kernels.dispatch import device_obstacle

    begin = time.monotonic()
    timer = graph_timer()  # Refuses a machine without a GPU.
    device = torch.device("cuda", torch.cuda.current_device())
    obstacle = device_obstacle(device)
    if obstacle is not None:
        raise KernelError(f"{obstacle}; nothing was measured")
    facts = describe_device(device)
    header = TuningTable(
        facts["device"], facts["capability"], facts["driver"], facts["torch"], facts["triton"], today()
    )
    _precompile(options, jobs, say)
    spent = (time.monotonic() - begin) / 60
    if options.minutes is not None:
        options = replace(options, minutes=max(options.minutes - spent, 1e-3))
    measure = GpuMeasure(device, timer, l2_bytes(device))
    return tune(options, folder / file_name(facts["device"]), header, measure, say=say)


def _precompile(options: TuneOptions, jobs: int, say: Callable[[str], None]) -> None:
    """Run the candidates once, the first products' first, in processes of their own, for their compiled kernels."""
    if jobs < 2:
        return
    limit_s = _COMPILE_S if options.minutes is None else min(_COMPILE_S, _COMPILE_SHARE * 60 * options.minutes)
    say(f"compiling in {jobs} processes, {limit_s:.0f} s at most")
    command = [sys.executable, "-m", "kernels.tune_gpu", json.dumps(asdict(options)), str(limit_s), str(jobs)]
    processes = [
        subprocess.Popen([*command, str(index)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for index in range(jobs)
    ]
    deadline = time.monotonic() + limit_s + _GRACE_S
    try:
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _compile_share(options: TuneOptions, limit_s: float, jobs: int, index: int) -> None:
    """Run every ``jobs``-th candidate from ``index`` on until the time is up."""
    import torch

    begin = time.monotonic()
    measure = GpuMeasure(torch.device("cuda", torch.cuda.current_device()), None, 0)
    count = 0
    for product in products(options):
        found = measure(product)
        for choice in candidates(product, found.block_bytes, options.candidates):
            if time.monotonic() - begin > limit_s:
                return
            count += 1
            if count % jobs == index:
                try:
                    found.time_us(choice)
                except Exception:
                    # Tuning meets it again and records it.
                    continue


if __name__ == "__main__":
    text, limit_text, jobs_text, index_text = sys.argv[1:]
    given = json.loads(text)
    for name in ("models", "widths", "vectors"):
        given[name] = tuple(given[name])
    _compile_share(TuneOptions(**given), float(limit_text), int(jobs_text), int(index_text))
