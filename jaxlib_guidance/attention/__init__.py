"""Attention as a function whose edits are data."""
