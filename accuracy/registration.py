"""Teach transformers the stored format as soon as transformers is there, without importing it.

transformers knows its quantisation methods from a table in ``transformers.quantizers.auto``. If that module is loaded,
ours is entered at once; if not, right after the first import of it, which every ``from_pretrained`` starts.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

QUANT_METHOD = "any_precision"
_TABLE = "transformers.quantizers.auto"
_PLUGIN = "accuracy.quantization.transformers_plugin"


class _AfterImport(MetaPathFinder):
    """Finds one module as everybody else does, and imports the plug-in when it has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Let the other finders find the module, then extend its loader; once only."""
        if fullname != _TABLE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_then_register(module: ModuleType) -> None:
                execute(module)
                import_module(_PLUGIN)

            spec.loader.exec_module = execute_then_register  # type: ignore[method-assign]
        return spec


def register_with_transformers() -> None:
    """Register the quantisation method ``any_precision``, now or when transformers' table is imported."""
    if _TABLE in sys.modules:
        import_module(_PLUGIN)
    else:
        sys.meta_path.insert(0, _AfterImport())
