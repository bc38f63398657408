"""Reports on a tree of runs."""
