"""Recurrences: cells in plain torch operations and their compiled equivalents."""
