"""Lower operators to stages: choose tiles that fill half of a buffer and count what they move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, pairwise

import numpy as np

from hwsim.config import NpuConfig
from hwsim.precision import Precision
from hwsim.program import Kind, Pool, Program, Stage, StageRun, Timing, Work
from hwsim.service import Services, build_services
from hwsim.tiling import TileLimits, search_tiles
from hwsim.trace import InputError
from hwsim.units import KIB, Amount, bits_to_bytes, ceil_div, maximum, minimum
from hwsim.workload import Attention, Embedding, KvAppend, KvReady, Linear, Operator, Step, Sync, Use, Vector

RESIDUAL_BYTES = 2  # the residual stream stays 16-bit beside an operation's input and output
SCORE_BYTES = 2  # attention scores on their way to the SFU (FlightLLM: fp16)


class TileSizeError(InputError):
    """Half of a buffer holds no tile.

    Attributes:
        fits: Units that fit, 0 where the buffer is too small; with several NPUs of several sizes ``[designs, 1]``.
    """

    def __init__(self, message: str, fits: Amount) -> None:
        super().__init__(message)
        self.fits = fits


def _refuse(services: Services, buffer: str, what: str, needed: int, fits: Amount) -> TileSizeError:
    """Make the error for the first NPU whose buffer is too small; ``fits`` is 0 there."""
    npu = services.npus[int(np.argmin(fits))]
    given = getattr(npu.buffers, f"{buffer}_kib")
    return TileSizeError(
        f"{npu.name}: buffers.{buffer}_kib = {given:g}: {what} needs {needed} bytes, half of the buffer holds "
        f"{int(given * KIB) // 2}; raise it to at least {ceil_div(2 * needed, KIB)} KiB",
        fits,
    )


@dataclass(frozen=True, slots=True)
class _Tiling:
    """Rows per tile, number of tiles, rows of the last one."""

    rows: Amount
    count: Amount
    last_rows: Amount


@dataclass(frozen=True)
class Lowering:
    """Lowers the steps of one model at one precision for one NPU, or for several stacked ones."""

    services: Services
    precision: Precision
    hidden_size: int
    limits: TileLimits | None = None

    def limited(self, limits: TileLimits) -> Lowering:
        """The same with tiles of limited size."""
        return replace(self, limits=limits)

    def program(self, step: Step) -> Program:
        """Lower a step, with the biggest tiles that fit, or the best ones where the NPU's compiler searches.

        Raises:
            InputError: If a buffer is too small for one tile.
        """
        if self.limits is None and self.services.npus[0].control.tiling == "search":
            return self.limited(search_tiles(self, step)).program(step)
        runs = tuple(StageRun(self._lower(run.block), run.layers) for run in step.runs)
        return Program(self._lower(step.head), runs, self._lower(step.tail))

    def _lower(self, operators: tuple[Operator, ...]) -> tuple[Stage, ...]:
        stages: list[Stage] = []
        written = False
        for operator in operators:
            match operator:
                case Linear():
                    stages.extend(self._linear(operator))
                case Attention():
                    append = next((other for other in operators if isinstance(other, KvAppend)), None)
                    on_chip = self.keeps_kv(operator, append)
                    if append is not None and not (on_chip and len(self.token_blocks(operator)) == 1):
                        # Read back tile by tile, or held up by the mark of a spill: written before, not behind.
                        stages.append(self._append(append))
                        written = True
                    stages.extend(self._attention(operator, on_chip=on_chip))
                case Vector():
                    stages.append(self._vector(operator))
                case Embedding():
                    work = Work(embedding_bytes=operator.bytes)
                    stages.append(self._load("embedding", "embedding", operator.bytes, work))
                case KvReady():
                    stages.append(Stage("kv_ready", "", Timing(Kind.MARK), Work()))
                case Sync():
                    cycles = self.services.sync_cycles
                    work = Work(control_busy_cycles=cycles, instructions=1)
                    stages.append(Stage("sync", "SYS", Timing(Kind.SYNC, load=cycles), work))
                case KvAppend() if not written:
                    stages.append(self._append(operator))
        return tuple(stages)

    def _load(self, name: str, content: str, size: int, work: Work) -> Stage:
        bus, dram = self.services.bus(content)
        cycles = dram.load_cycles(size) + self.services.issue_cycles
        timing = Timing(Kind.LOAD, load=cycles, load_latency=dram.latency_cycles, bus=bus)
        work += Work(instructions=1, sram_bytes=2 * size, **_transfer(bus, cycles, size))
        return Stage(name, "LD", timing, work)

    def _store(self, name: str, content: str, size: int, chunks: int, work: Work) -> Stage:
        bus, dram = self.services.bus(content)
        cycles = dram.store_cycles(ceil_div(size, chunks), chunks) + self.services.issue_cycles
        work += Work(instructions=1, sram_bytes=2 * size, **_transfer(bus, cycles, size))
        return Stage(name, "ST", Timing(Kind.STORE, load=cycles, bus=bus), work)

    def _vector(self, operator: Vector) -> Stage:
        services = self.services
        cycles = services.sfu_cycles(operator.function, operator.elements)
        work = Work(
            sfu_ops=operator.elements * services.functions[operator.function].passes,
            sfu_busy_cycles=cycles,
            instructions=1,
        )
        latency = services.sfu_latency(operator.function)
        timing = Timing(Kind.TILES, sfu=cycles, last_sfu=cycles, sfu_latency=latency)
        return Stage(operator.name, "MISC", timing, work)

    def _tile_rows(self, linear: Linear) -> _Tiling:
        """Whole rows per tile, as many as half of the weight and of the codebook buffer hold, or the limits allow."""
        widths = "/".join(str(use.weight_bits) for use in linear.uses)
        row_bytes = linear.row_bytes + linear.index_row_bytes
        rows = self._units_in_half("weight", f"one row of {linear.name} at {widths} bits", row_bytes)
        if self.limits is not None:
            rows = maximum(1, self.limits.weight_bytes // row_bytes)
        codebook_row = sum(linear.codebooks_row_bytes(self.precision.codebook_entry_bits))
        if codebook_row:
            what = f"one row's codebook of {linear.name} at {widths} bits"
            tables = self._units_in_half("codebook", what, codebook_row)
            if self.limits is not None:
                tables = maximum(1, self.limits.codebook_bytes // codebook_row)
            rows = minimum(rows, tables)
        rows = minimum(rows, linear.n)
        count = ceil_div(linear.n, rows)
        return _Tiling(rows, count, linear.n - (count - 1) * rows)

    def _units_in_half(self, buffer: str, what: str, unit_bytes: int) -> Amount:
        """How many units of ``unit_bytes`` half of a buffer holds, at least one."""
        units = getattr(self.services.buffers, f"{buffer}_half") // unit_bytes
        if np.any(units < 1):
            raise _refuse(self.services, buffer, what, unit_bytes, units)
        return units

    def token_blocks(self, operator: Linear | Attention) -> list[int]:
        """Tokens of each block whose input, output and residual fit the activation buffer, or the limits."""
        per_token = (
            bits_to_bytes(operator.activations * self.precision.activation_bits) + self.hidden_size * RESIDUAL_BYTES
        )
        capacity = self.services.buffers.activation
        most = capacity // per_token
        if most < 1:
            npu = self.services.npus[0]
            raise InputError(
                f"{npu.name}: buffers.activation_kib = {npu.buffers.activation_kib:g}: one token of "
                f"{operator.name} needs {per_token} bytes, the buffer holds {capacity}; "
                f"raise it to at least {ceil_div(per_token, KIB)} KiB"
            )
        if self.limits is not None:
            most = max(1, self.limits.activation_bytes // per_token)
        blocks = ceil_div(operator.tokens, most)
        return [operator.tokens // blocks + (index < operator.tokens % blocks) for index in range(blocks)]

    def _linear(self, linear: Linear) -> list[Stage]:
        """One pass over the weights per block of tokens; activations go through memory only if they must."""
        blocks = self.linear_blocks(linear)
        if len(blocks) == 1:
            return [self._linear_tiles(linear, joins=linear.joins)]
        stages: list[Stage] = []
        for block in blocks:
            stages += [self.reload(linear.name, block.tokens * linear.k), self._linear_tiles(block, joins=True)]
            stages += self._spill(linear.name, block.tokens * linear.n)
        return stages

    def linear_blocks(self, linear: Linear) -> list[Linear]:
        """The same layer for each block of its tokens."""
        ends = list(accumulate(self.token_blocks(linear), initial=0))
        return [replace(linear, uses=_share_out(linear.uses, start, end - start)) for start, end in pairwise(ends)]

    def product_cycles(self, linear: Linear) -> Amount:
        """Cycles of all its products on the matrix unit."""
        matrix, activation_bits = self.services.matrix, self.precision.activation_bits
        return sum(
            matrix.cycles(linear.n, linear.nonzeros, use.tokens)
            * matrix.weight_passes(activation_bits, use.weight_bits)
            for use in linear.uses
        )

    def reload(self, name: str, elements: int) -> Stage:
        """Read a block's input back; it starts once everything before it has ended."""
        size = bits_to_bytes(elements * self.precision.activation_bits)
        return self._load(f"{name}.reload", "activations", size, Work(activation_bytes=size))

    def _spill(self, name: str, elements: int) -> list[Stage]:
        size = bits_to_bytes(elements * self.precision.activation_bits)
        mark = Stage(f"{name}.done", "", Timing(Kind.MARK), Work())
        return [mark, self._store(f"{name}.spill", "activations", size, 1, Work(activation_bytes=size))]

    def _linear_tiles(self, linear: Linear, *, joins: bool) -> Stage:
        """One pass over a linear layer's weights."""
        services, activation_bits = self.services, self.precision.activation_bits
        tokens, tiling, products = linear.tokens, self._tile_rows(linear), self.product_cycles(linear)
        codebooks = linear.codebooks_row_bytes(self.precision.codebook_entry_bits)
        beside = (*codebooks, linear.index_row_bytes) if linear.index_row_bytes else codebooks
        # The planes of a tile lie apart in memory, each a chunk of its own, and so do plain weights, the indices of
        # sparse ones and codebooks.
        chunks = linear.planes + len(linear.plain_widths)
        share = Fraction(linear.fused_share).limit_denominator(1000)

        def load(rows: Amount) -> Amount:
            cycles = services.dram.load_cycles(ceil_div(rows * linear.row_bytes, chunks), chunks)
            return sum((services.dram.load_cycles(rows * size) for size in beside), cycles) + services.issue_cycles

        def matrix(rows: Amount) -> Amount:
            return services.tile_cycles(rows, linear.n, linear.nonzeros, products, linear.lookup_widths)

        def sfu(rows: Amount) -> Amount | None:
            if linear.fused is None:
                return None
            return services.sfu_cycles(linear.fused, ceil_div(rows * tokens * share.numerator, share.denominator))

        timing = Timing(
            Kind.TILES,
            Pool.WEIGHT,
            joins=joins,
            tiles=tiling.count,
            load=load(tiling.rows),
            matrix=matrix(tiling.rows),
            sfu=sfu(tiling.rows),
            last_load=load(tiling.last_rows),
            last_matrix=matrix(tiling.last_rows),
            last_sfu=sfu(tiling.last_rows),
            load_latency=services.dram.latency_cycles,
            matrix_latency=services.matrix.pipeline_cycles,
            sfu_latency=services.sfu_latency(linear.fused),
        )
        sfu_ops = 0
        if linear.fused is not None:
            elements = ceil_div(linear.n * tokens * share.numerator, share.denominator)
            sfu_ops = services.functions[linear.fused].passes * elements
        weight_bytes, codebook_bytes = linear.n * linear.row_bytes, linear.n * sum(codebooks)
        index_bytes = linear.n * linear.index_row_bytes
        passes = sum(
            use.tokens * services.matrix.weight_passes(activation_bits, use.weight_bits) for use in linear.uses
        )
        mac_ops = linear.n * linear.nonzeros * passes
        activations = bits_to_bytes((linear.k + linear.n) * tokens * activation_bits)
        traffic = {"weights": "weight_bytes", "lm_head": "lm_head_bytes", "scheduler": "scheduler_bytes"}
        work = Work(
            **{traffic[linear.kind]: weight_bytes},
            sparse_index_bytes=index_bytes,
            codebook_bytes=codebook_bytes,
            macs=linear.macs,
            mac_ops=mac_ops,
            sparse_mac_ops=mac_ops if index_bytes else 0,
            lookup_bits=linear.n * linear.nonzeros * sum(linear.lookup_widths),
            sfu_ops=sfu_ops,
            sram_bytes=2 * (weight_bytes + index_bytes + codebook_bytes) + activations,
            **_busy(timing),
        )
        most = max(use.tokens for use in linear.uses)
        row_bytes = linear.row_bytes + sum(beside)
        opcode = services.matrix.opcode(linear.n, linear.k, most)
        return Stage(linear.name, opcode, timing, work, tiling.rows * row_bytes, tiling.last_rows * row_bytes)

    def _append(self, append: KvAppend) -> Stage:
        """Write-back of new keys and values: two chunks for each sequence."""
        work = Work(kv_append_bytes=append.bytes)
        return self._store(append.name, "kv", append.bytes, 2 * append.sequences, work)

    def keeps_kv(self, attention: Attention, append: KvAppend | None) -> bool:
        """Whether the step's new keys and values stay on chip until they are used, as far as they fit."""
        if attention.tokens == 1 or append is None:
            return True
        return append.bytes <= self.services.buffers.kv and (self.limits is None or self.limits.kv_on_chip)

    def tile_keys(self, attention: Attention) -> Amount:
        """Cached tokens per tile, as many as half of the KV and of the global buffer hold, or the limits allow."""
        most = minimum(
            self._units_in_half("kv", "keys and values of one token in one layer", attention.token_bytes),
            self._units_in_half("global", "one token's scores of all heads", attention.heads * SCORE_BYTES),
        )
        return most if self.limits is None else self.limits.keys

    def _attention(self, attention: Attention, *, on_chip: bool) -> list[Stage]:
        """Attention, in blocks of queries where its activations do not fit."""
        blocks = self.token_blocks(attention)
        if len(blocks) == 1:
            tokens, joins = attention.tokens, attention.joins
            return [self._attention_tiles(attention, tokens, attention.cached, on_chip=on_chip, joins=joins)]
        stages: list[Stage] = []
        before = attention.cached
        for tokens in blocks:
            elements = tokens * attention.heads * attention.head_dim
            stages.append(self.reload(attention.name, elements))
            stages.append(self._attention_tiles(attention, tokens, before, on_chip=on_chip, joins=True))
            stages += self._spill(attention.name, elements)
            before = before + tokens
        return stages

    def _attention_tiles(
        self, attention: Attention, tokens: int, before: Amount, *, on_chip: bool, joins: bool
    ) -> Stage:
        """Attention of ``tokens`` queries to ``before`` earlier tokens and, causally, to themselves.

        A tile holds keys and values of some tokens. Its matrix time covers scores and weighted sum, its SFU time
        the running softmax between them, so that one tile's softmax overlaps the next one's products. Work under
        the causal mask is counted exactly and spread evenly over the tiles.
        """
        services, most = self.services, self.tile_keys(attention)
        span = before + tokens
        read = before if on_chip and attention.tokens == 1 else span
        loads = attention.tokens == 1 or not on_chip
        if isinstance(read, int) and read == 0:
            read, loads = span, False  # a prompt of one token has nothing to read back
        group = attention.heads // attention.kv_heads
        passes = services.matrix.passes(self.precision.activation_bits, attention.kv_bits)

        def matrix(keys: Amount, queries: int) -> Amount:
            scores = services.matrix.head_cycles(attention.kv_heads, keys, attention.head_dim, group * queries)
            weighted = services.matrix.head_cycles(attention.kv_heads, attention.head_dim, keys, group * queries)
            return (scores + weighted) * passes

        def causal(keys: int) -> Amount:
            # Queries that see any key of a tile: those at or behind its first token.
            return sum(matrix(min(keys, span - start), min(tokens, span - start)) for start in range(0, span, keys))

        def load(keys: Amount) -> Amount:
            chunk = keys * (attention.token_bytes // 2)
            return dram.load_cycles(chunk, 2) + services.issue_cycles

        bus, dram = services.bus("kv")
        count = ceil_div(read, most)
        last = read - (count - 1) * most
        pairs = tokens * before + tokens * (tokens + 1) // 2
        if tokens == 1:
            new = span - read
            full_matrix, last_matrix = matrix(most, 1), matrix(last + new, 1)
            full_sfu = services.sfu_cycles("softmax", attention.heads * most)
            last_sfu = services.sfu_cycles("softmax", attention.heads * (last + new))
        else:
            full_matrix = last_matrix = ceil_div(_each(causal, most), count)
            full_sfu = last_sfu = services.sfu_cycles("softmax", ceil_div(attention.heads * pairs, count))
        timing = Timing(
            Kind.TILES,
            Pool.KV,
            joins=joins,
            tiles=count,
            load=load(most) if loads else None,
            matrix=full_matrix + services.issue_cycles,
            sfu=full_sfu,
            last_load=load(last) if loads else None,
            last_matrix=last_matrix + services.issue_cycles,
            last_sfu=last_sfu,
            load_latency=dram.latency_cycles,
            matrix_latency=services.matrix.pipeline_cycles,
            sfu_latency=services.sfu_latency("softmax"),
            bus=bus,
        )
        kv_read = read * attention.token_bytes if loads else 0
        macs = 2 * attention.heads * attention.head_dim * pairs
        work = Work(
            kv_read_bytes=kv_read,
            second_bytes=kv_read * bus,
            macs=macs,
            mac_ops=macs * passes,
            sfu_ops=services.functions["softmax"].passes * attention.heads * pairs,
            sram_bytes=kv_read + span * attention.token_bytes + 2 * attention.heads * pairs * SCORE_BYTES,
            **_busy(timing),
        )
        opcode = services.matrix.opcode(most, attention.head_dim, group * tokens)
        return Stage(attention.name, opcode, timing, work)


def _each(function: Callable[[int], int], value: Amount) -> Amount:
    """Apply a function of integers to an integer, or to each element of an array, equal ones once."""
    if isinstance(value, int):
        return function(value)
    distinct, where = np.unique(value, return_inverse=True)
    return np.array([function(int(one)) for one in distinct], dtype=np.int64)[where].reshape(value.shape)


def _share_out(uses: tuple[Use, ...], start: int, tokens: int) -> tuple[Use, ...]:
    """Widths of ``tokens`` tokens from ``start`` on, where tokens are ordered by width.

    >>> _share_out((Use(2, 3), Use(4, 5)), 2, 4)
    (Use(weight_bits=2, tokens=1), Use(weight_bits=4, tokens=3))
    """
    taken: list[Use] = []
    for bits, count in uses:
        overlap = min(count, start + tokens) - max(0, start)
        if overlap > 0:
            taken.append(Use(bits, overlap))
        start -= count
    return tuple(taken)


def _transfer(bus: int, cycles: Amount, size: Amount) -> dict[str, Amount]:
    """Busy cycles of a memory, and the bytes of the second one."""
    return {"second_busy_cycles": cycles, "second_bytes": size} if bus else {"dram_busy_cycles": cycles}


def _busy(timing: Timing) -> dict[str, Amount]:
    """Busy cycles of each unit and number of instructions of a run of tiles."""
    before = timing.tiles - 1
    busy: dict[str, Amount] = {}
    instructions: Amount = 0
    parts = (
        ("second" if timing.bus else "dram", timing.load, timing.last_load),
        ("matrix", timing.matrix, timing.last_matrix),
        ("sfu", timing.sfu, timing.last_sfu),
    )
    for unit, full, last in parts:
        if full is not None and last is not None:
            busy[f"{unit}_busy_cycles"] = before * full + last
            instructions = instructions + timing.tiles
    return {**busy, "instructions": instructions}


def build_lowering(npu: NpuConfig, precision: Precision, hidden_size: int) -> Lowering:
    """Prepare lowering for one NPU and one precision."""
    return Lowering(build_services(npu), precision, hidden_size)
