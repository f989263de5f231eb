"""NPU simulator: cycles, bytes and energy of an LLM under a per-token precision trace."""
