"""Precision schedulers: when to use which weight width while a response grows."""

from accuracy.schedulers.base import KVCacheView, Prefill, Scheduler, StepScheduler
from accuracy.schedulers.candidates import CandidateScheduler, CandidateSet
from accuracy.schedulers.patterns import PATTERNS, PatternScheduler, pattern_schedule
from accuracy.schedulers.registry import make_scheduler, register_scheduler, scheduler_names
from accuracy.schedulers.static import StaticScheduler
from accuracy.schedulers.uniform import UniformScheduler

__all__ = [
    "PATTERNS",
    "CandidateScheduler",
    "CandidateSet",
    "KVCacheView",
    "PatternScheduler",
    "Prefill",
    "Scheduler",
    "StaticScheduler",
    "StepScheduler",
    "UniformScheduler",
    "make_scheduler",
    "pattern_schedule",
    "register_scheduler",
    "scheduler_names",
]
