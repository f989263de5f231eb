"""Packed weight layout and kernels for nested (any-precision) weights.

Importing this package needs neither torch nor triton; its functions import what they use.
"""

from kernels.blocked import dequantize_blocks
from kernels.combine import interleave, stack
from kernels.dispatch import device_obstacle, linear, obstacle, swiglu_linear
from kernels.errors import KernelError
from kernels.layout import Grid, PackedWeight, SparsePart, pack, unpack
from kernels.naive import dequantize, matmul
from kernels.planes import pack_planes, unpack_planes
from kernels.uniform import pack_uniform

__all__ = [
    "Grid",
    "KernelError",
    "PackedWeight",
    "SparsePart",
    "dequantize",
    "dequantize_blocks",
    "device_obstacle",
    "interleave",
    "linear",
    "matmul",
    "obstacle",
    "pack",
    "pack_planes",
    "pack_uniform",
    "stack",
    "swiglu_linear",
    "unpack",
    "unpack_planes",
]
