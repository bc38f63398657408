"""Does the net still compute its spectra as it was built to, with these oscillators and through these blocks?

Every probe reads the weights as `Snapshot.aligned` gives them, without unit permutations, swaps and signs; it observes,
exchanges or removes states; it is empty for a net whose start has no such blocks. No probe depends on the continuous moves
of `constructions.symmetry` either, because oscillators and sums are read in `bin_coordinates`.
Letters: B batch, T window, F bins, H hidden units, k a bin, theta_k = 2 pi k / T.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from wavebase.constructions.construction import WEIGHT_NAMES, Construction
from wavebase.probes.function import mean_error
from wavebase.probes.norms import norm
from wavebase.probes.snapshot import Snapshot
from wavebase.recurrence.lstm import join_gates, lstm_sequence
from wavebase.registry import registered

State = tuple[Tensor, Tensor]
Found = TypeVar("Found")
BLOCKS = {"gen", "sum", "prod", "spec"}


@registered
def oscillators(snapshot: Snapshot) -> dict[str, float]:
    """Measure the oscillators as the sum block receives them; W_g's raw eigenvalues include modes that nothing reads.

    The net runs on silence over two windows. What a bin's two coordinates receive from all hidden units
    (`bin_coordinates`) is realised as a linear system (`realised_modes`), whose eigenvalues lambda are the bin's modes:
    two, or one at DC and Nyquist.

    Returns:
        mechanism/mode_phase: the largest T |lambda| | |arg lambda| - theta_k | in radians a window, theta_k folded into
        [0, pi]; a weak mode counts less. mechanism/mode_modulus: the largest T | |lambda| - the nearest of the
        algorithm's |. _phase_bin and _modulus_bin name the bins where one is over 1e-3.
        mechanism/gain_product_{min,max}: over bins, the mean square of what the coordinates receive, over the output's
        scale: (a s1 s2)^2 s3 s4 s5 / kappa, 1 where a bin's power has its scale.
        Where a bin receives nothing, errors are infinite and products 0. Empty without the four blocks.
    """
    construction, net = snapshot.construction, snapshot.aligned_net
    if construction is None or net is None or not set(construction.blocks) >= BLOCKS:
        return {}
    T, worst = construction.T, {"phase": (0.0, -1), "modulus": (0.0, -1)}
    for k, values, before in zip(construction.bins, _modes(net), _modes(construction), strict=True):
        if not (len(values) and len(before)):
            worst = {"phase": (math.inf, k), "modulus": (math.inf, k)}
            break
        theta = 2 * math.pi * min(k, T - k) / T
        off = {
            "phase": (np.abs(values) * np.abs(np.abs(np.angle(values)) - theta)).max(),
            "modulus": np.abs(np.abs(values)[:, None] - np.abs(before)).min(1).max(),
        }
        for name, error in off.items():
            if T * float(error) > worst[name][0] * (1 + 1e-6):  # among equals the first, whatever the rounding
                worst[name] = (T * float(error), k)
    products = [float(np.square(series).sum(1).mean()) / construction.scale for series in _received(net)]
    return {
        **{f"mechanism/mode_{name}": error for name, (error, _) in worst.items()},
        **{f"mechanism/mode_{name}_bin": float(k) for name, (error, k) in worst.items() if error > 1e-3},
        "mechanism/gain_product_min": min(products),
        "mechanism/gain_product_max": max(products),
    }


def _once(function: Callable[[Construction], Found]) -> Callable[[Construction], Found]:
    """Remember what a function returns for each net object, whose weights do not change: several probes ask for it, and at
    every step they ask for the start's again.
    """
    known: dict[int, tuple[weakref.ref[Construction], Found]] = {}

    @wraps(function)
    def found(net: Construction) -> Found:
        key = id(net)
        if key not in known or known[key][0]() is not net:
            known[key] = weakref.ref(net, lambda _: known.pop(key, None)), function(net)
        return known[key][1]

    return found


@_once
def bin_coordinates(net: Construction) -> tuple[Tensor, Tensor]:
    """Find each bin's Re and Im as linear functions of the n sum units.

    In the linear regime output k is a quadratic form of the sum block, sum_j A[k, j] (W_i[j] s) (W_g[j] s) over prod
    units j, with A the path through spec to the readout. Its two largest eigenvectors, times the roots of their
    eigenvalues, are coordinates in which it is re^2 + im^2, whatever was done to gen, sum and prod. The form determines
    them up to an orthogonal map of the plane, which the start of a window fixes (`_upright`).

    Returns:
        of_sum [F, 2, n]: the coordinates. received [F, 2, H]: what they receive from the hidden state in a step, per
        unit of input.
    """
    w = {name: weight.double() for name, weight in net.weights.items()}
    sum_, prod, spec = (net.blocks[name] for name in ("sum", "prod", "spec"))
    slope = 1.0 if net.input_gate == "tanh" else 0.25  # of the input gate at 0
    path = w["readout.weight"][:, spec] @ w["weight_hh_cell"][spec, prod]
    first, second = (w[f"weight_hh_{gate}"][prod, sum_] for gate in ("input", "cell"))
    form = slope * torch.einsum("kj,ja,jb->kab", path, first, second)
    if not form.isfinite().all():
        form = torch.zeros_like(form)  # a net that overflows has no coordinates and receives nothing
    value, vectors = torch.linalg.eigh(form + form.mT)
    size, top = value.abs().topk(2, -1)
    # an eigenvalue that is zero to rounding has an arbitrary vector, and its root would be 1e-8
    size = torch.where(size > value.shape[-1] * torch.finfo(size.dtype).eps * size[:, :1], size, 0)
    axes = vectors.gather(2, top[:, None].expand(-1, len(form[0]), -1)).mT
    of_sum = (size / 2).sqrt()[..., None] * axes
    taken = slope * w["weight_ih_cell"][sum_] * w["weight_hh_input"][sum_]
    received = of_sum @ taken
    upright = _upright(received @ _silent_states(net).mT, net)
    return upright @ of_sum, upright @ received


def _upright(series: Tensor, net: Construction) -> Tensor:
    """Find the maps after which what a plane receives on silence turns like (cos, -sin)(theta_k t), as constructed.

    Args:
        series: What each bin's plane receives, [F, 2, steps].
        net: Gives T and the bins.

    Returns:
        Orthogonal maps [F, 2, 2]. The sense of turning is the sign of the area swept, in which earlier steps count more,
        since over whole periods the area of a small leak cancels; the phase is that of the Fourier coefficient at
        theta_k. A plane that receives nothing is not turned. What it receives at DC and Nyquist lies on a line, whose
        normal needs no sign.
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


@_once
def _modes(net: Construction) -> list[np.ndarray]:
    """Return the modes of each bin's oscillator, as its coordinates receive it."""
    # at DC and Nyquist the sine is silent: a second mode must be as strong as one that turns by the verdict's 0.05
    least = [0.05 if 2 * k % net.T == 0 else 1e-9 for k in net.bins]
    return [realised_modes(series, 2, size) for series, size in zip(_received(net), least, strict=True)]


def realised_modes(series: np.ndarray, most: int, least: float = 0.0) -> np.ndarray:
    """Find the eigenvalues of the linear system that generates a series (eigensystem realisation, Juang and Pappa 1985).

    The column space of the series' block Hankel matrix is an observability matrix, which the system's map shifts by one
    step.

    Args:
        series: [N, channels].
        most: Rank of the system.
        least: Singular values below this fraction of the first are left out.

    Returns:
        At most `most` complex numbers; none for a series that is zero or not finite.
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
    """Measure mechanism/masked_error: the relative error without weights between blocks that the algorithm does not connect.

    It is taken on the training signal, less its mean in each bin, and grows if the net has learnt to use such weights.
    Blocks are connected or not for each gate. Within a connected pair all weights stay, because symmetries mix them.
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
    """Exchange the states of a block between two runs and measure how far the output becomes the other run's.

    Each value is 1 - |given - wanted| / |unchanged - wanted| over the first windows of the held-out training signals: 1
    for the algorithm, 0 where the exchange changes nothing, negative where it harms. Wanted outputs are the net's own, so
    that its errors do not count.

    Returns:
        mechanism/interchange_sum, mechanism/interchange_prod: the block's state at the end of a window (for prod one
        step later) is set to that of a run on another signal, and must give that signal's spectrum.
        mechanism/interchange_gen: each bin's coordinates receive what the next bin's do, and must give the next bin's
        power. Outputs are compared in the part that is even in the signal, less the output on silence, because a bin's
        constant offset stays with its readout.
    """
    construction, net = snapshot.construction, snapshot.aligned_net
    if construction is None or net is None:
        return {}
    T, blocks = construction.T, construction.blocks
    signal = snapshot.held_out["training"][0][:64, :T]
    inputs, step, state = _flushed(net, signal), 0, _initial(net, len(signal))
    _, (last, _) = _advance(net, inputs, state)
    unchanged = _read(net, last)
    values: dict[str, float] = {}
    for name, end in (("sum", T), ("prod", T + 1)):
        if name in blocks:
            _, state = _advance(net, inputs[:, step:end], state)
            step, mixed = end, (state[0].clone(), state[1].clone())
            for part in mixed:
                part[:, blocks[name]] = part[:, blocks[name]].roll(1, 0)
            _, (hidden, _) = _advance(net, inputs[:, step:], mixed)
            values |= _interchange_value(name, _read(net, hidden), unchanged, unchanged.roll(1, 0))
    if set(blocks) >= BLOCKS and len(net.bins) > 1:
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
        values |= _interchange_value("gen", given, own, own.roll(-1, -1))
    return values


def _even(net: Construction, signal: Tensor) -> Tensor:
    """Return the part of single windows' outputs that is even in the signal, less the output on silence: [B, F]."""
    every = outputs(net, torch.cat([signal, -signal, torch.zeros_like(signal[:1])]))[:, 0]
    return (every[: len(signal)] + every[len(signal) : -1]) / 2 - every[-1]


def _interchange_value(name: str, given: Tensor, unchanged: Tensor, wanted: Tensor) -> dict[str, float]:
    """Return the fraction of the way from unchanged to wanted; nothing where all signals have one spectrum."""
    apart = norm(unchanged - wanted)
    if apart <= 1e-9 * norm(unchanged) and unchanged.any():
        return {}
    value = (1 - norm(given - wanted) / apart).item() if apart > 0 else 0.0
    return {f"mechanism/interchange_{name}": value}


@_once
def _received(net: Construction) -> np.ndarray:
    """Return what each bin's coordinates receive in two silent windows, per unit of input: [F, 2T + 1, 2]."""
    return (_silent_states(net) @ bin_coordinates(net)[1].mT).cpu().numpy()


@_once
def _silent_states(net: Construction) -> Tensor:
    """Return the hidden states of two silent windows, the initial one first: [2T + 1, H], float64."""
    start = _initial(net, 1)
    states, _ = _advance(net, net.weights["hidden_0"].new_zeros(1, 2 * net.T, 1), start)
    return torch.cat([start[0][:, None], states], 1)[0].double()


def outputs(net: Construction, signal: Tensor) -> Tensor:
    """Compute the outputs [B, windows, F] of the cell with the construction's weights."""
    states, _ = _advance(net, _flushed(net, signal), _initial(net, len(signal)))
    return _read(net, states[:, net.T - 1 + net.latency :: net.T][:, : signal.shape[1] // net.T])


def _advance(net: Construction, inputs: Tensor, state: State) -> tuple[Tensor, State]:
    """Run from any state; return the hidden states [B, steps, H] and the last (hidden, cell)."""
    w_ih, w_hh, bias = join_gates([net.weights[name] for name in WEIGHT_NAMES])
    states, hidden, cell = lstm_sequence(inputs, *state, w_ih, w_hh, bias, net.input_gate)
    return states, (hidden.clone(), cell.clone())


def _initial(net: Construction, batch: int) -> State:
    return net.weights["hidden_0"].expand(batch, -1), net.weights["cell_0"].expand(batch, -1)


def _flushed(net: Construction, signal: Tensor) -> Tensor:
    return torch.nn.functional.pad(signal.to(net.dtype), (0, net.latency)).unsqueeze(-1)


def _read(net: Construction, hidden: Tensor) -> Tensor:
    return hidden @ net.weights["readout.weight"].mT + net.weights["readout.bias"]
