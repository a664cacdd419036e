"""Terms that steer a sampler, and the planner that evaluates them together."""
