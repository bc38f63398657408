"""Figures, drawn from records alone. No pyplot: nothing global, safe in any process."""
