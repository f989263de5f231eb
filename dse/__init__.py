"""Joint exploration of NPU and precision schedule."""
