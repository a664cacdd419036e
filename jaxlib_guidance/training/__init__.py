"""Train state, train step, data parallelism and checkpoints."""
