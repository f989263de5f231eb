"""Schedulers by name."""

from __future__ import annotations

from accuracy.registry import Registry
from accuracy.schedulers.base import Scheduler

_SCHEDULERS: Registry[Scheduler] = Registry("scheduler")

register_scheduler = _SCHEDULERS.register
make_scheduler = _SCHEDULERS.make
scheduler_names = _SCHEDULERS.names
