"""Torch modules for one net each: forward only, no task, no training."""
