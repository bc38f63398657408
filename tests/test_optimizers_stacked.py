"""Every configuration of conf/optim: three steps in a stack of two are three steps alone, or a refusal in one line."""

from pathlib import Path

import pytest
import torch

from conftest import ONE_PROBE, SMALL
from wavebase.experiment import runner, stacked
from wavebase.records.folder import RunFolder

CONFIGURATIONS = sorted(file.stem for file in (Path(__file__).parents[1] / "conf" / "optim").glob("*.yaml"))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_stack_of_two_is_each_alone(name, composed, tmp_path):
    words = (*SMALL, ONE_PROBE, f"optim={name}", "model=random", "train.steps=3", "train.log_every=1")

    def jobs(where):
        return [runner.Job(composed(*words, f"seed={n}"), tmp_path / where / str(n), {"optim": name}) for n in range(2)]

    refused = []
    together, alone = jobs("together"), jobs("alone")
    stacked.run_stacked(together, 2, lambda job, error: refused.append(str(error)))
    if name == "lion" and refused:
        assert len(refused) == 2 and all("pip install lion-pytorch" in one and "\n" not in one for one in refused)
        return
    assert refused == []
    for one, other in zip(together, alone, strict=True):
        runner.run(other, single=False)
        states = [RunFolder(job.path).load_checkpoint(step) for job, step in ((one, 3), (other, 3), (other, 0))]
        moved = 0.0
        for key, weight in states[0]["weights"].items():
            torch.testing.assert_close(weight, states[1]["weights"][key], rtol=1e-6, atol=1e-12)
            moved += float((weight - states[2]["weights"][key]).abs().sum())
        assert moved > 0
        losses = [RunFolder(job.path).metrics()["loss/train"][1] for job in (one, other)]
        assert len(losses[0]) == 3 and losses[0] == pytest.approx(losses[1], rel=1e-6)
