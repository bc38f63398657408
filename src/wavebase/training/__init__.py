"""Training: the loop, one net or a stack of nets, optimisers, interruption, worker processes."""

from wavebase.renamed import old_names

__getattr__ = old_names("training")
