"""Does the net still compute its spectra in the way it was built to: with these oscillators, through these blocks?

Every probe reads the weights after `Snapshot.aligned` has taken unit permutations, swaps and signs out of them, works from
the outside (states are observed, exchanged or cut away), and is empty for a net whose start has no such blocks.
Letters: B batch, T window, F bins, H hidden units, k a bin, theta_k = 2 pi k / T.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from wavebase.constructions.construction import Construction
from wavebase.probes.snapshot import Snapshot
from wavebase.recurrence import lstm_sequence

State = tuple[Tensor, Tensor]


def observed_modes(snapshot: Snapshot) -> dict[str, float]:
    """The oscillators as the sum block sees them, not as W_g's raw eigenvalues, which include modes that nothing reads.

    The net runs on silence over two windows; what the input gates of a bin's two sum units receive from all hidden units is
    realised as a linear system (`realised_modes`), whose eigenvalues are the bin's modes: two, or one at DC and Nyquist.

    mechanism/mode_phase: largest T * | |arg lambda| - theta_k |, theta_k folded into [0, pi]: radians a window.
    mechanism/mode_modulus: largest T * | |lambda| - its value at the start |.
    Infinite where a bin's sum units receive nothing. Empty for a start without gen and sum.
    """
    construction = snapshot.construction
    if construction is None or not {"gen", "sum"} <= set(construction.blocks):
        return {}
    now = _bin_modes(construction.replace_weights(snapshot.aligned))
    start = _bin_modes(construction.replace_weights(snapshot.start))
    T, phase, modulus = construction.T, 0.0, 0.0
    for k, values, first in zip(construction.bins, now, start, strict=True):
        if not (len(values) and len(first)):
            return {"mechanism/mode_phase": math.inf, "mechanism/mode_modulus": math.inf}
        theta = 2 * math.pi * min(k, T - k) / T
        phase = max(phase, T * float(np.abs(np.abs(np.angle(values)) - theta).max()))
        apart = np.abs(np.abs(values)[:, None] - np.abs(first))
        modulus = max(modulus, T * float(apart.min(1).max()))
    return {"mechanism/mode_phase": phase, "mechanism/mode_modulus": modulus}


def realised_modes(series: np.ndarray, most: int, least: float = 0.0) -> np.ndarray:
    """Eigenvalues of the linear system that makes `series` [N, channels], by the eigensystem realisation algorithm.

    The block Hankel matrix of the series is cut to rank `most`, or to fewer where singular values are under the share
    `least` of the first; its column space, an observability matrix, is shifted by one step by the system's map (Juang and
    Pappa 1985). Empty for a series that is zero or not finite.
    """
    N, channels = series.shape
    if not np.isfinite(series).all() or not series.any():
        return np.empty(0, complex)
    rows = N // 2
    hankel = np.concatenate([series[i : i + N - rows].T / np.abs(series).max() for i in range(rows)])
    basis, sizes, _ = np.linalg.svd(hankel, full_matrices=False)
    basis = basis[:, : max(1, int((sizes[:most] > least * sizes[0]).sum()))]
    return np.linalg.eigvals(np.linalg.pinv(basis[:-channels]) @ basis[channels:])


def gain_products(snapshot: Snapshot) -> dict[str, float]:
    """mechanism/gain_product_{min,max}: (a s1 s2)^2 s3 s4 s5 / kappa of each bin, 1 where the bin's power has its scale.

    Each gain is the root mean square size of its 2 x 2 (or 1 x 2) block, which turning a quadrature pair leaves alone.
    Empty for a start without all four blocks, or with a sigmoid input gate (there products are pairs of units).
    """
    construction = snapshot.construction
    if construction is None or not {"gen", "sum", "prod", "spec"} <= set(construction.blocks):
        return {}
    if construction.input_gate != "tanh":
        return {}
    weights, blocks = snapshot.aligned, construction.blocks

    def size(name: str, to: slice, source: slice | None = None) -> float:
        part = weights[name].double()[to] if source is None else weights[name].double()[to, source]
        return (part.square().sum() / 2).sqrt().item()

    products, readout = [], construction.weights["readout.weight"].double().abs().max().item()
    for n in range(len(construction.bins)):
        gen, sum_, prod = (
            slice(blocks[name].start + 2 * n, blocks[name].start + 2 * n + 2) for name in ("gen", "sum", "prod")
        )
        spec = slice(blocks["spec"].start + n, blocks["spec"].start + n + 1)
        a = weights["hidden_0"].double()[gen].norm().item()
        amplitude = a * size("weight_hh_input", sum_, gen) * size("weight_ih_cell", sum_)
        squared = size("weight_hh_input", prod, sum_) * size("weight_hh_cell", prod, sum_)
        read = weights["readout.weight"].double()[n, spec].abs().item() / readout
        products.append(amplitude**2 * squared * size("weight_hh_cell", spec, prod) * read / construction.output_gain)
    return {"mechanism/gain_product_min": min(products), "mechanism/gain_product_max": max(products)}


def masked_error(snapshot: Snapshot) -> dict[str, float]:
    """mechanism/masked_error: the relative error on the training signal of the net without its recurrent weights outside the
    algorithm's mask. What the net has learnt to use out there is missed; what it has not is no loss."""
    construction = snapshot.construction
    if construction is None:
        return {}
    weights = dict(snapshot.aligned)
    for name, mask in construction.mask.items():
        weights[name] = weights[name] * mask.to(weights[name].device)
    signal, target = snapshot.held_out["training"]
    output = _outputs(construction.replace_weights(weights), signal)
    return {"mechanism/masked_error": snapshot.metrics(output, target)["relative_error"]}


def interchange(snapshot: Snapshot) -> dict[str, float]:
    """Exchange what a block holds between two runs: does the output become the other's, as the algorithm says?

    mechanism/interchange_sum, _prod: the block's state, set at the end of a window (one step later for prod) to that of a run
    on another signal, must give that signal's spectrum. mechanism/interchange_gen: each bin's sum units read the next
    bin's oscillator, and must give the next bin's power. Each is 1 - |given - wanted| / |unchanged - wanted| over the
    held-out training signals' first windows: 1 for the algorithm, 0 where the exchange does nothing, less where it harms.
    Outputs are compared with the net's own, so that its errors do not count here.
    """
    construction = snapshot.construction
    if construction is None:
        return {}
    T, blocks = construction.T, construction.blocks
    net = construction.replace_weights(snapshot.aligned)
    signal = snapshot.held_out["training"][0][:64, :T]
    unchanged = _outputs(net, signal)[:, 0]
    values = {}
    for name, step in (("sum", T), ("prod", T + 1)):
        if name in blocks:
            inputs = _flushed(net, signal)
            _, state = _advance(net, inputs[:, :step], _initial(net, len(signal)))
            for part in state:
                part[:, blocks[name]] = part[:, blocks[name]].roll(1, 0)
            _, (hidden, _) = _advance(net, inputs[:, step:], state)
            values[f"mechanism/interchange_{name}"] = _share(_read(net, hidden), unchanged, unchanged.roll(1, 0))
    F = len(construction.bins)
    if {"gen", "sum"} <= set(blocks) and F > 1:
        oscillators = slice(blocks["gen"].start, blocks["gen"].start + 2 * F)
        weight = net.weights["weight_hh_input"].clone()
        weight[blocks["sum"], oscillators] = weight[blocks["sum"], oscillators].roll(2, -1)
        given = _outputs(net.replace_weights({**net.weights, "weight_hh_input": weight}), signal)[:, 0]
        values["mechanism/interchange_gen"] = _share(given, unchanged, unchanged.roll(-1, -1))
    return values


def _share(given: Tensor, unchanged: Tensor, wanted: Tensor) -> float:
    apart = (unchanged - wanted).norm()
    return (1 - (given - wanted).norm() / apart).item() if apart > 0 else 0.0


def _bin_modes(net: Construction) -> list[np.ndarray]:
    """The modes of each bin's sum units; see `observed_modes`."""
    start = _initial(net, 1)
    states, _ = _advance(net, net.weights["hidden_0"].new_zeros(1, 2 * net.T, 1), start)
    states = torch.cat([start[0][:, None], states], 1)[0]  # from the state that every sequence starts with
    received = (states @ net.weights["weight_hh_input"][net.blocks["sum"]].mT).double().cpu().numpy()
    # at DC and Nyquist the sine is silent: a second mode there must be as strong as one that turns by the verdict's 0.05
    return [
        realised_modes(received[:, 2 * n : 2 * n + 2], 2, 0.05 if 2 * k % net.T == 0 else 1e-9)
        for n, k in enumerate(net.bins)
    ]


def _outputs(net: Construction, signal: Tensor) -> Tensor:
    """Outputs [B, windows, F] of the cell with the construction's weights, as the model computes them."""
    states, _ = _advance(net, _flushed(net, signal), _initial(net, len(signal)))
    return _read(net, states[:, net.T - 1 + net.latency :: net.T][:, : signal.shape[1] // net.T])


def _advance(net: Construction, inputs: Tensor, state: State) -> tuple[Tensor, State]:
    """Hidden states [B, steps, H] and the last (hidden, cell), from any state."""
    packed = net.packed()
    bias = packed["bias_ih_l0"] + packed["bias_hh_l0"]
    weights = packed["weight_ih_l0"], packed["weight_hh_l0"], bias
    states, hidden, cell = lstm_sequence(inputs, *state, *weights, input_gate=net.input_gate)
    return states, (hidden.clone(), cell.clone())


def _initial(net: Construction, batch: int) -> State:
    return net.weights["hidden_0"].expand(batch, -1), net.weights["cell_0"].expand(batch, -1)


def _flushed(net: Construction, signal: Tensor) -> Tensor:
    return torch.nn.functional.pad(signal.to(net.dtype), (0, net.latency)).unsqueeze(-1)


def _read(net: Construction, hidden: Tensor) -> Tensor:
    return hidden @ net.weights["readout.weight"].mT + net.weights["readout.bias"]
