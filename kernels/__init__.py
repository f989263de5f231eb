"""Packed weight layout and kernels for nested (any-precision) weights."""
