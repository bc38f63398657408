"""Run folders: the only code that reads or writes them."""

from wavebase.renamed import old_names

__getattr__ = old_names("records")
