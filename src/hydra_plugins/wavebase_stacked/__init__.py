"""`hydra/launcher=stacked`: a sweep's jobs trained as one program, several at a time."""
