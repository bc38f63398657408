"""Pure measurements of a net at one step: each probe takes a Snapshot and returns named floats."""
