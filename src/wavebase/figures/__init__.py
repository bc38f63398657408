"""Figures, drawn from records alone. No pyplot: nothing global, safe in any process."""

from wavebase.renamed import old_names

__getattr__ = old_names("figures")
