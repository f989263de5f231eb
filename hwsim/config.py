"""Frozen models of the NPU file (YAML): what the hardware is, checked before anything runs."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, FiniteFloat, PositiveInt, field_validator, model_validator

from hwsim.trace import FULL_PRECISION_BITS, Record, WeightBits, unknown_name

Dimensions = tuple[PositiveInt, PositiveInt, PositiveInt]
Nanoseconds = Annotated[FiniteFloat, Field(ge=0, le=1e9)]

DramTechnology = Literal["lpddr3", "lpddr4", "lpddr5x", "ddr4", "gddr5", "hbm2", "hbm2e", "hbm3e"]

# Outside of these a number was given in another unit.
MIN_CLOCK_HZ, MAX_CLOCK_HZ = 1e6, 1e11
MIN_BANDWIDTH_BYTES_PER_S, MAX_BANDWIDTH_BYTES_PER_S = 1e6, 1e15
MAX_FILL_S = 1  # keeps picoseconds times the fixed point of the transfer rate within 64 bits
MIN_STORED_OF_GROUP = 2  # FlightLLM's sparsest group is 2:16
BLOCK_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SFU_FUNCTIONS = ("softmax", "norm", "activation", "multiply", "rope", "residual", "sampling")


class Sparsity(Record):
    """N:M sparsity: of every ``group`` M weights of a row N are stored, each with its position in the group.

    A row mixes groups of different N, so its mean density can be anything between. The hardware selects the
    activation of each stored weight; nothing else is read, multiplied or looked up. Activations stay dense.

    Source: Zeng et al., "FlightLLM", arXiv:2401.03868: N:16 with N in 2, 4, 8, 16 and an index of 4 bits.
    """

    group: int = Field(16, ge=4, le=256, description="M: weights that share a group.")
    index_bits: int = Field(4, ge=2, le=16, description="Position of one stored weight within its group.")
    density: dict[str, FiniteFloat] = Field(
        description="Mean share of stored weights by linear layer; layers not named are dense."
    )

    @field_validator("density")
    @classmethod
    def _check_names(cls, density: dict[str, float]) -> dict[str, float]:
        for name in density:
            if name not in BLOCK_LINEARS:
                raise ValueError(str(unknown_name("linear layer", name, BLOCK_LINEARS)))
        return density

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        if 1 << self.index_bits < self.group:
            raise ValueError(
                f"index_bits = {self.index_bits} names {1 << self.index_bits} positions of group = {self.group}; "
                f"raise it to {(self.group - 1).bit_length()} or lower group"
            )
        least = MIN_STORED_OF_GROUP / self.group
        for name, density in self.density.items():
            if not least <= density <= 1:
                raise ValueError(
                    f"density.{name} = {density:g}: must be {least:g}..1, the share of weights that are stored "
                    f"({MIN_STORED_OF_GROUP} to {self.group} of {self.group})"
                )
        return self


class Matrix(Record):
    """The matrix unit: one array of multiply-accumulate units (MACs) in two arrangements.

    A bit-serial array multiplies activations with one bit-plane of the weights a pass and needs no codebooks:
    its weights are binary-coded, sums of planes times a coefficient of the row each, plus an offset. A codebook of
    freely placed entries cannot be written so, and a quality measured with one does not carry over.

    Source: Judd et al., "Stripes", MICRO 2016, for bit-serial products; Park et al., "LUT-GEMM", arXiv:2206.09557,
    for binary-coded weights.

    Both shapes are ``[n, k, m]``: output rows, input columns and tokens per cycle. A systolic array has one shape:
    ``[columns, rows, 1]`` where weights stay in it, ``[columns, 1, rows]`` where outputs do.
    """

    kind: Literal["mpe", "systolic"] = Field("mpe", description="mpe: FlightLLM's MPE -> MPU -> VPU hierarchy.")
    dataflow: Literal["output-stationary", "weight-stationary"] | None = Field(
        None, description="What stays in a systolic array; null for an MPE."
    )
    mm: Dimensions = Field(description="[n, k, m] per cycle for matrix times matrix.")
    mv: Dimensions = Field(description="[n, k, m] per cycle for matrix times vector.")
    cores: PositiveInt = Field(1, description="Equal cores that share out the rows n, or the heads of attention.")
    activation_bits: Literal[4, 8, 16] = Field(
        description="Operand width of one MAC; a wider operand takes several passes."
    )
    weight_widths: tuple[WeightBits, ...] = Field(min_length=1, description="Weight bits the loader supports.")
    lookups_per_cycle: dict[WeightBits, PositiveInt] = Field(
        {}, description="Nested weights turned into codebook entries per cycle, by weight bits; none if bit_serial."
    )
    codebook_entry_bits: Literal[8, 16] = Field(16, description="Bits of one codebook entry.")
    pipeline_cycles: int = Field(ge=0, le=10_000, description="From a tile's last input to its last output.")
    bit_serial: bool = Field(
        False, description="A product takes one pass per bit of its weights, keys or values; nothing is looked up."
    )
    sparsity: Sparsity | None = Field(None, description="N:M sparsity of the linear layers; null: dense.")

    @property
    def macs(self) -> int:
        """MACs of the array: the larger of the two arrangements."""
        return max(self.mm[0] * self.mm[1] * self.mm[2], self.mv[0] * self.mv[1] * self.mv[2])

    @field_validator("weight_widths")
    @classmethod
    def _check_widths(cls, widths: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(widths)) != len(widths):
            raise ValueError("each width may appear once")
        return tuple(sorted(widths))

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if (self.kind == "systolic") != (self.dataflow is not None):
            raise ValueError(
                f"kind = '{self.kind}' with dataflow = {self.dataflow!r}: systolic arrays need one, others none"
            )
        if self.kind == "systolic":
            unused = "m" if self.dataflow == "weight-stationary" else "k"
            if self.mm["nkm".index(unused)] != 1 or self.mv != self.mm or self.cores != 1:
                raise ValueError(
                    f"mm = {list(self.mm)}, mv = {list(self.mv)}, cores = {self.cores}: a {self.dataflow} array has "
                    f"one shape with {unused} = 1 and one core"
                )
        return self

    @model_validator(mode="after")
    def _check_cores(self) -> Self:
        for name, rows in (("mm", self.mm[0]), ("mv", self.mv[0])):
            if rows % self.cores:
                raise ValueError(f"{name} has {rows} rows per cycle: must be a multiple of cores = {self.cores}")
        return self

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        for option, on in (("bit_serial", self.bit_serial), ("sparsity", self.sparsity is not None)):
            if on and self.kind != "mpe":
                raise ValueError(f"{option} with kind = '{self.kind}': only an MPE has it; drop it or take kind: mpe")
        return self

    @model_validator(mode="after")
    def _check_lookups(self) -> Self:
        if self.bit_serial:
            return self
        nested = {bits for bits in self.weight_widths if bits != FULL_PRECISION_BITS}
        if missing := sorted(nested - self.lookups_per_cycle.keys()):
            raise ValueError(
                f"lookups_per_cycle lacks {missing[0]} bits, which weight_widths has; add it or drop the width"
            )
        return self


class SfuFunction(Record):
    """One special function: passes over its elements and its pipeline depth."""

    passes: int = Field(ge=1, le=64, description="How often its elements go through the lanes.")
    latency_cycles: int = Field(ge=0, le=100_000, description="From the last element in to the last one out.")


class Sfu(Record):
    """The special function unit: ``lanes`` elements per cycle and pass."""

    lanes: int = Field(ge=1, le=1 << 20, description="Elements per cycle and pass.")
    functions: dict[str, SfuFunction] = Field(
        description="softmax, norm, activation, multiply, rope, residual and sampling, each."
    )

    @field_validator("functions")
    @classmethod
    def _check_functions(cls, functions: dict[str, SfuFunction]) -> dict[str, SfuFunction]:
        if missing := [name for name in SFU_FUNCTIONS if name not in functions]:
            raise ValueError(f"lacks '{missing[0]}'; must describe {', '.join(SFU_FUNCTIONS)}")
        if unknown := sorted(functions.keys() - set(SFU_FUNCTIONS)):
            raise ValueError(f"'{unknown[0]}' is not a function; known: {', '.join(SFU_FUNCTIONS)}")
        return functions


class Timing(Record):
    """DRAM organisation and timing of one channel, in nanoseconds; names as in the JEDEC standards.

    Addresses map row : rank : bank : bank group : column, so a stream stays in one bank group for a whole row.
    """

    ranks: int = Field(ge=1, le=16, description="Ranks on one channel.")
    bank_groups: int = Field(ge=1, le=16, description="1 where the memory has none.")
    banks_per_group: int = Field(ge=1, le=64, description="Banks of a group; of the rank where there are no groups.")
    row_bytes: int = Field(ge=64, le=1 << 20, description="Bytes of one open row (page) over the whole channel.")
    t_rcd_ns: Nanoseconds = Field(description="Activate to read or write.")
    t_rp_ns: Nanoseconds = Field(description="Precharge to activate.")
    t_ras_ns: Nanoseconds = Field(description="Activate to precharge.")
    t_rtp_ns: Nanoseconds = Field(description="Read to precharge.")
    t_wr_ns: Nanoseconds = Field(description="End of write data to precharge.")
    t_cl_ns: Nanoseconds = Field(description="Read command to first data.")
    t_cwl_ns: Nanoseconds = Field(description="Write command to first data.")
    ccd_l_bursts: FiniteFloat = Field(
        1.0, ge=1, le=8, description="tCCD_L: least interval of bursts in one bank group, in burst durations."
    )
    t_rrd_ns: Nanoseconds = Field(description="Activate to activate in one rank.")
    t_faw_ns: Nanoseconds = Field(description="Window of at most four activates in one rank.")
    t_wtr_ns: Nanoseconds = Field(description="End of write data to the next read command (same bank group).")
    t_rtrs_ns: Nanoseconds = Field(description="Bus turnaround: other rank, or read to write.")
    t_refi_ns: Nanoseconds = Field(gt=0, description="Mean interval between refreshes of a rank.")
    t_rfc_ns: Nanoseconds = Field(description="Time one all-bank refresh takes.")
    queue_requests: int = Field(32, ge=1, le=1024, description="Bursts the controller's queue holds, per channel.")
    bank_queue_requests: int = Field(8, ge=1, le=1024, description="Bursts waiting at one bank, beyond the queue.")
    controller_latency_ns: Nanoseconds = Field(description="Controller and on-chip network, each request.")

    @property
    def banks(self) -> int:
        """Banks of all ranks."""
        return self.ranks * self.bank_groups * self.banks_per_group

    @property
    def lookahead_requests(self) -> int:
        """Bursts of one stream that the controller sees at once."""
        return self.queue_requests + self.bank_queue_requests

    @property
    def refresh_ns(self) -> float:
        """What a refresh takes from a stream: its rows are closed before and opened again behind it."""
        return self.t_rp_ns + self.t_rfc_ns + self.t_rcd_ns

    @model_validator(mode="after")
    def _check_refresh(self) -> Self:
        if self.refresh_ns >= self.t_refi_ns:
            raise ValueError(
                f"t_rfc_ns = {self.t_rfc_ns:g} and t_rp_ns + t_rcd_ns to reopen a row must be below "
                f"t_refi_ns = {self.t_refi_ns:g}: the memory would never leave refresh"
            )
        return self


class Memory(Record):
    """Off-chip memory. ``bandwidth_bytes_per_s`` is the peak; what is sustained is a result."""

    bandwidth_bytes_per_s: FiniteFloat = Field(
        description="Peak over all channels, bytes (not GB) per second.",
        json_schema_extra={"minimum": MIN_BANDWIDTH_BYTES_PER_S, "maximum": MAX_BANDWIDTH_BYTES_PER_S},
    )
    channels: int = Field(ge=1, le=1024, description="Equal channels over which every chunk is interleaved.")
    burst_bytes: int = Field(ge=8, le=4096, description="Smallest transfer of one channel.")
    capacity_bytes: int = Field(ge=1, description="What the model and its KV cache must fit.")
    same_bank_share: FiniteFloat | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of chunks whose first row meets an open row of its own bank, where the placement of regions "
        "is known; null: one in as many as there are banks, as if they lay anywhere.",
    )
    timing: Timing = Field(description="Organisation and timing of one channel.")

    @field_validator("bandwidth_bytes_per_s", mode="before")
    @classmethod
    def _check_unit(cls, value: object) -> object:
        try:
            return float(value) if isinstance(value, str) else value
        except ValueError:
            raise ValueError("must be a number of bytes per second without a unit, so 32 GB/s is 32e9") from None

    @field_validator("bandwidth_bytes_per_s")
    @classmethod
    def _check_bandwidth(cls, value: float) -> float:
        if value <= 0:
            raise ValueError("must be > 0 bytes per second")
        if value < MIN_BANDWIDTH_BYTES_PER_S:
            raise ValueError("must be >= 1e6; the unit is bytes per second, so 32 GB/s is 32e9")
        if value > MAX_BANDWIDTH_BYTES_PER_S:
            raise ValueError("must be <= 1e15 bytes per second")
        return value


class SecondMemory(Memory):
    """Another off-chip memory with its own bus, as FlightLLM's DDR beside its HBM; weights stay in the main one."""

    holds: tuple[Literal["kv", "embedding", "activations"], ...] = Field(
        min_length=1,
        description="What lies in it: the KV cache, the embedding table, activations that do not fit on chip.",
    )
    technology: DramTechnology = Field(description="Which energy per bit applies.")

    @field_validator("holds")
    @classmethod
    def _check_holds(cls, holds: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(holds)) != len(holds):
            raise ValueError("each content may appear once")
        return holds


class Buffers(Record):
    """On-chip memories in KiB. Loads are double-buffered: none exceeds half of its buffer."""

    weight_kib: float = Field(gt=0, le=1 << 21, description="Planes or plain weights of two tiles.")
    kv_kib: float = Field(gt=0, le=1 << 21, description="Keys and values of two tiles; a prefill's, where they fit.")
    activation_kib: float = Field(gt=0, le=1 << 21, description="Input, output and residual of one operation.")
    codebook_kib: float = Field(gt=0, le=1 << 21, description="Codebooks of two tiles.")
    global_kib: float = Field(gt=0, le=1 << 21, description="Attention scores and logits on their way.")
    resident_codebook_kib: float = Field(
        0,
        ge=0,
        le=1 << 21,
        description="Keeps the codebooks last read, of as many leading layers as fit, for steps of the same width.",
    )


class Control(Record):
    """The instruction scheduler."""

    issue_cycles: int = Field(ge=0, le=10_000, description="Added to every instruction.")
    sync_cycles: int = Field(ge=0, le=1_000_000, description="One SYS instruction: end of a fused layer.")
    prefill_bucket_tokens: int = Field(
        1, ge=1, le=1 << 16, description="One instruction stream serves prompts up to the next multiple."
    )
    decode_bucket_tokens: int = Field(
        1, ge=1, le=1 << 16, description="One instruction stream serves contexts up to the next multiple."
    )
    tiling: Literal["half-buffer", "search"] = Field(
        "half-buffer",
        description="Tiles that fill half of a buffer, or those of the sizes that fit with the fewest cycles.",
    )
    prefetch: Literal["none", "planned", "assume-unchanged"] = Field(
        "none",
        description="Loads for the next step while this one drains. planned: its width is known; assume-unchanged: "
        "taken to be this step's, and what was loaded is thrown away if it is not.",
    )

    @model_validator(mode="after")
    def _check_tiling(self) -> Self:
        if self.tiling == "search" and self.prefetch != "none":
            raise ValueError(
                f"tiling = 'search' with prefetch = '{self.prefetch}': tiles are searched step by step, which a "
                "prefetch ties together; set prefetch to 'none' or tiling to 'half-buffer'"
            )
        return self


class Cost(Record):
    """Which rows of the cost table apply; ``hwsim.cost`` holds the constants with their sources."""

    node: Literal["45nm", "14nm", "7nm"] = Field(description="Logic and SRAM.")
    dram: DramTechnology = Field(description="Which energy per bit applies to the main memory.")
    static_w_per_mm2: FiniteFloat = Field(ge=0, le=10, description="Leakage and clock tree per area.")


class NpuConfig(Record):
    """One NPU."""

    schema_version: Literal["1.0"] = Field("1.0", description="Form of the file.")
    name: str = Field(min_length=1, description="What results call it.")
    clock_hz: FiniteFloat = Field(
        description="Cycles per second.", json_schema_extra={"minimum": MIN_CLOCK_HZ, "maximum": MAX_CLOCK_HZ}
    )
    matrix: Matrix = Field(description="What multiplies.")
    sfu: Sfu = Field(description="What computes everything else.")
    memory: Memory = Field(description="Where weights lie, and all that does not lie elsewhere.")
    second_memory: SecondMemory | None = Field(None, description="Beside the main one; null if there is none.")
    buffers: Buffers = Field(description="On-chip memories.")
    control: Control = Field(description="How instructions are issued, tiled and prefetched.")
    cost: Cost = Field(description="What energy and area are counted with.")

    @field_validator("clock_hz")
    @classmethod
    def _check_clock(cls, value: float) -> float:
        if not MIN_CLOCK_HZ <= value <= MAX_CLOCK_HZ:
            raise ValueError("must be 1e6..1e11; the unit is Hz, so 1 GHz is 1e9")
        return value

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        for path in ("memory", "second_memory"):
            memory: Memory | None = getattr(self, path)
            if memory is None:
                continue
            if memory.timing.row_bytes < memory.burst_bytes:
                raise ValueError(
                    f"{path}.timing.row_bytes = {memory.timing.row_bytes} must hold at least one burst of "
                    f"{path}.burst_bytes = {memory.burst_bytes}"
                )
            for name in Buffers.model_fields:
                given = getattr(self.buffers, name)
                seconds = given * 1024 / memory.bandwidth_bytes_per_s
                if seconds > MAX_FILL_S:
                    raise ValueError(
                        f"buffers.{name} = {given:g} takes {seconds:.3g} s to fill at {path}.bandwidth_bytes_per_s = "
                        f"{memory.bandwidth_bytes_per_s:g}; must be at most {MAX_FILL_S} s"
                    )
        return self
