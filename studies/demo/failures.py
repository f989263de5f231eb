"""What an error in the middle of decoding means: too little memory, a device that is gone, or a mistake."""

from __future__ import annotations

from typing import Literal

Failure = Literal["memory", "device", "mistake"]

# torch raises its OutOfMemoryError only where its own allocator finds no room. What the driver, cuBLAS or the C++
# allocator of a CPU find comes as a RuntimeError, since torch 2.8 partly as an AcceleratorError.
_MEMORY_WORDS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory", "not enough memory")
# After these the context of the device is lost: every later call of this process fails too.
_DEVICE_WORDS = ("CUDA", "CUBLAS", "cuDNN", "NVML", "HIP error")


def kind_of_failure(error: Exception) -> Failure:
    """Tell from type and words what an error of torch, Triton or one of their libraries means.

    >>> kind_of_failure(RuntimeError("CUDA error: out of memory"))
    'memory'
    >>> kind_of_failure(RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"))
    'device'
    >>> kind_of_failure(ValueError("3 is no width"))
    'mistake'
    """
    import torch

    words = str(error)
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in words for word in _MEMORY_WORDS):
        return "memory"
    if isinstance(error, torch.AcceleratorError):
        return "device"
    return "device" if isinstance(error, RuntimeError) and any(word in words for word in _DEVICE_WORDS) else "mistake"


def first_line(error: Exception) -> str:
    """The first line of an error's words, or its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
