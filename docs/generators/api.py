"""The API reference: every public name of the packages, by ``__all__``."""

from __future__ import annotations

import ast
import importlib
import inspect

from pydantic import BaseModel

from docs.generators.records import REFERENCES, anchor

PACKAGES = (
    "hwsim",
    "hwsim.trace",
    "dse",
    "accuracy",
    "accuracy.decoding",
    "accuracy.schedulers",
    "accuracy.tasks",
    "accuracy.evaluation",
    "accuracy.search",
    "kernels",
)


_FIELDS: dict[type, str] = {
    model: anchor(page, model.__name__) for page, (_, models) in REFERENCES.items() for model in models
}


def pages() -> dict[str, str]:
    """One page for each package."""
    return {f"api/{name}.md": _page(name) for name in PACKAGES}


def _page(name: str) -> str:
    module = importlib.import_module(name)
    entries = "\n".join(_directive(name, public, getattr(module, public)) for public in sorted(module.__all__))
    return (
        f"# {name}\n\n```{{eval-rst}}\n.. module:: {name}\n\n{inspect.cleandoc(module.__doc__ or '')}\n\n{entries}```\n"
    )


def _directive(package: str, public: str, value: object) -> str:
    """The autodoc directive of one name."""
    # A cached function is no function to Python, but has one within.
    if inspect.isroutine(value) or hasattr(value, "__wrapped__"):
        return f".. autofunction:: {package}.{public}\n"
    if not inspect.isclass(value):
        # The text behind a constant belongs to the module that defines it.
        return f".. autodata:: {_home(package, public)}.{public}\n   :no-value:\n"
    # A record's fields are in the field references, with their bounds.
    members = "   :members:\n"
    if value.__bases__ != (object,):
        members += "   :show-inheritance:\n"
    if issubclass(value, BaseModel):
        fields = ", ".join(["model_config", *value.model_fields])
        members += f"   :exclude-members: {fields}\n"
    label = _FIELDS.get(value)
    fields_link = f"\n   Its fields: :ref:`{public} <{label}>`\n" if label else ""
    return f".. autoclass:: {package}.{public}\n{members}{fields_link}"


def _home(package: str, public: str) -> str:
    """Module from which a package takes one of its public names."""
    tree = ast.parse(inspect.getsource(importlib.import_module(package)))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name == public for alias in node.names):
            return str(node.module)
    return package
