"""Choosing widths and schedules on tuning prompts: PAPAlloc and the offline solver (PMPD, Algorithm 1)."""

from accuracy.search.allocation import allocate
from accuracy.search.search import SearchSettings
from accuracy.search.selection import Candidate, Selection, Target, read_selection
from accuracy.search.solver import solve

__all__ = ["Candidate", "SearchSettings", "Selection", "Target", "allocate", "read_selection", "solve"]
