"""The paper's accuracy results on small real models: phases, patterns, schedulers, baselines."""
