"""Joint exploration of NPU and precision schedule.

Names load their module on first use, so that ``import dse`` costs neither Optuna nor pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dse.answer import Answer, Binding, Margin
    from dse.exploration import Counts, Exploration, load_exploration
    from dse.objective import NoDesignError
    from dse.problem import Evaluate
    from dse.question import ask
    from dse.related import Related
    from dse.runner import explore
    from dse.sensitivity import Sensitivity, measure_sensitivity
    from dse.space import Design, Space
    from dse.study import Constraint, Objective, Parameter, StudyConfig, Workload, parse_study, read_study
    from dse.why import Explanation, explain

_HOMES = {
    "Answer": "answer",
    "Binding": "answer",
    "Constraint": "study",
    "Counts": "exploration",
    "Design": "space",
    "Evaluate": "problem",
    "Explanation": "why",
    "Exploration": "exploration",
    "Margin": "answer",
    "NoDesignError": "objective",
    "Objective": "study",
    "Parameter": "study",
    "Related": "related",
    "Sensitivity": "sensitivity",
    "Space": "space",
    "StudyConfig": "study",
    "Workload": "study",
    "ask": "question",
    "explain": "why",
    "explore": "runner",
    "load_exploration": "exploration",
    "measure_sensitivity": "sensitivity",
    "parse_study": "study",
    "read_study": "study",
}

__all__ = [
    "Answer",
    "Binding",
    "Constraint",
    "Counts",
    "Design",
    "Evaluate",
    "Explanation",
    "Exploration",
    "Margin",
    "NoDesignError",
    "Objective",
    "Parameter",
    "Related",
    "Sensitivity",
    "Space",
    "StudyConfig",
    "Workload",
    "ask",
    "explain",
    "explore",
    "load_exploration",
    "measure_sensitivity",
    "parse_study",
    "read_study",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dse' has no attribute '{name}'")
    return getattr(import_module(f"dse.{_HOMES[name]}"), name)
