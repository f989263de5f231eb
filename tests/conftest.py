"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# The models of the tests are tiny: a second thread costs more in waiting than it computes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if not Path("/dev/nvidiactl").exists():
    # Without a GPU kernels run in Triton's CPU interpreter. Its functions are defined for it or not when triton is
    # imported, which transformers does on its own.
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real models and text beside the checkout; a test that needs it is skipped without it."""
    folder = Path(os.environ.get("BITTAPER_SHARED", REPOSITORY.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip("real models and text (shared/data beside the checkout, or BITTAPER_SHARED) are missing")
    return folder
