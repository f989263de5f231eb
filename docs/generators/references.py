"""References from docstrings: to the public name where there is one, checked to exist where there is none.

Docstrings name things where they are defined (``kernels.layout.pack``), the reference shows where they are public
(``kernels.pack``). What is no public name has no entry, but must be there all the same: a name that does not exist is
reported, and so fails the build. Names of other packages are left as they are, because there is no network to look
them up in.
"""

from __future__ import annotations

import importlib
import inspect
from functools import lru_cache
from typing import Any

from docutils import nodes
from pydantic import BaseModel
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

from docs.generators.api import PACKAGES

OURS = ("hwsim", "dse", "accuracy", "kernels", "studies")


@lru_cache(maxsize=1)
def _public_names() -> dict[str, str]:
    """Public name by the place where it is defined."""
    names: dict[str, str] = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        for public in module.__all__:
            value = getattr(module, public)
            if inspect.isclass(value) or inspect.isfunction(value):
                names.setdefault(f"{value.__module__}.{value.__qualname__}", f"{package}.{public}")
    return names


def exists(target: str) -> bool:
    """Whether a dotted name leads to a module, or to something in one.

    >>> exists("hwsim.trace.Schedule.label"), exists("hwsim.trace.Schedul")
    (True, False)
    """
    parts = target.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            # Fields of a dataclass or a record are annotations, not attributes of its class.
            if part in getattr(value, "__annotations__", {}):
                return True
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return False


def _resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: nodes.Element) -> nodes.Element | None:
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    if target.split(".")[0] not in OURS:
        # A name without a package is looked for where its docstring stands.
        local = ".".join(filter(None, (node.get("py:module"), node.get("py:class"), target)))
        return shown if "." in target or exists(local) or _foreign(target) else None
    public = _public_names().get(target)
    entry = env.domains.python_domain.objects.get(public or "")
    if public and entry:
        return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, shown, public)
    return shown if exists(target) else None


def _foreign(name: str) -> bool:
    """Whether an undotted name can only be of Python or another package, as in a signature."""
    return not any(exists(f"{package}.{name}") for package in PACKAGES)


def _signature(app: Sphinx, what: str, name: str, value: object, options: object, *text: str | None) -> Any:
    """A record is made from a file: its fields are in the field reference, not in a signature."""
    is_record = what == "class" and inspect.isclass(value) and issubclass(value, BaseModel)
    return ("", "") if is_record else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect both."""
    app.connect("missing-reference", _resolve)
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
