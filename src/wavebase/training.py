"""One visible loop that trains a net, or a stack of nets, on a task, and knows neither by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

Schedule = Literal["constant", "linear", "cosine", "exponential"]
Status = Literal["done", "diverged", "interrupted"]


class Task(Protocol):
    """What the loop asks of a task."""

    def sample_batch(self, batch: int, generator: torch.Generator, step: int = 0) -> tuple[Any, Tensor]:
        """The (input, target) of a training step: fresh ones from the generator, or the step's place in a fixed order.

        An input is a tensor or a tuple of tensors, whatever the net's forward takes.
        """

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """A scalar."""


@dataclass(frozen=True)
class TrainSettings:
    """steps, batch: of the training. parameters: "all" weights and biases, or a list of names (patterns with * allowed);
    initial_state: train hidden_0 and cell_0 too. log_every: steps between recorded training losses;
    checkpoint_every: steps between checkpoints (the first and last step always have one)."""

    steps: int = 500
    batch: int = 64
    parameters: str | list[str] = "all"
    initial_state: bool = False
    log_every: int = 10
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("batch", 1), ("log_every", 1), ("checkpoint_every", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"train.{name} must be at least {least}, got {getattr(self, name)}; see conf/train")


def schedule_factor(schedule: Schedule, step: int, steps: int, warmup: float) -> float:
    """What multiplies the learning rate at a step: rises linearly over `warmup` steps (step 0 gets 1/(warmup + 1); below
    1 it is a fraction of `steps`), then stays (constant), falls to 0 at `steps` in a line (linear) or half a cosine
    (cosine), or falls exponentially to a floor of 1 %, reached halfway (exponential; AlgZoo's recipe)."""
    if warmup < 1:
        warmup = round(warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(steps - warmup, 1)
    return {
        "constant": 1.0,
        "linear": 1 - done,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "exponential": 0.01 ** min(2 * done, 1),
    }[schedule]


class Member(NamedTuple):
    """One net under training, and what is to be done with it on the way. A run alone is a stack of one member."""

    net: nn.Module
    task: Task
    trained: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    learning_rate: Callable[[int], float]
    clip_norm: float | None
    data: torch.Generator
    record: Callable[[int, dict[str, float]], None]
    observe: Callable[[int], None]
    save: Callable[[int], None]


def train(
    members: Sequence[Member],
    settings: TrainSettings,
    observe_every: int,
    steps: Iterable[int],
    interrupted: Callable[[], bool] = lambda: False,
) -> list[tuple[Status, int]]:
    """Train all members until `settings.steps`, a loss that is not finite, or an interruption: why and where each ended.

    `steps` counts from where to start (a progress bar may wrap it). At each step, in this order: a checkpoint if due,
    the probes if due (step 0 and the last step are), then one update from a fresh batch, whose loss before the update
    is recorded if due. A checkpoint thus holds the state before anything of its own step has happened. A member whose
    loss is not finite stops alone.
    """
    outcome: dict[int, tuple[Status, int]] = {}
    running = list(range(len(members)))
    gradients = loss_gradients(members)
    for step in steps:
        last = step == settings.steps
        stop = interrupted()
        for n in running:
            if stop or (step % settings.checkpoint_every == 0 and not last):
                members[n].save(step)
            if not stop and (step % observe_every == 0 or last):
                members[n].observe(step)
        if last or stop:
            outcome |= dict.fromkeys(running, ("interrupted" if stop else "done", step))
            break

        batches = [members[n].task.sample_batch(settings.batch, members[n].data, step) for n in running]
        losses = gradients(batches)
        for n in running:
            update(members[n], step)

        if step % settings.log_every == 0:
            values = losses.tolist()
            for n, value in zip(running, values, strict=True):
                members[n].record(step, {"loss/train": value, "optim/lr": members[n].learning_rate(step)})
                if not math.isfinite(value):
                    members[n].observe(step + 1)  # its update has been taken
                    outcome[n] = "diverged", step + 1
            if any(not math.isfinite(value) for value in values):
                running = [n for n in running if n not in outcome]
                if not running:
                    break
                gradients = loss_gradients([members[n] for n in running])
    for n, (status, step) in outcome.items():
        if status != "interrupted":
            members[n].save(step)
    return [outcome[n] for n in range(len(members))]


def update(member: Member, step: int) -> None:
    """Clip the member's gradients, set its learning rate and let its optimiser take one step."""
    for group in member.optimizer.param_groups:
        group["lr"] = member.learning_rate(step)
    if member.clip_norm is not None:
        places = set()
        for parameter in member.trained.values():
            if parameter.grad is not None and parameter.grad.data_ptr() in places:
                parameter.grad = parameter.grad.clone()  # biases that are summed share one: it would be scaled twice
            places.add(None if parameter.grad is None else parameter.grad.data_ptr())
        nn.utils.clip_grad_norm_(member.trained.values(), member.clip_norm)
    member.optimizer.step()


def loss_gradients(members: Sequence[Member]) -> Callable[[Sequence[tuple[Any, Tensor]]], Tensor]:
    """A function from one batch a member to their losses [S], which leaves each member's gradients in its parameters.

    Several members run as one program: their parameters become views on storage with a leading stack axis, and the
    net's own forward is batched over it (torch.func.vmap). They must agree in everything but the values of tensors. A net
    that carries a state from step to step keeps it in buffers and writes them in place.
    """
    if len(members) == 1:
        member = members[0]

        def alone(batches: Sequence[tuple[Any, Tensor]]) -> Tensor:
            inputs, target = batches[0]
            loss = member.task.loss(member.net(inputs), target)
            member.optimizer.zero_grad()
            loss.backward()
            return loss.detach()[None]

        return alone

    net, task = members[0].net, members[0].task
    every = [{**dict(m.net.named_parameters()), **dict(m.net.named_buffers())} for m in members]
    stacked = {name: torch.stack([tensors[name].detach() for tensors in every]) for name in every[0]}
    leaves = {name: stacked.pop(name).requires_grad_() for name in members[0].trained}
    storage = {**stacked, **{name: leaf.detach() for name, leaf in leaves.items()}}
    for n, tensors in enumerate(every):
        for name, tensor in tensors.items():
            tensor.data = storage[name][n]

    def one(leaf: dict[str, Tensor], fixed: dict[str, Tensor], inputs: Any, target: Tensor) -> Tensor:
        return task.loss(torch.func.functional_call(net, {**leaf, **fixed}, (inputs,)), target)

    def together(batches: Sequence[tuple[Any, Tensor]]) -> Tensor:
        inputs, targets = tree_map(lambda *parts: torch.stack(parts), *batches)
        losses = torch.func.vmap(one)(leaves, stacked, inputs, targets)
        gradients = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
        for name, gradient in zip(leaves, gradients, strict=True):
            for n, member in enumerate(members):
                member.trained[name].grad = gradient[n]
        return losses.detach()

    return together


def stack_key(member: Member) -> Hashable:
    """Members with equal keys can be trained as one stack: same classes, plain attributes and shapes of tensors."""
    plain = (bool, int, float, str, tuple, type(None), torch.dtype)

    def attributes(thing: object) -> tuple[tuple[str, str], ...]:
        return tuple(sorted((k, repr(v)) for k, v in vars(thing).items() if isinstance(v, plain)))

    shapes = tuple(
        (name, tuple(tensor.shape), tensor.dtype, tensor.device) for name, tensor in member.net.state_dict().items()
    )
    return (
        type(member.net),
        attributes(member.net),
        type(member.task),
        attributes(member.task),
        shapes,
        tuple(member.trained),
    )


def saved_bytes(member: Member, batch: int) -> int:
    """Bytes that one forward pass of the member keeps for its backward pass, measured."""
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    generator = torch.Generator().manual_seed(0)
    inputs, target = member.task.sample_batch(batch, generator)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = member.task.loss(member.net(inputs), target)
    del loss
    return sum(sizes.values())
