"""How long each instruction keeps its unit busy, in cycles; both engines use these numbers.

:class:`Services` describes one NPU with integers, or many at once: then what differs between them is a column
``[designs, 1]``, which broadcasts against rows of decode steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hwsim.config import Buffers, NpuConfig, SfuFunction
from hwsim.dram import Dram, build_dram
from hwsim.trace import FULL_PRECISION_BITS
from hwsim.units import Amount, ceil_div, kib, maximum, minimum


def _array_cycles(array: tuple[Amount, Amount, Amount], n: Amount, k: Amount, m: int) -> Amount:
    return ceil_div(n, array[0]) * ceil_div(k, array[1]) * ceil_div(m, array[2])


def systolic_cycles(array: tuple[Amount, Amount, Amount], dataflow: str, n: Amount, k: Amount, m: int) -> Amount:
    """SCALE-Sim's total cycles of ``[m, k] x [k, n]`` on a systolic array, fold after fold.

    An output-stationary array of R x C holds R tokens of C outputs and takes ``k`` cycles of inputs a fold, plus
    R + C - 2 to fill and drain. A weight-stationary one holds R columns of C outputs, loads them in R cycles and
    takes ``m`` tokens. The total is the number of the last cycle, counted from zero.

    Source: Samajdar et al., "SCALE-Sim", arXiv:1811.02883.
    """
    columns = array[0]
    if dataflow == "output-stationary":
        rows = array[2]
        return ceil_div(m, rows) * ceil_div(n, columns) * (k + rows + columns - 2) - 1
    rows = array[1]
    return ceil_div(k, rows) * ceil_div(n, columns) * (m + 2 * rows + columns - 2) - 1


@dataclass(frozen=True, slots=True)
class MatrixUnit:
    """The matrix unit; an MPE takes every dimension in whole array widths, in the better arrangement."""

    dataflow: str | None
    mm: tuple[Amount, Amount, Amount]
    mv: tuple[Amount, Amount, Amount]
    cores: Amount
    lookups_per_cycle: Mapping[int, Amount]
    mac_bits: int
    pipeline_cycles: int
    codebook_entry_bits: int
    bit_serial: bool

    def cycles(self, n: Amount, k: Amount, m: int) -> Amount:
        """Cycles of ``[m, k] x [k, n]`` with operands that fit one MAC."""
        if self.dataflow is not None:
            return systolic_cycles(self.mm, self.dataflow, n, k, m) + 1  # busy from cycle 0 to the last one
        return minimum(_array_cycles(self.mm, n, k, m), _array_cycles(self.mv, n, k, m))

    def head_cycles(self, heads: int, n: Amount, k: Amount, m: int) -> Amount:
        """Cycles of ``heads`` separate products ``[m, k] x [k, n]``, shared out among the cores."""
        if self.dataflow is not None:
            return heads * self.cycles(n, k, m)
        (mm_n, mm_k, mm_m), (mv_n, mv_k, mv_m) = self.mm, self.mv
        as_mm = _array_cycles((mm_n // self.cores, mm_k, mm_m), n, k, m)
        as_mv = _array_cycles((mv_n // self.cores, mv_k, mv_m), n, k, m)
        return ceil_div(heads, self.cores) * minimum(as_mm, as_mv)

    def opcode(self, n: Amount, k: Amount, m: int) -> str:
        """MV for one token or where that arrangement is the faster one, else MM."""
        slower = _array_cycles(self.mv, n, k, m) >= _array_cycles(self.mm, n, k, m)
        return "MM" if m > 1 and np.all(slower) else "MV"

    def passes(self, activation_bits: int, operand_bits: int) -> int:
        """Passes over the array: an operand wider than a MAC's is split; a bit-serial array takes it bit by bit."""
        operand_passes = operand_bits if self.bit_serial else ceil_div(operand_bits, self.mac_bits)
        return ceil_div(activation_bits, self.mac_bits) * operand_passes

    def weight_passes(self, activation_bits: int, weight_bits: int) -> int:
        """Passes of a product with weights: codebook entries are rounded to a MAC's width, fp16 is split.

        A bit-serial array takes the planes as they come, and fp16 weights as 16 of them.
        """
        whole = self.bit_serial or weight_bits == FULL_PRECISION_BITS
        return self.passes(activation_bits, weight_bits if whole else self.mac_bits)

    def lookup_cycles(self, weights: Amount, weight_bits: int) -> Amount:
        """Cycles to turn nested weights into codebook entries, once per tile whatever the tokens."""
        return ceil_div(weights, self.lookups_per_cycle[weight_bits])


@dataclass(frozen=True, slots=True)
class BufferSizes:
    """Bytes of the on-chip buffers; loads may fill half of a double-buffered one."""

    weight_half: Amount
    codebook_half: Amount
    kv_half: int
    global_half: int
    kv: int
    activation: int


@dataclass(frozen=True, slots=True)
class Services:
    """Service times and sizes of one NPU, or of several.

    Attributes:
        npus: The NPU, or all of them in the order of the columns.
    """

    npus: Sequence[NpuConfig]
    matrix: MatrixUnit
    dram: Dram
    second: Dram | None
    second_holds: frozenset[str]
    buffers: BufferSizes
    lanes: Amount
    functions: Mapping[str, SfuFunction]
    issue_cycles: int
    sync_cycles: int

    def bus(self, content: str) -> tuple[int, Dram]:
        """The memory that holds ``content``: its bus and its service times."""
        if self.second is not None and content in self.second_holds:
            return 1, self.second
        return 0, self.dram

    def sfu_cycles(self, function: str, elements: Amount) -> Amount:
        """Cycles of one SFU instruction."""
        return self.functions[function].passes * ceil_div(elements, self.lanes) + self.issue_cycles

    def sfu_latency(self, function: str | None) -> int:
        """Cycles from the last element in to the last element out."""
        return 0 if function is None else self.functions[function].latency_cycles

    def tile_cycles(self, rows: Amount, n: int, k: int, products: Amount, nested_widths: Sequence[int]) -> Amount:
        """Cycles of a tile of ``rows`` of a linear layer's ``n``: its products, or its lookups if those are longer.

        A layer is stored as a sequence of array-sized blocks and a tile is a run of them, so edges that do not
        fill the array cost time once per layer, not once per tile.

        Args:
            rows: Rows of the tile.
            n: Rows of the layer.
            k: Columns of the layer.
            products: Cycles of the whole layer's products.
            nested_widths: Widths whose table lookups the tile needs.
        """
        lookups = sum(self.matrix.lookup_cycles(rows * k, bits) for bits in nested_widths)
        return maximum(ceil_div(products * rows, n), lookups) + self.issue_cycles


def _buffer_sizes(buffers: Buffers) -> BufferSizes:
    return BufferSizes(
        weight_half=kib(buffers.weight_kib) // 2,
        codebook_half=kib(buffers.codebook_kib) // 2,
        kv_half=kib(buffers.kv_kib) // 2,
        global_half=kib(buffers.global_kib) // 2,
        kv=kib(buffers.kv_kib),
        activation=kib(buffers.activation_kib),
    )


def build_services(npu: NpuConfig) -> Services:
    """Derive all service times of ``npu``."""
    matrix = npu.matrix
    return Services(
        npus=(npu,),
        matrix=MatrixUnit(
            dataflow=matrix.dataflow,
            mm=matrix.mm,
            mv=matrix.mv,
            cores=matrix.cores,
            lookups_per_cycle=matrix.lookups_per_cycle,
            mac_bits=matrix.activation_bits,
            pipeline_cycles=matrix.pipeline_cycles,
            codebook_entry_bits=matrix.codebook_entry_bits,
            bit_serial=matrix.bit_serial,
        ),
        dram=build_dram(npu.memory, npu.clock_hz),
        second=build_dram(npu.second_memory, npu.clock_hz) if npu.second_memory else None,
        second_holds=frozenset(npu.second_memory.holds if npu.second_memory else ()),
        buffers=_buffer_sizes(npu.buffers),
        lanes=npu.sfu.lanes,
        functions=npu.sfu.functions,
        issue_cycles=npu.control.issue_cycles,
        sync_cycles=npu.control.sync_cycles,
    )


def stack_services(services: Sequence[Services]) -> Services:
    """Combine NPUs of equal :func:`stacking_key`.

    They may differ in array, lookups, lanes, bandwidth, weight and codebook buffer; a single one stays as it is.
    """
    first = services[0]
    if len(services) == 1:
        return first

    def column(value: Callable[[Services], Amount]) -> Amount:
        return np.array([[value(one)] for one in services], dtype=np.int64)

    def columns(value: Callable[[Services], tuple[Amount, Amount, Amount]]) -> tuple[Amount, Amount, Amount]:
        n, k, m = np.array([value(one) for one in services], dtype=np.int64).T
        return n[:, None], k[:, None], m[:, None]

    def lookups(bits: int) -> Amount:
        return column(lambda one: one.matrix.lookups_per_cycle[bits])

    matrix = replace(
        first.matrix,
        mm=columns(lambda one: one.matrix.mm),
        mv=columns(lambda one: one.matrix.mv),
        cores=column(lambda one: one.matrix.cores),
        lookups_per_cycle={bits: lookups(bits) for bits in first.matrix.lookups_per_cycle},
    )
    buffers = replace(
        first.buffers,
        weight_half=column(lambda one: one.buffers.weight_half),
        codebook_half=column(lambda one: one.buffers.codebook_half),
    )
    return replace(
        first,
        npus=tuple(one.npus[0] for one in services),
        matrix=matrix,
        buffers=buffers,
        dram=replace(first.dram, rate=column(lambda one: one.dram.rate)),
        lanes=column(lambda one: one.lanes),
    )


def stacking_key(services: Services) -> tuple[object, ...]:
    """Equal for NPUs that :func:`stack_services` may combine."""
    if services.npus[0].control.tiling == "search":
        return (id(services),)  # each NPU has programs of its own
    matrix, dram, buffers = services.matrix, services.dram, services.buffers
    sparsity, control = services.npus[0].matrix.sparsity, services.npus[0].control
    return (
        (
            matrix.dataflow,
            matrix.mac_bits,
            matrix.pipeline_cycles,
            matrix.codebook_entry_bits,
            matrix.bit_serial,
            frozenset(matrix.lookups_per_cycle),
        ),
        None if sparsity is None else (sparsity.group, sparsity.index_bits, tuple(sorted(sparsity.density.items()))),
        (control.prefill_bucket_tokens, control.decode_bucket_tokens),
        replace(dram, rate=0),
        (services.second, services.second_holds),
        (buffers.kv, buffers.global_half, buffers.activation),
        tuple(sorted((name, one.passes, one.latency_cycles) for name, one in services.functions.items())),
        (services.issue_cycles, services.sync_cycles),
    )
