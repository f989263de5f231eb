"""Schedulers by name: ours, and those of others."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from accuracy.registry import Registry, call_factory
from accuracy.schedulers.base import Scheduler
from hwsim.trace import InputError

_SCHEDULERS: Registry[Scheduler] = Registry("scheduler")

register_scheduler = _SCHEDULERS.register
make_scheduler = _SCHEDULERS.make
scheduler_names = _SCHEDULERS.names


def find_scheduler(reference: str, **options: Any) -> Scheduler:
    """Make the scheduler that a user names: a registered one, or a class of an installed package.

    Args:
        reference: A registered name, or ``package.module:Class``. The module is imported, which runs it: take the
            text from a command line or from code, never from a data file.
        options: Of its constructor.

    Raises:
        InputError: If there is no such scheduler, or the options do not fit.
    """
    module_name, colon, class_name = reference.partition(":")
    if not colon:
        return make_scheduler(reference, **options)
    try:
        found = getattr(import_module(module_name), class_name, None)
    except (ImportError, ValueError) as error:
        raise InputError(f"scheduler '{reference}': module '{module_name}' cannot be imported ({error})") from None
    if not (isinstance(found, type) and issubclass(found, Scheduler)) or inspect.isabstract(found):
        raise InputError(f"scheduler '{reference}': must name a class derived from accuracy.schedulers.Scheduler")
    return call_factory("scheduler", reference, found, options)
