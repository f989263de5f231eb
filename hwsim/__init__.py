"""NPU simulator: cycles, bytes and energy of an LLM under a per-token precision trace.

Names load on first use (PEP 562), so that ``import hwsim.trace`` needs neither numpy nor simpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwsim.config import NpuConfig
    from hwsim.grid import GridResult, evaluate_grid
    from hwsim.intensity import RooflinePosition, roofline_position
    from hwsim.load import NPU_NAMES, load_npu
    from hwsim.metrics import SimulationResult
    from hwsim.roofline import roofline_cycles
    from hwsim.shapes import SHAPE_NAMES, load_shape
    from hwsim.simulation import SimulationOptions, simulate
    from hwsim.step_profile import StepProfile, profile_row, profile_step
    from hwsim.tables import read_table, stall_table, write_tables
    from hwsim.timeline import window_rows, write_timeline

_HOMES = {
    "GridResult": "hwsim.grid",
    "NPU_NAMES": "hwsim.load",
    "SHAPE_NAMES": "hwsim.shapes",
    "NpuConfig": "hwsim.config",
    "RooflinePosition": "hwsim.intensity",
    "SimulationOptions": "hwsim.simulation",
    "SimulationResult": "hwsim.metrics",
    "StepProfile": "hwsim.step_profile",
    "evaluate_grid": "hwsim.grid",
    "load_npu": "hwsim.load",
    "load_shape": "hwsim.shapes",
    "profile_row": "hwsim.step_profile",
    "profile_step": "hwsim.step_profile",
    "read_table": "hwsim.tables",
    "roofline_cycles": "hwsim.roofline",
    "roofline_position": "hwsim.intensity",
    "simulate": "hwsim.simulation",
    "stall_table": "hwsim.tables",
    "window_rows": "hwsim.timeline",
    "write_tables": "hwsim.tables",
    "write_timeline": "hwsim.timeline",
}

__all__ = [
    "NPU_NAMES",
    "SHAPE_NAMES",
    "GridResult",
    "NpuConfig",
    "RooflinePosition",
    "SimulationOptions",
    "SimulationResult",
    "StepProfile",
    "evaluate_grid",
    "load_npu",
    "load_shape",
    "profile_row",
    "profile_step",
    "read_table",
    "roofline_cycles",
    "roofline_position",
    "simulate",
    "stall_table",
    "window_rows",
    "write_tables",
    "write_timeline",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'hwsim' has no attribute '{name}'")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
