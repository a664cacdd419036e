"""Policy gradients as functions of arrays: no model, no environment, no trainer."""
