"""Does the net still compute what it is asked, on the training signal and away from it?"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from wavebase.probes.norms import relative_distance
from wavebase.probes.snapshot import Snapshot
from wavebase.registry import registered

SAME = 1e-6  # of the zero predictor's loss: if the mean predictor's is below, all targets are nearly the same
MOST_SAMPLES = 32  # longest window whose forms are recovered: they take T (T + 1) / 2 signals


@registered
def held_out_error(snapshot: Snapshot) -> dict[str, float]:
    """Measure the relative error on every held-out set, and metrics and loss on the training signal.

    Returns:
        error/<probe signal>: relative errors. task/<metric>: the task's metrics on the training signal.
        loss/held_out: its loss. loss/relative: where that loss lies between the task's optimum, 0, and
        `reference_loss`, 1.
    """
    values: dict[str, float] = {}
    for name, (signal, target) in snapshot.held_out.items():
        output = snapshot.predict(signal)
        metrics = snapshot.metrics(output, target)
        values[f"error/{name}"] = metrics["relative_error"]
        if name == "training":
            loss = loss_value(snapshot, output, target)
            values |= {f"task/{metric}": value for metric, value in metrics.items()}
            values |= {"loss/held_out": loss, "loss/relative": _relative_loss(snapshot, loss)}
    return values


@registered
def centred_error(snapshot: Snapshot) -> dict[str, float]:
    """Measure the errors that are left when each bin's mean error on the training signal is taken away.

    The sharpest directions of an exact net shift one bin's output by a constant, which the readout's bias can undo: a
    displacement of a thousandth costs a digit of precision and does not change how the power is computed.

    Returns:
        centred/loss: the training signal's loss over `reference_loss`, 1 for any constant output.
        centred/<probe signal>: relative errors. Where all targets are nearly the same, the constant is the function and
        stays. Empty unless the net is compared with an algorithm for power spectra.
    """
    if "spec" not in snapshot.blocks:
        return {}
    constant = mean_error(snapshot, snapshot.predict(snapshot.held_out["training"][0]))
    values: dict[str, float] = {}
    for name, (signal, target) in snapshot.held_out.items():
        output = snapshot.predict(signal) - constant
        values[f"centred/{name}"] = snapshot.metrics(output, target)["relative_error"]
        if name == "training":
            values["centred/loss"] = _relative_loss(snapshot, loss_value(snapshot, output, target))
    return values


def loss_value(snapshot: Snapshot, output: Tensor, target: Tensor) -> float:
    """Evaluate the loss, in float64 where squares under- or overflow in the output's dtype: 0 would look exact."""
    loss = snapshot.loss(output, target).item()
    kind = torch.finfo(output.dtype)
    if kind.tiny / kind.eps < loss < kind.max or output.dtype == torch.float64 or not output.isfinite().all():
        return loss
    return snapshot.loss(output.double(), target.double() if target.is_floating_point() else target).item()


def reference_loss(snapshot: Snapshot) -> float:
    """Return the training signal's held-out loss of the mean predictor, or of zero where targets are nearly the same."""
    mean, zero = (snapshot.baselines.get(name, 0.0) for name in ("mean", "zero"))
    return mean if mean > SAME * zero else zero


def _relative_loss(snapshot: Snapshot, loss: float) -> float:
    """Return (loss - optimum) / (reference - optimum); 0/0 is 0, as of an exact output where every target is zero."""
    optimum = snapshot.baselines.get("optimum", 0.0)
    reference, loss = reference_loss(snapshot) - optimum, loss - optimum
    return loss / reference if reference > 0 else 0.0 if loss == 0 else math.inf if loss > 0 else math.nan


def mean_error(snapshot: Snapshot, output: Tensor) -> Tensor:
    """Average an output's error on the held-out training signal over sequences and windows.

    Args:
        output: [sequences, windows, bins].

    Returns:
        [bins]; zero where all targets are nearly the same.
    """
    target = snapshot.held_out["training"][1]
    error = (output - target).mean((0, 1))
    return error if snapshot.baselines["mean"] > SAME * snapshot.baselines["zero"] else torch.zeros_like(error)


@registered
def held_out_metrics(snapshot: Snapshot) -> dict[str, float]:
    """Measure <metric>/<probe signal>: the task's metrics on every held-out set, relative_error excepted.

    That one is `held_out_error`'s.
    """
    values: dict[str, float] = {}
    for name, (signal, target) in snapshot.held_out.items():
        metrics = snapshot.metrics(snapshot.predict(signal), target)
        values |= {f"{metric}/{name}": value for metric, value in metrics.items() if metric != "relative_error"}
    return values


@registered
def quadratic_forms(snapshot: Snapshot) -> dict[str, float]:
    """Recover the forms Q_k of P_k(x) = x' Q_k x and compare them with the exact ones, scale cos(2 pi k (s - t) / T).

    They are the function on all signals, not only on those that training showed. An impulse at s gives Q_k[s, s]; a
    pair at s and t exceeds the sum of its two impulses by 2 Q_k[s, t]. P(0) is subtracted first.

    Returns:
        function/quadratic_form_error: ||Q - exact||_F / ||exact||_F over all bins, 1 for a constant output.
        function/kernel_angle: the largest angle in radians, over bins, between the plane of Q_k's two largest
        eigenvalues (a line at DC and Nyquist) and the plane of cos and sin; pi / 2 where such an eigenvalue is zero to
        rounding. Empty without a construction, or for T over MOST_SAMPLES.
    """
    construction = snapshot.construction
    if construction is None or construction.T > MOST_SAMPLES:
        return {}
    T, height = construction.T, construction.amplitude
    recovered = recover_forms(snapshot.predict, T, height, snapshot.weights["hidden_0"])
    lag = torch.arange(T, dtype=torch.float64)[:, None] - torch.arange(T)
    bins = torch.tensor(construction.bins, dtype=torch.float64)[:, None, None]
    exact = construction.scale * torch.cos(2 * math.pi * (bins * lag).remainder(T) / T)
    values = {"function/quadratic_form_error": relative_distance(recovered, exact)}
    if not recovered.isfinite().all():
        return values
    from scipy.linalg import subspace_angles

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
    """Recover the quadratic forms of a function of one window.

    Args:
        predict: Maps [batch, T] to [batch, 1, F].
        T: Samples of a window.
        height: Of the impulses.
        like: A tensor of the dtype and on the device that `predict` takes.

    Returns:
        [F, T, T], float64.
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
