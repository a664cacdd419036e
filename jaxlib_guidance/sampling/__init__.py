"""Solvers, the sampling loop, inversion and recurrence."""
