"""Reading any recurrent net: named quantities of its weights and trajectories, each beside its null. No run, no model."""
