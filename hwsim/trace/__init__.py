"""Contracts between the accuracy side, the simulator and the exploration: schedule, trace, quality.

A leaf: it imports the standard library and pydantic only.
"""

from hwsim.trace.candidates import SWITCH_POINTS, candidate_count, candidate_schedules, schedule_count, switch_steps
from hwsim.trace.errors import BittaperError, InputError, from_validation, unknown_name
from hwsim.trace.files import atomic_writer, canonical_sha256, file_sha256, read_text, write_json, write_text
from hwsim.trace.provenance import collect_provenance
from hwsim.trace.quality import (
    Interpolation,
    Quality,
    QualityTable,
    read_quality,
    read_quality_table,
    write_quality,
)
from hwsim.trace.schedule import (
    FULL_PRECISION_BITS,
    MAX_PLANES,
    DecodeSegment,
    Record,
    Schedule,
    WeightBits,
    read_json,
    read_schedule,
    write_schedule,
)
from hwsim.trace.shape import ModelShape, shape_from_config
from hwsim.trace.synthetic import synthetic_trace
from hwsim.trace.trace import (
    Trace,
    TraceHeader,
    TraceModel,
    TraceSequence,
    TraceTrailer,
    TraceWriter,
    read_trace,
    run_length,
    trace_writer,
    write_trace,
)

__all__ = [
    "FULL_PRECISION_BITS",
    "MAX_PLANES",
    "SWITCH_POINTS",
    "BittaperError",
    "DecodeSegment",
    "InputError",
    "Interpolation",
    "ModelShape",
    "Quality",
    "QualityTable",
    "Record",
    "Schedule",
    "Trace",
    "TraceHeader",
    "TraceModel",
    "TraceSequence",
    "TraceTrailer",
    "TraceWriter",
    "WeightBits",
    "atomic_writer",
    "candidate_count",
    "candidate_schedules",
    "canonical_sha256",
    "collect_provenance",
    "file_sha256",
    "from_validation",
    "read_json",
    "read_quality",
    "read_quality_table",
    "read_schedule",
    "read_text",
    "read_trace",
    "run_length",
    "schedule_count",
    "shape_from_config",
    "switch_steps",
    "synthetic_trace",
    "trace_writer",
    "unknown_name",
    "write_json",
    "write_quality",
    "write_schedule",
    "write_text",
    "write_trace",
]
