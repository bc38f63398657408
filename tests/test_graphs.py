"""What a CUDA graph would record, without a device; on_device/ has the graphs themselves."""

import pytest
import torch

from conftest import SMALL
from test_models import small
from wavebase.experiment import runner
from wavebase.training.graphs import ReplayedFunction
from wavebase.training.trainer import SingleTrainer

STARTS = {
    "perturbed": (*SMALL, "model=perturbed"),
    "random": (*SMALL, "model=random", "optim=adam", "optim.lr=0.01"),
    "pairs of inputs, a net with a state": small("frequency_extraction"),
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_the_gradients_to_record_are_those_of_a_plain_step(start, composed, tmp_path):
    """After each of three steps too: the tensors that they are taken of follow the parameters."""
    session = runner.prepare(runner.Job(composed(*start, "train.steps=3"), tmp_path / "run", {"model": "test"}))
    member = session.train_state()
    trainer = SingleTrainer(member)
    recorded = ReplayedFunction(trainer._gradients())
    buffers = dict(member.net.named_buffers())
    for step in range(3):
        batch = member.task.sample_batch(4, member.data, step)
        before = {name: buffer.clone() for name, buffer in buffers.items()}
        loss, *gradients = recorded(*batch)
        for name, buffer in buffers.items():
            buffer.copy_(before[name])
        assert torch.equal(trainer.losses([batch]), loss[None])
        assert any(gradient.any() for gradient in gradients)
        stepped = trainer.flat.numbers.grad  # of all parameters in one, for nets that join their gates
        if stepped is None:
            stepped = torch.cat([parameter.grad.flatten() for parameter in member.trained.values()])
        assert torch.equal(stepped, torch.cat([gradient.flatten() for gradient in gradients]))
        trainer.update(step)


def test_on_the_cpu_every_call_is_a_plain_call():
    calls = []
    function = ReplayedFunction(lambda x: calls.append(1) or (2 * x,))
    assert all(torch.equal(function(torch.ones(2))[0], torch.full((2,), 2.0)) for _ in range(6))
    assert len(calls) == 6 and function.graph is None
