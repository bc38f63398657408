"""Reports on a tree of runs."""

from wavebase.renamed import old_names

__getattr__ = old_names("report")
