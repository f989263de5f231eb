"""How long, and in how much memory, a model larger than memory is quantised."""
