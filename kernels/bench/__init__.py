"""Measuring the kernels on a GPU: timing, device facts, the benchmark and its files.

Importing this package needs neither torch nor triton; its functions import what they use.
"""
