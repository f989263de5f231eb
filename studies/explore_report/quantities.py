"""How the quantities of an exploration are written: unit, scale and digits, the same in tables and figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dse import Constraint


@dataclass(frozen=True)
class Quantity:
    """A quantity in the unit people use.

    Attributes:
        name: Its name with that unit, for a heading or an axis.
        factor: From the metric's own unit.
    """

    name: str
    factor: float = 1.0


_KNOWN = {
    "decode_tokens_per_s": Quantity("decode tokens/s"),
    "ttft_s": Quantity("TTFT (ms)", 1e3),
    "tpot_s": Quantity("TPOT (ms)", 1e3),
    "e2e_s": Quantity("end to end (s)"),
    "energy_j_per_token": Quantity("energy (mJ/token)", 1e3),
    "dram_bytes_per_token": Quantity("DRAM traffic (MB/token)", 1e-6),
    "area_mm2": Quantity("area (mm²)"),
    "bandwidth_bytes_per_s": Quantity("bandwidth (GB/s)", 1e-9),
    "mean_decode_bits": Quantity("mean decode bits"),
    "quality": Quantity("quality"),
    "relative_quality": Quantity("relative quality"),
    "quality_ci_low": Quantity("quality, 95% low"),
    "relative_quality_ci_low": Quantity("relative quality, 95% low"),
    "quality_ci_high": Quantity("quality, 95% high"),
    "relative_quality_ci_high": Quantity("relative quality, 95% high"),
}


def quantity(name: str) -> Quantity:
    """A metric or parameter as it is written.

    >>> quantity("memory.bandwidth_bytes_per_s")
    Quantity(name='memory.bandwidth (GB/s)', factor=1e-09)
    """
    if name in _KNOWN:
        return _KNOWN[name]
    if name.endswith("_bytes_per_s"):
        return Quantity(f"{name.removesuffix('_bytes_per_s')} (GB/s)", 1e-9)
    return Quantity(name)


def cell(name: str, value: Any) -> str:
    """A value of ``name`` as a table shows it; what does not act is ``off``.

    >>> cell("bandwidth_bytes_per_s", 32e9), cell("matrix.macs", 4096), cell("sfu.lanes", float("nan"))
    ('32', '4,096', 'off')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "off"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    scaled = value * quantity(name).factor
    if scaled == round(scaled) and abs(scaled) < 1e15:
        return f"{scaled:,.0f}"
    return f"{scaled:,.0f}" if abs(scaled) >= 1000 else f"{scaled:.4g}"


def limit_text(limit: Constraint) -> str:
    """Operator and bound of a limit, in the unit that its quantity is shown in: ``≥ 0.98``."""
    return f"{'≥' if limit.op == '>=' else '≤'} {limit.limit * quantity(limit.name).factor:.4g}"


def share(value: float) -> str:
    """A share as percent with two or three digits.

    >>> share(0.0123), share(float("nan"))
    ('1.2%', 'n/a')
    """
    return "n/a" if math.isnan(value) else f"{100 * value:.2g}%" if abs(value) < 0.995 else f"{100 * value:.0f}%"
