"""Precision schedulers: when to use which weight width while a response grows."""

from accuracy.schedulers.base import KVCacheView, Prefill, Scheduler, StepScheduler
from accuracy.schedulers.candidates import CandidateScheduler, CandidateSet
from accuracy.schedulers.confidence import MEASURES, ConfidenceScheduler
from accuracy.schedulers.learned import LearnedScheduler
from accuracy.schedulers.patterns import PATTERNS, PatternScheduler, pattern_schedule
from accuracy.schedulers.random import RandomPriorScheduler, RandomUniformScheduler
from accuracy.schedulers.registry import find_scheduler, make_scheduler, register_scheduler, scheduler_names
from accuracy.schedulers.static import StaticScheduler
from accuracy.schedulers.uniform import UniformScheduler

__all__ = [
    "MEASURES",
    "PATTERNS",
    "CandidateScheduler",
    "CandidateSet",
    "ConfidenceScheduler",
    "KVCacheView",
    "LearnedScheduler",
    "PatternScheduler",
    "Prefill",
    "RandomPriorScheduler",
    "RandomUniformScheduler",
    "Scheduler",
    "StaticScheduler",
    "StepScheduler",
    "UniformScheduler",
    "find_scheduler",
    "make_scheduler",
    "pattern_schedule",
    "register_scheduler",
    "scheduler_names",
]
