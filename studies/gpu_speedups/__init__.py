"""The paper's GPU speed-ups: re-derived from its own kernel latencies, and re-made for a measured device."""
