"""Tasks: input, target, loss, and the baselines that errors are compared with."""
