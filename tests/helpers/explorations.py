"""Explorations as tests run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dse
from dse.problem import Evaluate


def run(study: dse.StudyConfig, out: Path, evaluate: Evaluate | None = None, **options: Any) -> dse.Exploration:
    """Explore without a progress bar; the simulator evaluates unless something stands in for it."""
    return dse.explore(study, out, evaluate=evaluate, progress=False, **options)
