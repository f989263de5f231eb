"""Accuracy side: nested quantisation, PMPD decoding, tasks and evaluation."""
