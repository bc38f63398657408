"""Do nets that learn "which is the second largest" turn into oscillators? Expected: some modes rotate, few statements beat
their nulls.

Trains nets of conf/experiment/second_argmax.yaml together, as one program, and keeps their weights:
    python experiments/second_argmax.py train outputs/second_argmax --steps 300000 --batch 512 --nets 5
(with --candidates 20, twenty start, and the five that stand best after a sixteenth of the run go on)
and tells which statements about one such net (of the document "DFT-like Structure and the Nonlinear Oscillator") hold in
how many of them, and in how many beyond what random weights of equal norm show:
    python experiments/second_argmax.py read outputs/second_argmax/step_00150000.pt
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.func import stack_module_state

from wavebase import analyze, console
from wavebase.models.relu_rnn import build
from wavebase.records.atomic import atomic_write
from wavebase.recurrence.cells import relu_states
from wavebase.tasks.order_statistic import answer
from wavebase.training.schedule import schedule_factor

T, HIDDEN = 10, 16


Weights = dict[str, torch.Tensor]  # of a stack: [nets, ...] each


def adamw(weights: Weights) -> torch.optim.Optimizer:
    """The published recipe's optimiser."""
    return torch.optim.AdamW(weights.values(), lr=0.04 / HIDDEN**0.5, weight_decay=1e-3, fused=True)


def logits(weights: Weights, x: torch.Tensor) -> torch.Tensor:
    """[batch, T] for all or [nets, batch, T] to [nets, T, batch]. The recurrence takes a stack as it is, three times faster than by vmap."""
    x = x.expand(len(weights["weight_hh"]), -1, -1)
    return weights["readout.weight"] @ relu_states(x, weights["weight_ih"], weights["weight_hh"])[-1]


def best(
    weights: Weights, optimizer: torch.optim.Optimizer, nets: int
) -> tuple[Weights, torch.optim.Optimizer, list[int]]:
    """The `nets` of least loss on numbers drawn for this choice alone, their optimiser's state with them, and which they are."""
    x = torch.randn(20000, T, generator=torch.Generator().manual_seed(10**6 + 2))
    target = answer(x, "second_argmax")
    with torch.no_grad():
        losses = torch.stack([torch.nn.functional.cross_entropy(each.mT, target) for each in logits(weights, x)])
    kept = losses.argsort()[:nets].sort().values
    chosen = {name: weight.detach()[kept].requires_grad_() for name, weight in weights.items()}
    following = adamw(chosen)
    for name, weight in chosen.items():
        state = optimizer.state[weights[name]]
        following.state[weight] = {key: value[kept] if value.ndim else value.clone() for key, value in state.items()}
    return chosen, following, kept.tolist()


def train(folder: Path, steps: int, batch: int, nets: int, saves: int, candidates: int) -> None:
    """Train from scratch; folder/step_<s>.pt hold the stacked weights, of the start and `saves` doublings up to the end.

    candidates: so many start, and the best `nets` go on after a sixteenth of the steps.
    """
    torch.set_num_threads(1)
    modules = [
        build(T, T, torch.float32, torch.Generator().manual_seed(seed), hidden_size=HIDDEN)
        for seed in range(candidates)
    ]
    weights, _ = stack_module_state(modules)
    optimizer = adamw(weights)
    data = torch.Generator().manual_seed(nets)
    held_out = torch.randn(20000, T, generator=torch.Generator().manual_seed(10**6))
    began = time.monotonic()
    due = {0, steps, *(steps >> n for n in range(1, saves))}
    for step in range(steps + 1):
        if step == steps >> 4 and candidates > nets:
            weights, optimizer, kept = best(weights, optimizer, nets)
            print(f"step {step}, going on: {kept} of {candidates}", flush=True)
        if step in due or step % 16384 == 0:
            with torch.no_grad():
                chosen = logits(weights, held_out).argmax(-2)
            accuracy = (chosen == answer(held_out, "second_argmax")).float().mean(-1).tolist()
            print(
                f"step {step}, {time.monotonic() - began:.0f} s ({time.process_time():.0f} s of CPU), accuracy {[round(a, 3) for a in accuracy]}",
                flush=True,
            )
        if step in due:
            state = {"weights": {k: v.detach().clone() for k, v in weights.items()}, "accuracy": accuracy}
            state |= {
                "seconds": time.monotonic() - began,
                "cpu_seconds": time.process_time(),
                "step": step,
                "batch": batch,
            }
            atomic_write(folder / f"step_{step:08d}.pt", lambda file, state=state: torch.save(state, file))
        for group in optimizer.param_groups:
            group["lr"] = 0.04 / HIDDEN**0.5 * schedule_factor("exponential", step, steps, 1 / 64)
        n = len(weights["weight_hh"])
        x = torch.randn(n, batch, T, generator=data)
        target = x.topk(2, -1).indices[..., 1]
        # the sum over nets of each net's mean: nobody's gradient depends on another
        loss = torch.nn.functional.cross_entropy(logits(weights, x), target) * n
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


STATEMENTS: dict[str, tuple[str, Callable[[float], bool]]] = {
    # statement: (quantity, what it says about its value); "beyond chance" is the quantity's own null
    "some rotating mode grows, |eigenvalue| > 1": ("top_complex_modulus", lambda v: v > 1),
    "most modes rotate": ("complex_share", lambda v: v > 0.5),
    "a readout column is mostly one frequency (> 50 %)": ("best_dominant_share", lambda v: v > 0.5),
    "readout columns are mean + 2 frequencies (> 90 %)": ("best_quality", lambda v: v > 0.9),
    "readout's singular vectors are sinusoids (> 50 %)": ("svd_dominant_share", lambda v: v > 0.5),
    "an impulse response is mostly one frequency": ("impulse_dominant_share", lambda v: v > 0.5),
    "W and x grow the energy": ("growth", lambda v: v > 1),
    "the ReLU damps it by more than half": ("damping", lambda v: v < 0.5),
    "the two nearly cancel (net within 20 % of 1)": ("net_growth", lambda v: abs(v - 1) < 0.2),
    "the ReLU lowers the spectral centroid": ("centroid_shift", lambda v: v < 0),
    "the top mode grows less than linearly": ("top_mode_ratio", lambda v: v < 1),
    "fast modes survive the ReLU less": ("survival_vs_omega", lambda v: v < 0),
    "a pair of units rotates within 7 %": ("best_pair_error", lambda v: v < 0.07),
    "W is far from normal (Henrici > 0.5)": ("henrici", lambda v: v > 0.5),
    "some unit is never clipped (backbone)": ("backbone_units", lambda v: v > 0),
    "late dynamics are marginal (0.92..1.09)": ("active_set_radius", lambda v: 0.92 <= v <= 1.09),
}


def read(file: Path) -> None:
    """Print the statements' table for the stacked weights of a file."""
    state = torch.load(file, weights_only=True)
    x = torch.randn(512, T, generator=torch.Generator().manual_seed(10**6 + 1))
    stacked = {name: weight.double() for name, weight in state["weights"].items()}
    nets = len(stacked["weight_hh"])
    values: dict[str, list[float]] = {}
    beyond: dict[str, list[bool]] = {}
    for n in range(nets):
        weights = {name: weight[n] for name, weight in stacked.items()}
        report = analyze(weights["weight_hh"], weights["weight_ih"], weights["readout.weight"], x)
        quantities = report.quantities
        for name, q in quantities.items():
            values.setdefault(name, []).append(q.value)
            beyond.setdefault(name, []).append(q.flagged)
        shift = quantities["centroid_after"].value - quantities["centroid_before"].value
        values.setdefault("centroid_shift", []).append(shift)
        roles = {role: report.trajectory.roles.count(role) for role in report.trajectory.roles}
        print(f"net {n}: accuracy {state['accuracy'][n]:.3f}, roles {roles}")
    print(f"median accuracy {sorted(state['accuracy'])[nets // 2]:.3f} after {state['step']} steps of {state['batch']}")
    print(f"{'statement':<51} {'holds':>5} {'p<.05':>5}  values")
    for statement, (name, holds) in STATEMENTS.items():
        count = sum(map(holds, values[name]))
        chance = f"{sum(beyond[name])}/{nets}" if name in beyond else "-"
        numbers = " ".join(f"{value:.2f}" for value in values[name])
        print(f"{statement:<51} {count}/{nets:<3} {chance:>5}  {numbers}")


if __name__ == "__main__":
    parser = console.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("train", "read"))
    parser.add_argument("path", type=Path)
    for name, default in (("steps", 300_000), ("batch", 512), ("nets", 5), ("saves", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--candidates", type=int, help="start so many nets, go on with the best (as many as nets)")
    chosen = parser.parse_args()
    candidates = chosen.nets if chosen.candidates is None else chosen.candidates
    if min(chosen.steps, chosen.batch, chosen.nets, chosen.saves) < 1 or candidates < chosen.nets:
        parser.error("all numbers must be at least 1 and candidates at least nets")
    if chosen.action == "train":
        train(chosen.path, chosen.steps, chosen.batch, chosen.nets, chosen.saves, candidates)
    elif not chosen.path.is_file():
        parser.error(f"no file {chosen.path}")
    else:
        read(chosen.path)
