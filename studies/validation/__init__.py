"""The simulator against what others published: one table of checks, with every fitted parameter."""
