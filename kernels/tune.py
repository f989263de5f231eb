"""The search behind ``python -m kernels tune``: for every product, the fastest of some configurations.

A product is an operation on one shape, width, decoder and number of vectors. Products come in order of what they are
worth; each is measured to its end and written to the table at once, so that a run that is killed or out of time is
taken up where it stopped. Measuring itself is :mod:`kernels.tune_gpu`; nothing here needs a GPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from kernels.bench.problems import LinearCase, linear_cases
from kernels.config import GEMV_MAX_M, GemmConfig, GemvConfig, gemm_candidates, gemv_candidates
from kernels.errors import KernelError
from kernels.shapes import SHAPES, find_shape
from kernels.tuning import Choice, Entry, TuningTable, load_table, save_table

# Where the GEMV's numbers of vectors end, the crossover to cuBLAS is looked for.
VECTORS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
WIDTHS = (4, 3, 2)
CANDIDATES = 12
# What the project's goals are about comes first.
_FIRST = ("vicuna-7b", "llama-3-8b")

_Config = TypeVar("_Config", GemvConfig, GemmConfig)


@dataclass(frozen=True)
class TuneOptions:
    """What to tune.

    Attributes:
        models: Names of :data:`kernels.shapes.SHAPES`.
        widths: Weight widths, 2..8.
        vectors: Numbers of activation vectors.
        candidates: Configurations measured for a product and path, those nearest to the default first.
        minutes: How long the run may take; None for as long as it takes.
    """

    models: tuple[str, ...] = tuple(SHAPES)
    widths: tuple[int, ...] = WIDTHS
    vectors: tuple[int, ...] = VECTORS
    candidates: int = CANDIDATES
    minutes: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be tuned.

        Raises:
            KernelError: Naming the option.
        """
        for model in self.models:
            find_shape(model)
        for bits in self.widths:
            if not 2 <= bits <= 8:
                raise KernelError(f"--widths {bits}: must be 2..8")
        for M in self.vectors:
            if M < 1:
                raise KernelError(f"--vectors {M}: must be >= 1")
        if self.candidates < 1:
            raise KernelError(f"--candidates {self.candidates}: must be >= 1")
        if self.minutes is not None and not self.minutes > 0:
            raise KernelError(f"--minutes {self.minutes:g}: must be above 0")


@dataclass(frozen=True)
class Product:
    """What is measured as a whole.

    Attributes:
        case: The layer.
        weight_bits: The width.
        uniform: Codebooks on uniform grids rather than free ones.
        M: Activation vectors.
    """

    case: LinearCase
    weight_bits: int
    uniform: bool
    M: int

    @property
    def name(self) -> str:
        """For example ``4096x4096 linear, 4 bits, M = 1``."""
        grid = " on a grid" if self.uniform else ""
        return f"{self.case.name}, {self.weight_bits} bits{grid}, M = {self.M}"

    def key(self, decoder: str) -> tuple[str, int, int, int, str, int]:
        """As :attr:`kernels.tuning.Entry.key`, for a decoder."""
        return self.case.operation, self.case.N, self.case.K, self.weight_bits, decoder, self.M


@dataclass(frozen=True)
class Measured:
    """What a product is on this device, and how to time it.

    Attributes:
        decoder: How its weight is decoded.
        block_bytes: Of its packed layout.
        time_us: Median microseconds of a choice; raises where it cannot run or gives a wrong result.
    """

    decoder: str
    block_bytes: int
    time_us: Callable[[Choice], float]


Measure = Callable[[Product], Measured]


@dataclass(frozen=True)
class TuneSummary:
    """What became of the products.

    Attributes:
        table: What was measured, now or before.
        path: Its file.
        measured: Products measured now.
        kept: Products measured before.
        failed: By product, why nothing could be measured.
        left: Products there was no time for.
    """

    table: TuningTable
    path: Path
    measured: tuple[str, ...]
    kept: tuple[str, ...]
    failed: dict[str, str]
    left: tuple[str, ...]


def products(options: TuneOptions) -> list[Product]:
    """Everything to measure, the most valuable first.

    Single vectors of the goals' models, the crossover of their shapes, single vectors of the other models, then what
    is left; each first with free codebooks, and with uniform grids at the end.
    """
    models = sorted(options.models, key=lambda model: (model not in _FIRST, list(SHAPES).index(model)))
    cases = linear_cases(tuple(models))
    first = {case.name for case in linear_cases(tuple(model for model in models if model in _FIRST))}
    found = [
        Product(case, bits, uniform, M)
        for uniform in (False, True)
        for case in cases
        for bits in options.widths
        for M in options.vectors
    ]

    def rank(product: Product) -> tuple[bool, bool, bool, bool]:
        other_model = product.case.name not in first
        between = 1 < product.M <= GEMV_MAX_M
        return product.uniform, between, other_model, product.M > 1

    return sorted(found, key=rank)


def candidates(product: Product, block_bytes: int, limit: int) -> list[Choice]:
    """Ways to compute a product: the default, then what is nearest to it; from nine vectors on also cuBLAS, first."""
    shape = (product.case.N, product.case.K, product.M, product.weight_bits, block_bytes)
    if product.M <= GEMV_MAX_M:
        decoder = "grid" if product.uniform else "permute" if product.weight_bits <= 4 else "lookup"
        return [Choice("gemv", config) for config in _nearest(gemv_candidates(*shape, decoder), limit)]
    return [Choice("dequantize"), *(Choice("gemm", config) for config in _nearest(gemm_candidates(*shape), limit))]


def _nearest(configs: Sequence[_Config], limit: int) -> list[_Config]:
    """The first one and those that differ least from it, counted in doublings of each field."""
    default = asdict(configs[0])

    def doublings(config: _Config) -> float:
        return sum(abs(math.log2(value / default[name])) for name, value in asdict(config).items())

    return sorted(configs, key=doublings)[:limit]


def tune(
    options: TuneOptions,
    path: Path,
    header: TuningTable,
    measure: Measure,
    *,
    say: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
) -> TuneSummary:
    """Measure what the table does not hold yet, and write it after every product.

    Args:
        options: What to tune.
        path: The table's file; one that exists is completed.
        header: A table without entries that says what is measured on.
        measure: Prepares a product.
        say: Takes a line of progress.
        clock: Seconds.

    Returns:
        What was done and what was not.

    Raises:
        KernelError: If the file is damaged, or of another device or other versions.
    """
    deadline = math.inf if options.minutes is None else clock() + 60 * options.minutes
    table = _resume(path, header)
    known = {entry.key for entry in table.entries}
    measured: list[str] = []
    kept: list[str] = []
    left: list[str] = []
    failed: dict[str, str] = {}
    todo = products(options)
    for count, product in enumerate(todo, start=1):
        if clock() >= deadline:
            left += [rest.name for rest in todo[count - 1 :]]
            break
        if any(product.key(decoder) in known for decoder in (("grid",) if product.uniform else ("permute", "lookup"))):
            kept.append(product.name)
            continue
        # Whatever goes wrong with one product, memory or a driver, the next one may do.
        try:
            found = measure(product)
        except Exception as error:
            failed[product.name] = _reason(error)
            say(f"[{count}/{len(todo)}] {product.name}: failed: {failed[product.name]}")
            continue
        if product.key(found.decoder) in known:
            kept.append(product.name)
            continue
        entry = _best(product, found, options.candidates, deadline, clock)
        if entry is None:
            left.append(product.name)
            continue
        if isinstance(entry, str):
            failed[product.name] = entry
            say(f"[{count}/{len(todo)}] {product.name}: failed: {entry}")
            continue
        known.add(entry.key)
        table = replace(table, entries=(*table.entries, entry), date=header.date)
        save_table(table, path)
        measured.append(product.name)
        fastest = _describe(Choice(entry.path, entry.config))
        say(f"[{count}/{len(todo)}] {product.name}: {fastest}, {entry.p50_us:.2f} us")
    return TuneSummary(table, path, tuple(measured), tuple(kept), failed, tuple(left))


def _best(
    product: Product, found: Measured, limit: int, deadline: float, clock: Callable[[], float]
) -> Entry | str | None:
    """The fastest candidate; a reason where none could be timed; None where time ran out before all were."""
    best: tuple[float, Choice] | None = None
    failures: list[str] = []
    for choice in candidates(product, found.block_bytes, limit):
        if clock() >= deadline:
            return None
        # What does not compile, does not launch or gives a wrong result is no candidate.
        try:
            time_us = found.time_us(choice)
        except Exception as error:
            failures.append(f"{_describe(choice)}: {_reason(error)}")
            continue
        if best is None or time_us < best[0]:
            best = time_us, choice
    if best is None:
        return "; ".join(failures)
    return Entry(
        operation=product.case.operation,
        N=product.case.N,
        K=product.case.K,
        weight_bits=product.weight_bits,
        decoder=found.decoder,
        M=product.M,
        path=best[1].path,
        config=best[1].config,
        p50_us=round(best[0], 4),
        failed=tuple(failures),
    )


def _resume(path: Path, header: TuningTable) -> TuningTable:
    """The table so far."""
    if not path.exists():
        return header
    table = load_table(path)
    for field in fields(header):
        if field.name in ("date", "entries"):
            continue
        before, now = getattr(table, field.name), getattr(header, field.name)
        if before != now:
            raise KernelError(
                f"{path}: {field.name} = {before!r}, here it is {now!r}; move the file away or tune elsewhere"
            )
    return table


def _describe(choice: Choice) -> str:
    """For example ``gemv rows 64 splits 4 warps 4 stages 3``."""
    if choice.config is None:
        return choice.path
    return " ".join([choice.path, *(f"{name} {value}" for name, value in asdict(choice.config).items())])


def _reason(error: Exception) -> str:
    """An error in one line of bounded length."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


def today() -> str:
    """The day in UTC, ISO 8601."""
    return datetime.now(UTC).date().isoformat()
