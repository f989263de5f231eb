"""Perplexity, greedy fidelity and bytes of quantised models, method by method and bit by bit."""
