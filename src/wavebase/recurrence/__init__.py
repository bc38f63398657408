"""Recurrences: cells in plain torch operations and their compiled equivalents."""

from wavebase.renamed import old_names

__getattr__ = old_names("recurrence")
