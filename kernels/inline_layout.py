"""Whether inline PTX decodes what it should: a question to the compiler, which no interpreter can answer.

Inline assembly that takes several elements at a time gets those that follow each other in a thread's registers, in
whatever layout the compiler chose. The decoders need four neighbouring bytes of a row. Where a compiler lays planes out
otherwise, as another version of Triton may, a kernel would give wrong numbers; so every kernel that decodes is looked
at once after it was compiled, and refused if it would.
"""

from __future__ import annotations

import re
from typing import Any

from kernels.errors import KernelError

_sound: set[str] = set()


def refuse_scattered(compiled: Any) -> None:
    """Look at a kernel that was just launched, the first time it is.

    Args:
        compiled: What launching a Triton function returns; None from the interpreter, which runs no inline PTX.

    Raises:
        KernelError: If its inline assembly gets scattered elements, or its layouts cannot be read. What it wrote is
            then wrong.
    """
    if compiled is None or compiled.hash in _sound:
        return
    text = compiled.asm.get("ttgir")
    scattered = ["unknown"] if text is None else scattered_packs(text)
    if scattered:
        import triton

        raise KernelError(
            f"triton {triton.__version__} gives {compiled.name} bytes in an order its decoder does not take "
            f"(layout {scattered[0]}); use triton 3.6, or dequantise the weight"
        )
    _sound.add(compiled.hash)


def scattered_packs(ttgir: str) -> list[str]:
    """Layouts in which inline assembly with packed elements gets others than neighbours in a row.

    Args:
        ttgir: A kernel in Triton's GPU dialect, its layouts named at the top.
    """
    named = dict(re.findall(r"^(#\w+) = (#ttg\..*)$", ttgir, re.MULTILINE))
    found: list[str] = []
    for line in ttgir.splitlines():
        pack = re.search(r"tt\.elementwise_inline_asm .*packed_element = (\d+)", line)
        if not pack or int(pack[1]) == 1:
            continue
        layout = re.search(r" : tensor<[0-9x]+i8, (#ttg\.dot_op<\{.*?\}>|#\w+)", line)
        name = str(layout[1]) if layout else line
        text = str(named.get(name, name))
        if not _neighbours(text, int(pack[1])):
            found.append(text)
    return found


def _neighbours(layout: str, count: int) -> bool:
    """Whether ``count`` registers of a thread, from a multiple of it on, hold neighbours in a row."""
    if layout.startswith("#ttg.dot_op"):
        # The first operand of a product: kWidth neighbours along K.
        width = re.search(r"opIdx = 0\b.*kWidth = (\d+)", layout)
        return width is not None and int(width[1]) % count == 0
    run = re.search(r"#ttg\.blocked<\{sizePerThread = \[\d+, (\d+)\].*order = \[1, 0\]", layout)
    return run is not None and int(run[1]) % count == 0
