"""Figures of simulation results, one a module; each function takes results or tables and returns a figure.

Nothing here writes a file: :func:`studies.common.style.save_figure` does, as PNG or SVG. Figures are made with
matplotlib's object interface, so that nothing stays open behind them and no display is needed.
"""
