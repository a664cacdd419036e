"""Reward for diffusion models: a sampler's steps, or its estimates, under a loss."""
