"""Training: the loop, one net or a stack of nets, optimisers, interruption, worker processes."""
