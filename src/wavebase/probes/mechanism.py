"""Does the net still compute its spectra in the way it was built to: with these oscillators, through these blocks?

Every probe reads the weights after `Snapshot.aligned` has taken unit permutations, swaps and signs out of them, works from
the outside (states are observed, exchanged or cut away), and is empty for a net whose start has no such blocks. None
depends on the continuous moves of `constructions.symmetry` either: oscillators and sums are looked at in `bin_coordinates`.
Letters: B batch, T window, F bins, H hidden units, k a bin, theta_k = 2 pi k / T.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from wavebase.constructions.construction import WEIGHT_NAMES, Construction
from wavebase.probes.function import mean_error
from wavebase.probes.snapshot import Snapshot
from wavebase.recurrence.lstm import join_gates, lstm_sequence
from wavebase.registry import registered

State = tuple[Tensor, Tensor]
BLOCKS = {"gen", "sum", "prod", "spec"}


@registered
def oscillators(snapshot: Snapshot) -> dict[str, float]:
    """The oscillators as the sum block sees them, not as W_g's raw eigenvalues, which include modes that nothing reads.

    The net runs on silence over two windows; what a bin's two coordinates receive from all hidden units (`bin_coordinates`)
    is realised as a linear system (`realised_modes`), whose eigenvalues are the bin's modes: two, or one at DC and Nyquist.

    mechanism/mode_phase: largest T |lambda| | |arg lambda| - theta_k |, theta_k folded into [0, pi]: radians a window, less for
    a mode that is hardly there. _phase_bin, _modulus_bin: whose, where one is off by more than 1e-3.
    mechanism/mode_modulus: largest T * | |lambda| - the nearest of the algorithm's |.
    mechanism/gain_product_{min,max}: over bins, the mean square of what the two coordinates receive, over the scale of the
    output: (a s1 s2)^2 s3 s4 s5 / kappa, 1 where a bin's power has its scale.
    Infinite (products: 0) where a bin receives nothing. Empty for an algorithm without the four blocks.
    """
    construction = snapshot.construction
    if construction is None or not set(construction.blocks) >= BLOCKS:
        return {}
    T, worst = construction.T, {"phase": (0.0, -1), "modulus": (0.0, -1)}
    now, start = _received(construction.replace_weights(snapshot.aligned)), _received(construction)
    for k, series, first in zip(construction.bins, now, start, strict=True):
        # at DC and Nyquist the sine is silent: a second mode there must be as strong as one that turns by the verdict's 0.05
        least = 0.05 if 2 * k % T == 0 else 1e-9
        values, before = realised_modes(series, 2, least), realised_modes(first, 2, least)
        if not (len(values) and len(before)):
            worst = {"phase": (math.inf, k), "modulus": (math.inf, k)}
            break
        theta = 2 * math.pi * min(k, T - k) / T
        off = {
            "phase": (np.abs(values) * np.abs(np.abs(np.angle(values)) - theta)).max(),
            "modulus": np.abs(np.abs(values)[:, None] - np.abs(before)).min(1).max(),
        }
        for name, error in off.items():
            if T * float(error) > worst[name][0] * (1 + 1e-6):  # of equal ones the first, whatever rounding says
                worst[name] = (T * float(error), k)
    products = [float(np.square(series).sum(1).mean()) / construction.scale for series in now]
    return {
        **{f"mechanism/mode_{name}": error for name, (error, _) in worst.items()},
        **{f"mechanism/mode_{name}_bin": float(k) for name, (error, k) in worst.items() if error > 1e-3},
        "mechanism/gain_product_min": min(products),
        "mechanism/gain_product_max": max(products),
    }


def bin_coordinates(net: Construction) -> tuple[Tensor, Tensor]:
    """(of_sum [F, 2, n], received [F, 2, H]): a bin's Re and Im as linear functions of the n sum units, and what they take in
    a step, for each unit of input, from the hidden state.

    In the linear regime output k is a quadratic form of the sum block, sum_j A[k, j] (W_i[j] s) (W_g[j] s) over prod units j,
    A the path through spec to the readout. Its two largest eigenvectors, by the root of their eigenvalues, are coordinates in
    which it is re^2 + im^2, whatever was done to gen, sum and prod. The form leaves them an orthogonal map of the plane,
    which eigenvectors of two nearly equal values take at random; the start of a window fixes it (`_upright`).
    """
    w = {name: weight.double() for name, weight in net.weights.items()}
    sum_, prod, spec = (net.blocks[name] for name in ("sum", "prod", "spec"))
    slope = 1.0 if net.input_gate == "tanh" else 0.25  # of the input gate at 0
    path = w["readout.weight"][:, spec] @ w["weight_hh_cell"][spec, prod]
    first, second = (w[f"weight_hh_{gate}"][prod, sum_] for gate in ("input", "cell"))
    form = slope * torch.einsum("kj,ja,jb->kab", path, first, second)
    if not form.isfinite().all():
        form = torch.zeros_like(form)  # a net that overflows has no coordinates: nothing is received in them
    value, vectors = torch.linalg.eigh(form + form.mT)
    size, top = value.abs().topk(2, -1)
    # a value that is zero to rounding has an arbitrary vector, and must not come in by a root of 1e-8
    size = torch.where(size > value.shape[-1] * torch.finfo(size.dtype).eps * size[:, :1], size, 0)
    axes = vectors.gather(2, top[:, None].expand(-1, len(form[0]), -1)).mT
    of_sum = (size / 2).sqrt()[..., None] * axes
    taken = slope * w["weight_ih_cell"][sum_] * w["weight_hh_input"][sum_]
    received = of_sum @ taken
    upright = _upright(received @ _silent_states(net).mT, net)
    return upright @ of_sum, upright @ received


def _upright(series: Tensor, net: Construction) -> Tensor:
    """The orthogonal maps [F, 2, 2] after which what a bin's plane receives on silence turns as in the construction, like
    (cos, -sin)(theta_k t): clockwise, and along the first axis at a window's start.

    series: [F, 2, steps]. The sense is the sign of the signed area swept, earlier steps counting more, since over whole
    periods the area of a small leak cancels; the phase is that of the Fourier coefficient at theta_k. A plane that receives
    nothing is left alone; where what it receives lies on a line (DC and Nyquist), its normal has no sign, and needs none.
    """
    steps = torch.arange(series.shape[-1], dtype=series.dtype, device=series.device)
    x, y = series.nan_to_num().unbind(1)
    area = x[:, :-1] * y[:, 1:] - y[:, :-1] * x[:, 1:]
    flip = torch.where(area @ 0.5 ** steps[:-1] > 0, -1.0, 1.0)
    bins = torch.tensor([min(k, net.T - k) for k in net.bins], dtype=series.dtype, device=series.device)
    turning = 2 * math.pi * (bins[:, None] * steps).remainder(net.T) / net.T
    phase = (torch.complex(x, flip[:, None] * y) * torch.polar(torch.ones_like(turning), turning)).sum(-1).angle()
    cos, sin = phase.cos(), phase.sin()
    return torch.stack([torch.stack([cos, flip * sin], -1), torch.stack([-sin, flip * cos], -1)], -2)


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


@registered
def masked_error(snapshot: Snapshot) -> dict[str, float]:
    """mechanism/masked_error: the relative error on the training signal of the net without the recurrent weights between blocks
    that the algorithm does not connect (through this gate), less its mean in each bin. What the net has learnt to use there
    is missed; what it has not is no loss. Within a connected pair of blocks all weights stay: symmetries mix them.
    """
    construction = snapshot.construction
    if construction is None:
        return {}
    weights = dict(snapshot.aligned)
    blocks = construction.blocks.values()
    for name, mask in construction.mask.items():
        weights[name] = weights[name].clone()
        for to in blocks:
            for source in blocks:
                if not mask[to, source].any():
                    weights[name][to, source] = 0
    signal, target = snapshot.held_out["training"]
    output = outputs(construction.replace_weights(weights), signal)
    return {"mechanism/masked_error": snapshot.metrics(output - mean_error(snapshot, output), target)["relative_error"]}


@registered
def interchange(snapshot: Snapshot) -> dict[str, float]:
    """Exchange what a block holds between two runs: does the output become the other's, as the algorithm says?

    mechanism/interchange_sum, _prod: the block's state, set at the end of a window (one step later for prod) to that of a run
    on another signal, must give that signal's spectrum. mechanism/interchange_gen: each bin's coordinates take in what the
    next bin's do, and must give the next bin's power. Each is 1 - |given - wanted| / |unchanged - wanted| over the
    held-out training signals' first windows: 1 for the algorithm, 0 where the exchange does nothing, less where it harms.
    Outputs are compared with the net's own, so that its errors do not count here; of the bins that is the part that is even in
    the signal, less the output on silence: a bin's constant offset stays with its readout.
    """
    construction = snapshot.construction
    if construction is None:
        return {}
    T, blocks = construction.T, construction.blocks
    net = construction.replace_weights(snapshot.aligned)
    signal = snapshot.held_out["training"][0][:64, :T]
    unchanged = outputs(net, signal)[:, 0]
    values: dict[str, float] = {}
    for name, step in (("sum", T), ("prod", T + 1)):
        if name in blocks:
            inputs = _flushed(net, signal)
            _, state = _advance(net, inputs[:, :step], _initial(net, len(signal)))
            for part in state:
                part[:, blocks[name]] = part[:, blocks[name]].roll(1, 0)
            _, (hidden, _) = _advance(net, inputs[:, step:], state)
            values |= _share(name, _read(net, hidden), unchanged, unchanged.roll(1, 0))
    if set(blocks) >= BLOCKS and len(construction.bins) > 1:
        of_sum, received = bin_coordinates(net)
        back = torch.linalg.pinv(of_sum.flatten(0, 1)) @ (received.roll(-1, 0) - received).flatten(0, 1)
        slope = 1.0 if net.input_gate == "tanh" else 0.25
        weight = net.weights["weight_hh_input"].clone()
        drive = slope * net.weights["weight_ih_cell"][blocks["sum"]].double()
        change = torch.where(drive == 0, 0, back / drive)  # a unit that reads no input takes in nothing
        oscillating = blocks["gen"]
        weight[blocks["sum"], oscillating] += change[:, oscillating].to(weight)
        exchanged = net.replace_weights({**net.weights, "weight_hh_input": weight})
        given, own = (_even(one, signal) for one in (exchanged, net))
        values |= _share("gen", given, own, own.roll(-1, -1))
    return values


def _even(net: Construction, signal: Tensor) -> Tensor:
    """Of outputs on single windows what is even in the signal, less that on silence: [B, F]."""
    every = outputs(net, torch.cat([signal, -signal, torch.zeros_like(signal[:1])]))[:, 0]
    return (every[: len(signal)] + every[len(signal) : -1]) / 2 - every[-1]


def _share(name: str, given: Tensor, unchanged: Tensor, wanted: Tensor) -> dict[str, float]:
    """How much of the way from unchanged to wanted was gone; nothing where all signals have one spectrum (a steady tone)."""
    apart = (unchanged - wanted).norm()
    if apart <= 1e-9 * unchanged.norm() and unchanged.any():
        return {}
    share = (1 - (given - wanted).norm() / apart).item() if apart > 0 else 0.0
    return {f"mechanism/interchange_{name}": share}


def _received(net: Construction) -> np.ndarray:
    """What each bin's coordinates receive at every step of two silent windows, per unit of input: [F, 2T + 1, 2]."""
    return (_silent_states(net) @ bin_coordinates(net)[1].mT).cpu().numpy()


def _silent_states(net: Construction) -> Tensor:
    """Hidden states [2T + 1, H], float64, of two windows of silence, from the one that every sequence starts with."""
    start = _initial(net, 1)
    states, _ = _advance(net, net.weights["hidden_0"].new_zeros(1, 2 * net.T, 1), start)
    return torch.cat([start[0][:, None], states], 1)[0].double()


def outputs(net: Construction, signal: Tensor) -> Tensor:
    """Outputs [B, windows, F] of the cell with the construction's weights, as the model computes them."""
    states, _ = _advance(net, _flushed(net, signal), _initial(net, len(signal)))
    return _read(net, states[:, net.T - 1 + net.latency :: net.T][:, : signal.shape[1] // net.T])


def _advance(net: Construction, inputs: Tensor, state: State) -> tuple[Tensor, State]:
    """Hidden states [B, steps, H] and the last (hidden, cell), from any state."""
    w_ih, w_hh, bias = join_gates([net.weights[name] for name in WEIGHT_NAMES])
    states, hidden, cell = lstm_sequence(inputs, *state, w_ih, w_hh, bias, net.input_gate)
    return states, (hidden.clone(), cell.clone())


def _initial(net: Construction, batch: int) -> State:
    return net.weights["hidden_0"].expand(batch, -1), net.weights["cell_0"].expand(batch, -1)


def _flushed(net: Construction, signal: Tensor) -> Tensor:
    return torch.nn.functional.pad(signal.to(net.dtype), (0, net.latency)).unsqueeze(-1)


def _read(net: Construction, hidden: Tensor) -> Tensor:
    return hidden @ net.weights["readout.weight"].mT + net.weights["readout.bias"]
