"""Parameters stepped as one: the gradient goes to their storage, and every number is that of torch's own loop."""

import pytest
import torch

from wavebase.models.spectral import SpectralLSTM, spectral_lstm
from wavebase.recurrence.native import lstm as native
from wavebase.tasks.base import SquaredErrorTask
from wavebase.training.stacks import OneByOne, make_trainer
from wavebase.training.trainer import SingleTrainer, TrainState

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, weight_decay=1e-2),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3),
}


class AlsoOtherwise(SpectralLSTM):
    """Uses a gate outside the recurrence too."""

    def forward(self, signal):
        return super().forward(signal) + self.weight_ih_input.square().sum() + self.readout.bias.sum()


class Half(SpectralLSTM):
    """Its output does not depend on the readout's bias, which joins the gates all the same."""

    def forward(self, signal):
        return super().forward(signal) - self.readout.bias


class Twice(SpectralLSTM):
    """Reads two signals with the same weights: the second one while the first is still needed."""

    def forward(self, signal):
        return super().forward(signal) * super().forward(signal.flip(1))


class Overwritten(SpectralLSTM):
    """Changes in place what it has read."""

    def forward(self, signal):
        return super().forward(signal).mul_(2)


class Sometimes(SpectralLSTM):
    """Changes what it has read for some batches only."""

    def forward(self, signal):
        read = super().forward(signal)
        return read if signal[0, 1] > 0 else 2 * read


class Squares:
    """The mean square, as a task of one's own."""

    def loss(self, output, target):
        return (output - target).square().mean()


SQUARES = Squares()


def trained(kind, optimizer, names, clip_norm=None, steps=4, batch=8, windows=1, task=SQUARES):
    """Weights after some steps of torch's own loop, after as many of the trainer, and whether it took one
    gradient for all of them."""
    found = []
    for own in (True, False):
        torch.manual_seed(0)
        construction = spectral_lstm(4, dtype=torch.float64).construction
        net = kind(construction, unit_scaled=True)
        chosen = {name: p for name, p in net.named_parameters() if names(name)}
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(name in chosen)
        step = OPTIMIZERS[optimizer](list(chosen.values()))
        batches = [
            (torch.randn(batch, 4 * windows).double() / 4, torch.randn(batch, windows, 4).double())
            for _ in range(steps)
        ]
        trainer = None if own else SingleTrainer(
            TrainState(net, task, chosen, step, lambda _: 1e-3, clip_norm, None, None, None, None)
        )  # fmt: skip
        for number, (signal, target) in enumerate(batches):
            if own:
                step.zero_grad()
                task.loss(net(signal), target).backward()
                if clip_norm:
                    torch.nn.utils.clip_grad_norm_(chosen.values(), clip_norm)
                step.step()
            else:
                trainer.losses([(signal, target)])
                one = trainer.flat is not None and trainer.flat.numbers.grad is not None
                trainer.update(number)
        found.append({name: parameter.detach().clone() for name, parameter in net.named_parameters()})
    return *found, one


def gates_and_readout(name):
    return name not in ("hidden_0", "cell_0")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("batch,windows", [(8, 1), (5, 3)])
@pytest.mark.parametrize("task", [SQUARES, SquaredErrorTask()], ids=["own loss", "by hand"])
def test_one_gradient_gives_the_numbers_of_eighteen(optimizer, batch, windows, task):
    wanted, got, one = trained(SpectralLSTM, optimizer, gates_and_readout, batch=batch, windows=windows, task=task)
    assert one == native.available()
    assert all(torch.equal(wanted[name], got[name]) for name in wanted)
    start = dict(SpectralLSTM(spectral_lstm(4, dtype=torch.float64).construction, unit_scaled=True).named_parameters())
    moved = {name for name in got if not torch.equal(start[name], got[name])}
    assert len(moved) > 9 and not {"hidden_0", "cell_0"} & moved, moved


@pytest.mark.parametrize("kind", [AlsoOtherwise, Half, Twice, Overwritten, Sometimes])
@pytest.mark.parametrize(
    "names", [gates_and_readout, lambda name: True, lambda name: name.startswith("weight_hh"), lambda name: "input" in name]
)  # fmt: skip
@pytest.mark.parametrize("task", [SQUARES, SquaredErrorTask()], ids=["own loss", "by hand"])
def test_whatever_is_trained_and_whatever_else_uses_it(kind, names, task):
    wanted, got, _ = trained(kind, "SGD", names, task=task)
    for name in wanted:
        assert torch.allclose(wanted[name], got[name], rtol=1e-13, atol=1e-300), name


def test_buffers_follow_the_batch_and_the_number_of_threads():
    """Batches of other sizes, and another number of threads, between two steps of one trainer."""
    net = spectral_lstm(4, dtype=torch.float64)
    net.hidden_0.requires_grad_(False), net.cell_0.requires_grad_(False)
    weights = dict(net.named_parameters())
    chosen = {name: weights[name] for name in weights if gates_and_readout(name)}
    trainer = SingleTrainer(
        TrainState(
            net,
            SquaredErrorTask(),
            chosen,
            torch.optim.SGD(list(chosen.values()), lr=0.0),
            lambda _: 0.0,
            *[None] * 5,
        )
    )
    threads = torch.get_num_threads()
    try:
        for batch, count in ((3, 1), (300, 1), (300, 2), (2, 2), (3, 1)):
            torch.set_num_threads(count)
            signal, target = torch.randn(batch, 8).double() / 4, torch.randn(batch, 2, 4).double()
            trainer.losses([(signal, target)])
            got = trainer.flat.numbers.grad
            wanted = torch.autograd.grad(SquaredErrorTask().loss(net(signal), target), list(chosen.values()))
            assert torch.equal(got, torch.cat([gradient.flatten() for gradient in wanted])), (batch, count)
            trainer.update(0)
    finally:
        torch.set_num_threads(threads)


def members(kinds, clip_norm=None):
    """Nets from different perturbations of one start, with optimisers of different kinds and rates."""
    found = []
    for seed, kind in enumerate(kinds):
        construction, draw = spectral_lstm(4, dtype=torch.float64).construction, torch.Generator().manual_seed(seed)
        weights = {
            name: weight * (1 + 0.1 * torch.rand(weight.shape, generator=draw, dtype=torch.float64))
            for name, weight in construction.weights.items()
        }
        net = SpectralLSTM(construction, weights, unit_scaled=True)
        net.hidden_0.requires_grad_(False), net.cell_0.requires_grad_(False)
        chosen = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
        rate = 1e-3 / (1 + seed)
        state = net, SquaredErrorTask(), chosen, OPTIMIZERS[kind](list(chosen.values())), lambda _, rate=rate: rate
        found.append(TrainState(*state, clip_norm, *[None] * 4))
    return found


@pytest.mark.parametrize("kinds", [("SGD", "SGD", "SGD"), ("Adam", "SGD")])
def test_nets_that_take_turns_are_bit_for_bit_what_they_are_alone(kinds):
    together, alone = members(kinds), members(kinds)
    trainers = [make_trainer(together), *(make_trainer([member]) for member in alone)]
    assert isinstance(trainers[0], OneByOne) == native.available()
    for step in range(4):
        draw = torch.Generator().manual_seed(step)
        batches = [
            (torch.rand(8, 8, generator=draw).double() - 0.5, torch.rand(8, 2, 4, generator=draw).double())
            for _ in kinds
        ]
        losses = trainers[0].losses(batches)
        assert torch.equal(losses, torch.cat([t.losses([b]) for t, b in zip(trainers[1:], batches, strict=True)]))
        for trainer in trainers:
            trainer.update(step)
    for trainer in trainers:
        trainer.sync_optimizer_state()
    start = members(kinds)
    for one, other, before in zip(together, alone, start, strict=True):
        for name, parameter in one.trained.items():
            assert torch.equal(parameter, other.trained[name])
            for key, value in one.optimizer.state[parameter].items():
                assert torch.equal(value, other.optimizer.state[other.trained[name]][key]), (name, key)
        moved = sum(int((p != before.trained[name]).sum()) for name, p in one.trained.items())
        assert moved > 100, "nothing has been trained"
    assert not torch.equal(together[0].trained["weight_hh_cell"], together[1].trained["weight_hh_cell"])


def test_turns_are_taken_only_where_a_step_needs_no_graph():
    class Other(SquaredErrorTask):
        def loss(self, output, target):
            return (output - target).abs().mean()

    two = members(("SGD", "SGD"))
    assert not isinstance(make_trainer(members(("SGD", "SGD"), clip_norm=0.1)), OneByOne)
    assert not isinstance(make_trainer([member._replace(task=Other()) for member in two]), OneByOne)


def test_clipped_gradients_are_those_of_each_parameter():
    wanted, got, _ = trained(SpectralLSTM, "SGD", gates_and_readout, clip_norm=0.01)
    assert all(torch.allclose(wanted[name], got[name], rtol=1e-12, atol=1e-300) for name in wanted)
