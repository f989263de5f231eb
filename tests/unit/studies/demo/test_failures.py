from __future__ import annotations

import pytest
import torch

from studies.demo.failures import first_line, kind_of_failure

CUDA_HELP = "\nSearch for `cudaError...' in the documentation of CUDA.\nCUDA kernel errors might be"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
            "memory",
        ),
        (torch.AcceleratorError("CUDA error: out of memory" + CUDA_HELP), "memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "memory"),
        (RuntimeError("Triton Error [CUDA]: out of memory"), "memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), "memory"),
        (MemoryError(), "memory"),
        (torch.AcceleratorError("CUDA error: unspecified launch failure" + CUDA_HELP), "device"),
        (torch.AcceleratorError("words of a library to come"), "device"),
        (RuntimeError("CUDA error: device-side assert triggered" + CUDA_HELP), "device"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"), "device"),
        (RuntimeError("CUDA driver error: device not ready"), "device"),
        (RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED at CUDACachingAllocator.cpp"), "device"),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), "device"),
        (RuntimeError("No CUDA GPUs are available"), "device"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x3 and 4x5)"), "mistake"),
        (ValueError("CUDA is a word of this message, and no device is lost"), "mistake"),
    ],
)
def test_what_torch_and_its_libraries_raise_is_told_apart(error, kind):
    assert kind_of_failure(error) == kind


def test_the_first_line_says_what_happened():
    assert first_line(RuntimeError("CUDA error: so\nand\nmore")) == "CUDA error: so"
    assert first_line(MemoryError()) == "MemoryError"
