"""The same training step in JAX: lax.scan under jit, and vmap for a stack. Optional: `pip install 'wavebase[bench]'`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

# one thread, as the others have; XLA reads its flags when jax is first imported
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
RATE = 1e-3


def load_jax() -> Any:
    """Import jax, on one thread of the CPU. Return None where it is not installed."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}"
    try:
        import jax
    except ImportError:
        return None
    return jax


def jax_net(
    jax: Any, batch: int, T: int, unroll: int, members: int = 1
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return the forward pass and the training step of one net of H = 7 T units, or of a stack of them.

    Args:
        jax: The module that `load_jax` returned.
        batch: Sequences of an update.
        T: Time steps of one input each.
        unroll: Of lax.scan: 1 for a loop, T for none.
        members: Nets of the stack, each with its own signal.
    """
    H, stack, jnp = 7 * T, (members,) if members > 1 else (), jax.numpy
    draw = np.random.default_rng(0)

    def uniform(*shape: int) -> Any:
        return jnp.asarray(draw.uniform(-(H**-0.5), H**-0.5, (*stack, *shape)), jnp.float32)

    net = {"ih": uniform(1, 4 * H), "hh": uniform(H, 4 * H), "bias": uniform(4 * H)}
    net |= {"readout": uniform(H, T), "readout_bias": uniform(T)}
    signal = jnp.asarray(draw.standard_normal((*stack, T, batch, 1)), jnp.float32)
    target = jnp.asarray(draw.standard_normal((*stack, batch, T)), jnp.float32)

    def last_hidden(net: Any, signal: Any) -> Any:
        def step(state: tuple[Any, Any], x: Any) -> tuple[tuple[Any, Any], None]:
            hidden, cell = state
            i, f, g, o = jnp.split(x @ net["ih"] + hidden @ net["hh"] + net["bias"], 4, axis=-1)
            cell = jax.nn.sigmoid(f) * cell + jnp.tanh(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(cell), cell), None

        zero = jnp.zeros((batch, H), jnp.float32)
        return jax.lax.scan(step, (zero, zero), signal, unroll=unroll)[0][0]

    def loss(net: Any, signal: Any, target: Any) -> Any:
        return jnp.mean((last_hidden(net, signal) @ net["readout"] + net["readout_bias"] - target) ** 2)

    def update(net: Any, signal: Any, target: Any) -> Any:
        gradient = jax.grad(loss)(net, signal, target)
        return jax.tree.map(lambda weight, slope: weight - RATE * slope, net, gradient)

    batched = jax.vmap if members > 1 else lambda function: function
    forward = jax.jit(batched(last_hidden))
    updated = jax.jit(batched(update), donate_argnums=0)
    held = {"net": net, "other": jax.tree.map(jnp.copy, net)}  # what a step is given is overwritten

    def train() -> None:
        held["net"] = jax.block_until_ready(updated(held["net"], signal, target))

    return lambda: jax.block_until_ready(forward(held["other"], signal)), train
