"""Decoding on a CPU: what cached and unpacked weights cost in time and memory."""
