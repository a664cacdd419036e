"""Forecasts, repairs and synthetic series from one diffusion model of windows."""
