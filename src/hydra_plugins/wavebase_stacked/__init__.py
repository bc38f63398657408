"""`hydra/launcher=stacked`: a sweep's jobs trained in stacks, several at a time."""
