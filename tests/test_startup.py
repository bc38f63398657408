"""What a default run imports before its first training step, and what it leaves for later. Counted, not timed."""

import json
import subprocess
import sys

import pytest
import torch

from conftest import FULL
from wavebase.training import eager

FIRST_STEP = """
import json, sys
from wavebase import run
from wavebase.training.trainer import SingleTrainer
update, seen = SingleTrainer.update, []
def noted(self, step):
    update(self, step)
    if not seen:
        seen.append(sorted(sys.modules))
        json.dump(seen[0], open("first", "w"))
SingleTrainer.update = noted
try:
    run.main()
finally:
    json.dump(sorted(sys.modules), open("end", "w"))
"""
LATER = {"matplotlib", "PIL", "sympy", "pandas"}
NEVER = {"torch._dynamo", "torch._inductor", "torch.utils.tensorboard", "scipy.stats"}


def test_the_first_step_waits_for_no_picture_and_no_compiler(tmp_path):
    words = ["T=4", "train.steps=2", "train.batch=4", "probe.curvature_batch=8", "hydra.run.dir=run"]
    words += [] if FULL else ["probe.figures=[train_loss]"]  # seven are half of its time
    done = subprocess.run([sys.executable, "-c", FIRST_STEP, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, end = ({*json.loads((tmp_path / name).read_text())} for name in ("first", "end"))
    top = {name.partition(".")[0] for name in first}
    assert {"torch", "hydra", "wavebase"} <= top and not top & LATER
    assert not first & NEVER and not end & NEVER, "nor at the end of a run, which draws"
    assert "matplotlib" in end and (tmp_path / "run" / "figures" / "train_loss.png").is_file()
    assert len(first) < 2100, "of which torch alone brings 1100"


def test_help_and_the_configuration_need_no_torch(tmp_path):
    code = """
import contextlib, sys
from wavebase import run
for words in (["--help"], ["--cfg", "job", "T=5"]):
    sys.argv[1:] = words
    with contextlib.suppress(SystemExit):
        run.main()
    assert not {"torch", "scipy", "matplotlib", "tensorboard"} & set(sys.modules), words
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "T: 5" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.LBFGS], ids=lambda kind: kind.__name__
)
def test_without_the_compiler_an_optimiser_does_the_same(kind, monkeypatch):
    eager.spare_the_compiler()

    def trained():
        weight = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        optimizer = kind([weight], lr=0.1)

        def loss():
            optimizer.zero_grad()
            value = (weight - 3).square().sum() + weight.prod()
            value.backward()
            return value

        for _ in range(3):
            optimizer.step(loss)
        other = kind([weight], lr=0.1)
        other.load_state_dict(optimizer.state_dict())
        return weight.tolist(), repr(other.state_dict())

    monkeypatch.setattr(eager, "COMPILER", "no module")
    without = trained()
    monkeypatch.setattr(eager, "COMPILER", "sys")  # as if it had been imported
    assert trained() == without and without[0] != [1.0, -2.0]
    assert "torch._dynamo" in sys.modules, "the other way was gone"
