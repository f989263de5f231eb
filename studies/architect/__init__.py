"""Studies for architects: one question each, answered for a model and an NPU by simulation."""
