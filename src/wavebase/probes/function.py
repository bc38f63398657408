"""Does the net still compute what it is asked, on the training signal and away from it?"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.linalg import subspace_angles
from torch import Tensor

from wavebase.probes.snapshot import Snapshot
from wavebase.registry import registered

SAME = (
    1e-6  # share of the zero predictor's loss under which the mean predictor's says only that all targets are the same
)
MOST_SAMPLES = 32  # longest window whose forms are recovered whole: T (T + 1) / 2 signals


@registered
def held_out_error(snapshot: Snapshot) -> dict[str, float]:
    """error/<probe signal>, the relative error of each held-out set; its worst window on the training signal; the loss
    there, plain and relative to that of the mean predictor (1 is no better than predicting the mean). Where all targets are
    nearly the same (a steady tone), so that the mean predicts them too, relative to that of predicting zero."""
    values: dict[str, float] = {}
    for name, (signal, target) in snapshot.held_out.items():
        output = snapshot.predict(signal)
        metrics = snapshot.metrics(output, target)
        values[f"error/{name}"] = metrics["relative_error"]
        if name == "training":
            loss = snapshot.loss(output, target).item()
            values |= {f"task/{metric}": value for metric, value in metrics.items()}
            values |= {"loss/held_out": loss, "loss/relative": loss / reference_loss(snapshot)}
    return values


@registered
def centred_error(snapshot: Snapshot) -> dict[str, float]:
    """How far the net is from its function when a constant is taken from each bin: its mean error on the training signal.

    The sharpest directions of an exact net shift one bin's output by a constant, which the readout's bias undoes: a
    displacement of a thousandth costs a digit of precision and says nothing about how the power is computed.

    centred/loss: the training signal's loss relative to that of the mean predictor, 1 for any constant output.
    centred/<probe signal>: the relative error. Where all targets are nearly the same nothing is taken away, for a constant is
    all there is. Empty for a net that is held against no algorithm for power spectra.
    """
    if "spec" not in snapshot.blocks:
        return {}
    constant = mean_error(snapshot, snapshot.predict(snapshot.held_out["training"][0]))
    values: dict[str, float] = {}
    for name, (signal, target) in snapshot.held_out.items():
        output = snapshot.predict(signal) - constant
        values[f"centred/{name}"] = snapshot.metrics(output, target)["relative_error"]
        if name == "training":
            values["centred/loss"] = snapshot.loss(output, target).item() / reference_loss(snapshot)
    return values


def reference_loss(snapshot: Snapshot) -> float:
    """The held-out training signal's loss of the mean predictor, or of the zero predictor where all targets are nearly the same."""
    mean, zero = (snapshot.baselines.get(name, 0.0) for name in ("mean", "zero"))
    return mean if mean > SAME * zero else zero


def mean_error(snapshot: Snapshot, output: Tensor) -> Tensor:
    """Mean over sequences and windows of an output's error on the held-out training signal: [sequences, windows, bins] to [bins].

    Zero where all targets are nearly the same.
    """
    target = snapshot.held_out["training"][1]
    error = (output - target).mean((0, 1))
    return error if snapshot.baselines["mean"] > SAME * snapshot.baselines["zero"] else torch.zeros_like(error)


@registered
def held_out_metrics(snapshot: Snapshot) -> dict[str, float]:
    """<metric>/<probe signal>: every metric of the task on every held-out set, but the relative error, which is
    `held_out_error`'s."""
    values: dict[str, float] = {}
    for name, (signal, target) in snapshot.held_out.items():
        metrics = snapshot.metrics(snapshot.predict(signal), target)
        values |= {f"{metric}/{name}": value for metric, value in metrics.items() if metric != "relative_error"}
    return values


@registered
def quadratic_forms(snapshot: Snapshot) -> dict[str, float]:
    """The forms Q_k of P_k(x) = x' Q_k x, recovered by impulses and pairs of impulses: the function itself, off any support.

    With P(0) taken away, an impulse at s gives Q_k[s, s], and a pair at s and t what it exceeds its two impulses by,
    2 Q_k[s, t]. Exact: Q_k[s, t] = scale cos(2 pi k (s - t) / T).

    function/quadratic_form_error: ||Q - exact||_F / ||exact||_F over all bins (1 for a net that outputs a constant).
    function/kernel_angle: largest angle, over bins, between the plane of Q_k's two largest eigenvalues (a line at DC and
    Nyquist) and the plane of cos and sin, in radians; pi / 2 where an eigenvalue is zero to rounding, so that there is none.
    Empty without a construction, or for T over MOST_SAMPLES.
    """
    construction = snapshot.construction
    if construction is None or construction.T > MOST_SAMPLES:
        return {}
    T, height = construction.T, construction.amplitude
    recovered = recover_forms(snapshot.predict, T, height, snapshot.weights["hidden_0"])
    lag = torch.arange(T, dtype=torch.float64)[:, None] - torch.arange(T)
    bins = torch.tensor(construction.bins, dtype=torch.float64)[:, None, None]
    exact = construction.scale * torch.cos(2 * math.pi * (bins * lag).remainder(T) / T)
    values = {"function/quadratic_form_error": ((recovered - exact).norm() / exact.norm()).item()}
    if not recovered.isfinite().all():
        return values
    angle, rounding = 0.0, T**2 * construction.scale * torch.finfo(snapshot.weights["hidden_0"].dtype).eps
    for k, form in zip(construction.bins, recovered.numpy(), strict=True):
        turn = 2 * math.pi * ((k * np.arange(T)) % T) / T
        rank = 1 if 2 * k % T == 0 else 2
        plane = np.stack([np.cos(turn), np.sin(turn)], 1)[:, :rank]
        size, vectors = np.linalg.eigh(form)
        top = np.argsort(-np.abs(size))[:rank]
        missing = np.abs(size[top]).min() <= rounding
        angle = max(angle, math.pi / 2 if missing else float(subspace_angles(vectors[:, top], plane).max()))
    return {**values, "function/kernel_angle": angle}


def recover_forms(predict: Callable[[Tensor], Tensor], T: int, height: float, like: Tensor) -> Tensor:
    """Quadratic forms [F, T, T], float64, of a function of one window: `predict` maps [batch, T] to [batch, 1, F].

    height: of the impulses; like: a tensor of the dtype and device that `predict` wants.
    """
    first, second = torch.triu_indices(T, T, 1)
    one = height * torch.eye(T, dtype=like.dtype, device=like.device)
    signals = torch.cat([torch.zeros_like(one[:1]), one, one[first] + one[second]])
    power = predict(signals)[:, 0].double().cpu()
    power = (power[1:] - power[0]).mT / height**2
    single, pair = power[:, :T], power[:, T:]
    forms = torch.diag_embed(single) / 2
    forms[:, first, second] = (pair - single[:, first] - single[:, second]) / 2
    return forms + forms.mT
