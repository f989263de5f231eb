"""Evaluation runs: task x schedulers -> quality, traces and per-prompt results, resumable, on one process or many."""

from accuracy.evaluation.comparison import PerPrompt, read_per_prompt, read_statistics
from accuracy.evaluation.recording import PromptTask, record_trace
from accuracy.evaluation.results import distinct_steps, trace_file_name
from accuracy.evaluation.run import evaluate, response_tokens
from accuracy.evaluation.traces import trace_header, trace_sequence

__all__ = [
    "PerPrompt",
    "PromptTask",
    "distinct_steps",
    "evaluate",
    "read_per_prompt",
    "read_statistics",
    "record_trace",
    "response_tokens",
    "trace_file_name",
    "trace_header",
    "trace_sequence",
]
