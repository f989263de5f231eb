"""Rotary position embedding in the half-split convention of Hugging Face's checkpoints, in plain torch.

Column d of a head's first R columns is turned together with column d + R/2 (d < R/2) by the angle position * f_d;
columns from R on (partial rotary) stay. Angles lie in tables over positions, so that a kernel needs one row of them.

Source: Su et al., "RoFormer", arXiv:2104.09864; f_d = base**(-2d / R).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernels.errors import KernelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class RotaryTable:
    """Cosines and sines of every position.

    Attributes:
        cos: ``[positions, R / 2]`` float32.
        sin: The same of the sines.
    """

    cos: Tensor
    sin: Tensor

    @property
    def positions(self) -> int:
        """Number of positions."""
        return self.cos.shape[0]

    @property
    def rotary_dim(self) -> int:
        """R, columns of a head that are turned."""
        return 2 * self.cos.shape[1]

    @classmethod
    def from_frequencies(cls, frequencies: Tensor, positions: int, scale: float = 1.0) -> RotaryTable:
        """Make the tables.

        Args:
            frequencies: ``[R / 2]`` float32, radians per position (``inv_freq`` in transformers).
            positions: Number of positions.
            scale: Multiplies cosines and sines (``attention_scaling``, of YaRN).

        Raises:
            KernelError: If there is no position.
        """
        import torch

        if positions < 1:
            raise KernelError(f"positions = {positions}: must be >= 1")
        at = torch.arange(positions, dtype=torch.float32, device=frequencies.device)
        angles = at[:, None] * frequencies.float()[None, :]
        return cls((angles.cos() * scale).contiguous(), (angles.sin() * scale).contiguous())

    @classmethod
    def from_base(
        cls, rotary_dim: int, positions: int, base: float = 10000.0, device: torch.device | str = "cpu"
    ) -> RotaryTable:
        """The tables of the original embedding, without any scaling of positions."""
        import torch

        even = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device=device)
        return cls.from_frequencies(1.0 / base ** (even / max(rotary_dim, 1)), positions)

    def rows(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines ``[..., R / 2]`` of ``positions`` ``[...]`` int64, looked up on their device."""
        import torch

        cos, sin = (torch.nn.functional.embedding(positions, table) for table in (self.cos, self.sin))
        return cos, sin


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn heads.

    Args:
        x: ``[..., heads, head_dim]``.
        cos: ``[..., R / 2]`` float32, one row for all heads of a position.
        sin: The same of the sines.

    Returns:
        As ``x``, computed in float32 and rounded once to its dtype.
    """
    import torch

    half = cos.shape[-1]
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    first, second, rest = x[..., :half].float(), x[..., half : 2 * half].float(), x[..., 2 * half :]
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
    return torch.cat((turned.to(x.dtype), rest), -1)
