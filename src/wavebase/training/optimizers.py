"""Optimisers beside torch's (Muon with AdamW, Gauss-Newton, Adam with L1, Lion), and loading the state of any."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, optim

from wavebase.recurrence.lstm import plain
from wavebase.registry import registered

TRIES = 8  # of one Gauss-Newton step, each with ten times the previous damping
LEAST_DAMPING = 1e-14


@registered
class MuonWithAdamW(optim.Optimizer):
    """torch.optim.Muon for matrices, torch.optim.AdamW for biases and vectors, as Muon is meant to be used.

    Args:
        params: At least one of them a matrix.
        lr: Of both. With adjust_lr_fn=match_rms_adamw Muon's steps have the root mean square of AdamW's, so that one rate
            suits both.
        weight_decay: Decoupled, of both.
        momentum, nesterov, ns_steps, adjust_lr_fn: See torch.optim.Muon.
        betas, eps: See torch.optim.AdamW.

    Raises:
        ValueError: If no parameter is a matrix.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr_fn: Literal["original", "match_rms_adamw"] = "match_rms_adamw",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        everything = list(params)
        matrices = [p for p in everything if p.ndim == 2]
        others = [p for p in everything if p.ndim != 2]
        if not matrices:
            raise ValueError("optim=muon needs a matrix to train, got none; use optim=adamw")
        muon = optim.Muon(matrices, lr, weight_decay, momentum, nesterov, ns_steps=ns_steps, adjust_lr_fn=adjust_lr_fn)
        self._parts: list[optim.Optimizer] = [muon]
        if others:
            self._parts.append(optim.AdamW(others, lr, betas, eps, weight_decay))
        super().__init__([group for part in self._parts for group in part.param_groups], {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step both on this optimiser's own groups and state, which loading may have replaced."""
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state
            part.step()


@registered
class GaussNewton(optim.Optimizer):
    """Levenberg-Marquardt for least squares: the step d minimises |r - J d|^2 + damping |d|^2.

    A step that does not reduce the residuals of its batch is undone and tried with ten times the damping, `TRIES` times
    at most; the next batch starts with a tenth of what worked. The equations are solved in the smaller of the two
    spaces, residuals or parameters.

    Args:
        lr: Fraction of the step that is taken.
        damping: Of the first try, in units of the mean diagonal entry of J J^T.

    Raises:
        ValueError: If damping is not positive.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 1.0, damping: float = 1e-3):
        if not damping > 0:
            raise ValueError(f"optim.damping must be positive, got {damping}; use 1e-3")
        super().__init__(params, {"lr": lr, "damping": damping})
        self._trained: list[Tensor] = self.param_groups[0]["params"]

    def check(self, residuals: int) -> None:
        """Check that a Jacobian of so many residuals fits into half of the free memory.

        Raises:
            ValueError: If it does not.
        """
        numbers = sum(p.numel() for p in self._trained)
        needed = self._trained[0].element_size() * (2 * residuals * numbers + 2 * min(residuals, numbers) ** 2)
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if needed > free / 2:
            raise ValueError(
                f"optim=gauss_newton must hold {residuals} residuals x {numbers} numbers ({needed / 2**30:.3g} GiB), got {free / 2**30:.3g} GiB of free memory, of which it takes half; lower train.batch or the size of the net"
            )

    def step(self, residuals: Callable[[], Tensor]) -> None:  # type: ignore[override]
        """Step on a batch.

        Args:
            residuals: Evaluates the batch again, in any shape; the loss is the sum of squares.
        """
        state = self.state[self._trained[0]]
        damping = state.get("damping", self.param_groups[0]["damping"])
        with torch.enable_grad(), plain():  # the kernel's backward has no batching rule
            now = residuals().flatten()
        jacobian = _jacobian(now, self._trained)
        now = now.detach()
        start = [p.detach().clone() for p in self._trained]
        wide = jacobian.shape[0] <= jacobian.shape[1]
        gram = jacobian @ jacobian.mT if wide else jacobian.mT @ jacobian
        unit = jacobian.square().sum() / len(jacobian)
        right = now if wide else jacobian.mT @ now
        for _ in range(TRIES):
            solved, wrong = torch.linalg.solve_ex(
                gram + damping * unit * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), right
            )
            step = jacobian.mT @ solved if wide else solved
            if not wrong and step.isfinite().all():
                parts = step.split([p.numel() for p in self._trained])
                with torch.no_grad():
                    for p, before, part in zip(self._trained, start, parts, strict=True):
                        p.copy_(before - self.param_groups[0]["lr"] * part.view_as(p))
                    if residuals().square().sum() < now.square().sum():
                        state["damping"] = max(damping / 10, LEAST_DAMPING)
                        return
            damping *= 10
        state["damping"] = damping
        with torch.no_grad():
            for p, before in zip(self._trained, start, strict=True):
                p.copy_(before)


@registered
class AdamL1(optim.Adam):
    """Adam on the loss plus `l1` times the sum of |w|, whose slope is added to the gradient as coupled weight decay is.

    Args:
        params, lr, betas, eps: See torch.optim.Adam.
        l1: Weight of the sum.

    Raises:
        ValueError: If l1 is negative or not finite.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        l1: float = 1e-3,
    ):
        if not 0 <= l1 < float("inf"):
            raise ValueError(f"optim.l1 must be at least 0 and finite, got {l1}; use 1e-3")
        super().__init__(params, lr, betas, eps)
        for group in self.param_groups:
            group.setdefault("l1", l1)

    def step(self, closure: Any = None) -> Any:
        """Step; `grad` of the parameters is not changed."""
        kept = []
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    kept.append((p, p.grad))
                    p.grad = p.grad + group["l1"] * p.detach().sign()
        super().step()
        for p, gradient in kept:
            p.grad = gradient


@registered
def lion(
    params: Iterable[Tensor], lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
) -> optim.Optimizer:
    """Build the Lion of the package lion-pytorch (Chen et al. 2023, arXiv 2302.06675).

    Raises:
        ValueError: If the package is not installed.
    """
    try:
        from lion_pytorch import Lion
    except ImportError as error:
        raise ValueError("optim=lion needs the package lion-pytorch, got none; pip install lion-pytorch") from error
    return Lion(params, lr=lr, betas=betas, weight_decay=weight_decay)


# Optimisers that treat every number by itself, so that one tensor may hold the numbers of many parameters, or of many nets.
# Of torch's others, Adafactor and Muon treat a matrix as a whole, LBFGS all parameters, and SparseAdam takes sparse
# gradients only.
ELEMENTWISE = (
    optim.SGD, optim.Adam, optim.AdamW, optim.Adamax, optim.NAdam, optim.RAdam, optim.RMSprop, optim.Rprop, optim.Adadelta,
    optim.Adagrad, optim.ASGD, AdamL1,
)  # fmt: skip


def load_state(optimizer: optim.Optimizer, saved: Mapping[str, Any], steps: int = 0) -> None:
    """Load an optimiser's state_dict so that it continues bit for bit.

    torch casts the float32 counts and schedules of some optimisers (ASGD, NAdam) to the parameter's dtype.

    Args:
        steps: Steps that it had taken; after the first one an optimiser that keeps a state must have one.

    Raises:
        ValueError: For what is no state of this optimiser with its settings and parameters.
    """
    _check_state(optimizer, saved, steps)
    optimizer.load_state_dict(dict(saved))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [n for group in saved["param_groups"] for n in group["params"]]
    for n, parameter in zip(numbers, parameters, strict=True):
        for key, value in saved["state"].get(n, {}).items():
            if isinstance(value, Tensor) and value.ndim == 0 and parameter.ndim > 0:
                optimizer.state[parameter][key] = value.clone()


def _check_state(optimizer: optim.Optimizer, saved: Mapping[str, Any], steps: int) -> None:
    """Raise ValueError unless groups and state are those of this optimiser: torch checks neither shapes nor settings."""
    own = optimizer.state_dict()["param_groups"]
    if len(saved["param_groups"]) != len(own):
        raise ValueError(f"{len(saved['param_groups'])} groups of parameters in place of {len(own)}")
    for ours, theirs in zip(own, saved["param_groups"], strict=True):
        for key, value in ours.items():
            found = theirs.get(key, value)  # another release of torch may have had fewer settings
            if (key == "params" and found != value) or _kind(found) != _kind(value):
                raise ValueError(f"the setting {key} is {' '.join(str(found).split())[:40]!r}")
    known = {} if needs_closure(optimizer) else _state_after_a_step(optimizer)
    keeps_state = any(known.values()) or isinstance(optimizer, optim.LBFGS | GaussNewton)
    # a single parameter may lack one: it had no gradient
    if steps > 0 and keeps_state and not any(saved["state"].values()):
        raise ValueError(f"there is no state of {type(optimizer).__name__} after {steps} steps")
    for n, state in known.items():
        found = saved["state"].get(n, {})
        for key, value in state.items() if found else ():
            if type(found.get(key)) is not type(value):
                raise ValueError(f"the state {key} of parameter {n} is {type(found.get(key)).__name__}")
            if isinstance(value, Tensor) and (found[key].shape, found[key].dtype) != (value.shape, value.dtype):
                got = f"{list(found[key].shape)} {found[key].dtype}"
                raise ValueError(
                    f"the state {key} of parameter {n} is {got} in place of {list(value.shape)} {value.dtype}"
                )
    if surplus := set(saved["state"]) - {n for group in own for n in group["params"]}:
        raise ValueError(f"there is a state of an unknown parameter {str(min(surplus, key=str))[:40]}")


def _kind(value: Any) -> Any:
    """Return the type of a setting, with those of its parts."""
    return (type(value), *map(_kind, value)) if isinstance(value, tuple | list) else type(value)


def _state_after_a_step(optimizer: optim.Optimizer) -> dict[int, dict[str, Any]]:
    """Return the state, by the parameters' numbers, after a step on gradients of zero, which is taken back."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    before = [(p.detach().clone(), p.grad) for p in parameters]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    optimizer.state.clear()
    with torch.no_grad():
        for parameter, (value, gradient) in zip(parameters, before, strict=True):
            parameter.copy_(value)
            parameter.grad = gradient
    return state


def needs_closure(optimizer: optim.Optimizer) -> bool:
    """Return whether a step evaluates its batch several times (LBFGS, Gauss-Newton)."""
    arguments = list(inspect.signature(type(optimizer).step).parameters.values())[1:]
    return any(argument.default is argument.empty for argument in arguments)


def _jacobian(residuals: Tensor, parameters: Sequence[Tensor], rows: int = 64) -> Tensor:
    """Differentiate residuals by all parameters, `rows` residuals at a time: [residuals, numbers]."""
    basis = torch.eye(len(residuals), dtype=residuals.dtype, device=residuals.device)
    parts = []
    for some in basis.split(rows):
        columns = torch.autograd.grad(
            residuals, parameters, some, retain_graph=True, allow_unused=True, materialize_grads=True, is_grads_batched=True
        )  # fmt: skip
        parts.append(torch.cat([c.reshape(len(some), -1) for c in columns], 1))
    return torch.cat(parts)
