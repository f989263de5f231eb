"""The trace: what precision every decode step of every sequence really ran at (JSON Lines).

A file is one header line, one line per sequence, one trailer line with their number; without a matching
trailer the file is refused as cut.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import IO, Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError, model_validator

from hwsim.trace.errors import InputError, from_validation
from hwsim.trace.files import atomic_writer, reading
from hwsim.trace.schedule import Record, Schedule, WeightBits
from hwsim.trace.shape import ModelShape

BitsRun = tuple[WeightBits, PositiveInt]


class TraceModel(Record):
    """Which model made the trace."""

    name: str = Field(description="What results call it.")
    shape: ModelShape = Field(description="Its dimensions.")
    config_sha256: str | None = Field(None, description="Hash of its config.json; null for synthetic traces.")


class TraceHeader(Record):
    """First line of a trace file."""

    record: Literal["header"] = Field("header", description="Which line this is.")
    schema_version: Literal["1.0"] = Field("1.0", description="Form of the file.")
    model: TraceModel = Field(description="The model, by name, shape and configuration.")
    store_sha256: str | None = Field(None, description="Hash of the nested weight store, where one was used.")
    activation_bits: PositiveInt = Field(8, description="Of what the NPU multiplies the weights with.")
    kv_bits: PositiveInt = Field(16, description="Of a stored key or value.")
    lm_head_bits: PositiveInt = Field(16, description="Of a weight of lm_head.")
    task: str = Field(description="Where the prompts come from.")
    scheduler: str = Field(description="Name of what chose the widths.")
    schedule: Schedule | None = Field(None, description="Null where the scheduler plans per prompt.")
    execution: Literal["sequential", "batched"] = Field(
        "sequential", description="One sequence after another, or those of one batch_id together."
    )
    device: str = Field("none", description="What the step times were measured on; none for synthetic traces.")
    provenance: dict[str, str] = Field(default_factory=dict, description="Commit, versions, device, seed.")


class TraceSequence(Record):
    """One response: G tokens are one prefill (token 0) and S = G - 1 decode steps (design decision 12)."""

    record: Literal["sequence"] = Field("sequence", description="Which line this is.")
    id: str = Field(description="Of the prompt; each once in a file.")
    batch_id: NonNegativeInt = Field(0, description="Sequences of one batch share it, where execution is batched.")
    prompt_tokens: PositiveInt = Field(description="P.")
    generated_tokens: PositiveInt = Field(description="G, an emitted EOS counted.")
    prefill_weight_bits: WeightBits = Field(description="Bits read per weight in the prefill.")
    decode_weight_bits: tuple[BitsRun, ...] = Field(description="Run-length form [[bits, count], ...].")
    finish_reason: Literal["eos", "length"] = Field(description="Ended by itself, or by the bound on new tokens.")
    prefill_ns: NonNegativeInt | None = Field(None, description="Measured time of the prefill; null: not measured.")
    step_ns: tuple[NonNegativeInt, ...] | None = Field(
        None, description="Measured time of each decode step; null: not measured."
    )

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        steps = self.decode_steps
        run_steps = sum(count for _, count in self.decode_weight_bits)
        if run_steps != steps:
            raise ValueError(f"decode_weight_bits covers {run_steps} steps, must be generated_tokens - 1 = {steps}")
        if self.step_ns is not None and len(self.step_ns) != steps:
            raise ValueError(f"step_ns has {len(self.step_ns)} entries, must be {steps}")
        return self

    @property
    def decode_steps(self) -> int:
        """S = G - 1."""
        return self.generated_tokens - 1

    def expand(self) -> list[int]:
        """Weight bits of each decode step."""
        return [bits for bits, count in self.decode_weight_bits for _ in range(count)]


class TraceTrailer(Record):
    """Last line of a trace file."""

    record: Literal["trailer"] = Field("trailer", description="Which line this is.")
    sequences: NonNegativeInt = Field(description="Lines between header and trailer.")


class Trace(Record):
    """A whole trace in memory."""

    header: TraceHeader
    sequences: tuple[TraceSequence, ...]

    def decode_steps(self) -> int:
        """Decode steps over all sequences."""
        return sum(sequence.decode_steps for sequence in self.sequences)

    def mean_decode_bits(self) -> float:
        """Mean weight bits over all decode steps of all sequences.

        Raises:
            InputError: If the trace has no decode step.
        """
        steps = self.decode_steps()
        if steps == 0:
            raise InputError("trace has no decode step: mean decode bits are undefined")
        total = sum(bits * n for sequence in self.sequences for bits, n in sequence.decode_weight_bits)
        return total / steps


def run_length(bits: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Run-length form of a per-step list.

    >>> run_length([4, 4, 3])
    ((4, 2), (3, 1))
    """
    return tuple((width, len(list(group))) for width, group in groupby(bits))


class TraceWriter:
    """Writes sequences one by one; obtained from :func:`trace_writer`."""

    def __init__(self, file: IO[str], header: TraceHeader) -> None:
        self._file = file
        self._sequences = 0
        self._write(header)

    def _write(self, record: Record) -> None:
        self._file.write(record.model_dump_json() + "\n")

    def add(self, sequence: TraceSequence) -> None:
        """Append one sequence."""
        self._write(sequence)
        self._sequences += 1

    def finish(self) -> None:
        """Write the trailer."""
        self._write(TraceTrailer(sequences=self._sequences))


@contextmanager
def trace_writer(path: Path | str, header: TraceHeader) -> Iterator[TraceWriter]:
    """Open ``path`` for writing a trace; the file appears only when the block ends without an error."""
    with atomic_writer(path) as file:
        writer = TraceWriter(file, header)
        yield writer
        writer.finish()


def write_trace(path: Path | str, header: TraceHeader, sequences: Iterable[TraceSequence]) -> None:
    """Write a whole trace atomically."""
    with trace_writer(path, header) as writer:
        for sequence in sequences:
            writer.add(sequence)


_LINE: TypeAdapter[TraceHeader | TraceSequence | TraceTrailer] = TypeAdapter(
    Annotated[TraceHeader | TraceSequence | TraceTrailer, Field(discriminator="record")]
)


def _parse_lines(source: Path) -> Iterator[tuple[int, TraceHeader | TraceSequence | TraceTrailer]]:
    with reading(source), source.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield number, _LINE.validate_python(json.loads(line))
            except json.JSONDecodeError as error:
                raise InputError(f"{source}:{number}: not JSON ({error.msg}); the file may be cut") from None
            except ValidationError as error:
                raise from_validation(error, str(source), number) from None


def read_trace(path: Path | str) -> Trace:
    """Read and check a trace file.

    Raises:
        InputError: If a line breaks the contract (named with its number), the version is another, an id
            appears twice, or the trailer is missing or counts another number of sequences.
    """
    source = Path(path)
    lines = _parse_lines(source)
    _, header = next(lines, (0, None))
    if not isinstance(header, TraceHeader):
        raise InputError(f"{source}:1: record must be 'header' on the first line")
    sequences: list[TraceSequence] = []
    ids: set[str] = set()
    trailer: TraceTrailer | None = None
    for number, record in lines:
        if trailer is not None:
            raise InputError(f"{source}:{number}: a line after the trailer")
        if isinstance(record, TraceTrailer):
            trailer = record
        elif isinstance(record, TraceSequence):
            if record.id in ids:
                raise InputError(f"{source}:{number}: id = {record.id!r} appears twice")
            ids.add(record.id)
            sequences.append(record)
        else:
            raise InputError(f"{source}:{number}: a second header")
    if trailer is None:
        raise InputError(f"{source}: no trailer after {len(sequences)} sequences: the file is cut; write it again")
    if trailer.sequences != len(sequences):
        raise InputError(
            f"{source}: trailer counts {trailer.sequences} sequences, the file has {len(sequences)}: it is damaged"
        )
    return Trace(header=header, sequences=tuple(sequences))
