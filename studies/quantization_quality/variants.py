"""The quantisers that are compared: which stores are built of a model, and at which widths each is measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from accuracy.quantization import GptqSettings, Method, NestedSettings, RtnSettings
from accuracy.quantization.rtn import grid_bits
from accuracy.quantization.sparse import dense_bits, outlier_share_for
from hwsim.trace import InputError

WIDTHS = tuple(range(2, 9))
LOW_WIDTHS = (2, 3, 4)
NESTING_WIDTHS = (3, 4)
# Weights of the clustering and choice of the outliers of the dense-and-sparse stores.
OUTLIERS = {
    "dns": ("none", "magnitude"),
    "dns-fisher": ("fisher", "sensitivity"),
    "dns-fisher-magnitude": ("fisher", "magnitude"),
    "dns-hessian": ("hessian", "magnitude"),
}
# What PMPD's 2-bit dense-and-sparse baseline averages.
PMPD_AVERAGE_BITS = 2.39
Shapes = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Variant:
    """One store of one model.

    Attributes:
        name: The quantiser, with its group size where it has one.
        method: What builds the store.
        widths: Widths that are measured; none where only its size is of interest.
        bits_per_weight: Bits per weight that each measured width reads, in the method's own form: planes, codebook
            and sparse part, or for uniform grids codes, steps and zeros.
        matched_to: What a dense-and-sparse store has its average from; empty for the others.
    """

    name: str
    method: Method
    widths: tuple[int, ...]
    bits_per_weight: dict[int, float] = field(default_factory=dict)
    matched_to: str = ""

    @property
    def label(self) -> str:
        """A name that differs between the stores of a model."""
        low, high = self.method.widths[0], self.method.widths[-1]
        width = f"{low}" if low == high else f"{low}..{high}"
        kept = " +fp16" if self.method.keep_full_precision else ""
        return f"{self.name} {width}{kept}" + (f" as {self.matched_to}" if self.matched_to else "")


def dense_average(shapes: Shapes, bits: int, group_size: int | None = None) -> float:
    """Bits per weight of planes and codebooks at one width."""
    return sum(dense_bits(shape, bits, group_size) for shape in shapes) / _weights(shapes)


def grid_average(shapes: Shapes, bits: int, group_size: int | None = None) -> float:
    """Bits per weight of asymmetric uniform grids: codes, steps and zeros."""
    return sum(grid_bits(shape, bits, group_size) for shape in shapes) / _weights(shapes)


def group_size_for(shapes: Shapes) -> int:
    """64 columns, or 32 where a row has no more than 64."""
    return 64 if min(K for _, K in shapes) > 64 else 32


def make_variants(shapes: Shapes, *, quick: bool = False) -> tuple[list[Variant], list[str]]:
    """Every store of a model with matrices of these shapes, and why some could not be.

    Args:
        shapes: ``(N, K)`` of the quantised layers.
        quick: A few of each kind only, for tests.
    """
    group = group_size_for(shapes)
    single = (2, 3) if quick else WIDTHS
    low = (2,) if quick else LOW_WIDTHS
    made = [
        _nested("nested", shapes, NestedSettings(keep_full_precision=False), single),
        _nested("nested", shapes, NestedSettings(), ()),
    ]
    for sensitivity in ("fisher", "hessian"):
        method = NestedSettings(keep_full_precision=False, sensitivity=sensitivity)
        made.append(_nested(f"nested-{sensitivity}", shapes, method, single))
    for sensitivity, name in (("none", "nested"), ("fisher", "nested-fisher"), ("hessian", "nested-hessian")):
        grouped = NestedSettings(group_size=group, keep_full_precision=False, sensitivity=sensitivity)
        made.append(_nested(f"{name}-g{group}", shapes, grouped, low))
    for bits in single:
        alone = NestedSettings(min_bits=bits, max_bits=bits, keep_full_precision=False)
        made.append(_nested("direct", shapes, alone, (bits,) if bits in NESTING_WIDTHS else ()))
    for name, uniform in (("rtn", RtnSettings), ("gptq", GptqSettings)):
        for size, widths in ((None, single), (group, low)):
            suffix = f"-g{size}" if size else ""
            for bits in widths:
                average = {bits: grid_average(shapes, bits, size)}
                made.append(Variant(f"{name}{suffix}", uniform(bits=bits, group_size=size), (bits,), average))
    skipped: list[str] = []
    made.extend(_dense_and_sparse(shapes, group, skipped, quick=quick))
    return made, skipped


def _dense_and_sparse(shapes: Shapes, group: int, skipped: list[str], *, quick: bool) -> Iterator[Variant]:
    """Dense-and-sparse stores with the average bits of a neighbour, codebooks and indices counted."""
    codebooks = dense_average(shapes, 2) - 2
    targets = [
        (2, f"{PMPD_AVERAGE_BITS} and codebooks", PMPD_AVERAGE_BITS + codebooks),
        (2, "nested 3", dense_average(shapes, 3)),
        (2, f"gptq-g{group} 3", grid_average(shapes, 3, group)),
        *((bits - 1, f"nested {bits}", dense_average(shapes, bits)) for bits in WIDTHS if bits > 3),
    ]
    for bits, neighbour, average in targets[1:2] if quick else targets:
        try:
            share = outlier_share_for(average, shapes, bits)
        except InputError as error:
            skipped.append(f"dns {bits} as {neighbour}: {error}")
            continue
        for name, (sensitivity, by) in OUTLIERS.items():
            if name == "dns-fisher-magnitude" and neighbour != "nested 3":
                continue  # one row says which of the two, weights or choice, matters
            method = NestedSettings(
                min_bits=bits,
                max_bits=bits,
                keep_full_precision=False,
                sensitivity=sensitivity,
                outlier_share=share,
                outliers_by=by,
            )
            yield Variant(name, method, (bits,), {bits: average}, neighbour)


def _nested(name: str, shapes: Shapes, method: NestedSettings, widths: tuple[int, ...]) -> Variant:
    averages = {bits: dense_average(shapes, bits, method.group_size) for bits in widths}
    return Variant(name, method, widths, averages)


def _weights(shapes: Shapes) -> int:
    return sum(N * K for N, K in shapes)
