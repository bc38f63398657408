"""Do nets that learn "which is the second largest" turn into oscillators? Expected: some modes rotate, few statements beat
their nulls.

Trains nets of conf/experiment/second_argmax.yaml together, as one program, and keeps their weights:
    python experiments/second_argmax.py train outputs/second_argmax --steps 65536 --batch 512 --nets 5
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch.func import stack_module_state

from wavebase.models.relu_rnn import build
from wavebase.records import write_whole
from wavebase.recurrence import relu_states
from wavebase.tasks.order_statistic import OrderStatistic, answer
from wavebase.signals.generators import WhiteNoise
from wavebase.training import schedule_factor

T, HIDDEN = 10, 16


def train(folder: Path, steps: int, batch: int, nets: int, saves: int) -> None:
    """Train from scratch; folder/step_<s>.pt hold the stacked weights, of the start and `saves` doublings up to the end."""
    torch.set_num_threads(1)
    modules = [build(T, T, torch.float32, torch.Generator().manual_seed(seed), hidden_size=HIDDEN) for seed in range(nets)]
    weights, _ = stack_module_state(modules)  # [nets, ...] each

    def logits(x: torch.Tensor) -> torch.Tensor:
        """[nets, batch, T] to [nets, T, batch]. The recurrence takes a stack as it is, three times faster than by vmap."""
        return weights["readout.weight"] @ relu_states(x, weights["weight_ih"], weights["weight_hh"])[-1]

    optimizer = torch.optim.AdamW(weights.values(), lr=0.04 / HIDDEN**0.5, weight_decay=1e-3, fused=True)
    data = torch.Generator().manual_seed(nets)
    held_out = torch.randn(20000, T, generator=torch.Generator().manual_seed(10**6))
    began = time.monotonic()
    due = {0, steps, *(steps >> n for n in range(1, saves))}
    for step in range(steps + 1):
        if step in due or step % 16384 == 0:
            with torch.no_grad():
                chosen = logits(held_out.expand(nets, -1, -1)).argmax(-2)
            accuracy = (chosen == answer(held_out, "second_argmax")).float().mean(-1).tolist()
            print(f"step {step}, {time.monotonic() - began:.0f} s ({time.process_time():.0f} s of CPU), accuracy {[round(a, 3) for a in accuracy]}", flush=True)
        if step in due:
            state = {"weights": {k: v.detach().clone() for k, v in weights.items()}, "accuracy": accuracy}
            state |= {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time(), "step": step, "batch": batch}
            write_whole(folder / f"step_{step:08d}.pt", lambda file, state=state: torch.save(state, file))
        for group in optimizer.param_groups:
            group["lr"] = 0.04 / HIDDEN**0.5 * schedule_factor("exponential", step, steps, 1 / 64)
        x = torch.randn(nets, batch, T, generator=data)
        target = x.topk(2, -1).indices[..., 1]
        # the sum over nets of each net's mean: nobody's gradient depends on another
        loss = torch.nn.functional.cross_entropy(logits(x), target) * nets
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("train",))
    parser.add_argument("folder", type=Path)
    for name, default in (("steps", 65536), ("batch", 512), ("nets", 5), ("saves", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    train(chosen.folder, chosen.steps, chosen.batch, chosen.nets, chosen.saves)
