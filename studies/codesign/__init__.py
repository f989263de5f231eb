"""The main job: from a language model to a Pareto front of NPU and schedule, and a report."""
