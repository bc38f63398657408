"""Compiled parts, each with a plain equivalent: `build` makes the library, `lstm` calls it; `triton_lstm` is for CUDA."""
