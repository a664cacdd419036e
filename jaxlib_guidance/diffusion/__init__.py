"""Noise processes, predictions, denoisers, time grids and training losses."""
