"""Evaluation runs: task x schedules -> quality, traces and per-prompt results, resumable."""

from accuracy.evaluation.results import distinct_steps, read_statistics, trace_file_name
from accuracy.evaluation.run import evaluate
from accuracy.evaluation.traces import trace_header, trace_sequence

__all__ = ["distinct_steps", "evaluate", "read_statistics", "trace_file_name", "trace_header", "trace_sequence"]
