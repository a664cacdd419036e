"""Steer diffusion models with pure JAX functions."""
