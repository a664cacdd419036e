"""Exact oracles and tiny networks, for our tests and for yours."""
