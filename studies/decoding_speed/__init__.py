"""How fast prompts and schedules are decoded: batches, shared prefixes, caches, and what a batch changes."""
