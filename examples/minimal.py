"""The whole idea in one file: write an algorithm into a net, check it, train the net, and ask whether the algorithm is still there.

    python examples/minimal.py          # half a minute on one core; the figure goes to outputs/minimal.png

The net is an LSTM whose weights are written by hand so that it computes the power spectrum of every window of T samples.
Training it on exact targets would move nothing, since the gradient is zero. So the targets carry noise.
"""

from pathlib import Path

import torch
from matplotlib.figure import Figure

import wavebase

T = 4  # samples in a window
STEPS = 3000
BATCH = 64
LABEL_NOISE = 0.1  # standard deviation of the noise on targets, in units of their root mean square
LEARNING_RATE = 2.6e-4  # half of the largest stable rate, 2 / lambda_max, in the net's own coordinates


def white_noise(count: int, generator: torch.Generator, windows: int = 1) -> torch.Tensor:
    """Draw signals [count, windows * T] of uniform numbers between -1 and 1."""
    return torch.rand(count, windows * T, generator=generator, dtype=torch.float64) * 2 - 1


def relative_error(output: torch.Tensor, target: torch.Tensor) -> float:
    """Return ||output - target|| / ||target||: 0 is exact, 1 is what a net that outputs zero gets."""
    return ((output - target).norm() / target.norm()).item()


# 1. The exact net. `construction` describes the algorithm: its blocks of units, its mask, its error bound.
net = wavebase.spectral_lstm(T, dtype=torch.float64)
exact = net.construction
print(f"{exact.hidden_size} units in blocks: " + ", ".join(f"{name} {len(range(*units.indices(exact.hidden_size)))}" for name, units in exact.blocks.items()))  # fmt: skip

# 2. Check it against the FFT, beside what no algorithm at all would get.
held_out = white_noise(512, torch.Generator().manual_seed(1))
spectra = wavebase.power_spectrum(held_out, T)
with torch.no_grad():
    print(
        f"relative error: exact net {relative_error(net(held_out), spectra):.1e}, zero output 1, mean of each bin",
        end=" ",
    )
    print(f"{relative_error(spectra.mean((0, 1)).expand_as(spectra), spectra):.2f}")

# 3. Train it with plain SGD. Parameters hold the weights over their natural units, so one rate suits all of them.
start = {name: weight.clone() for name, weight in net.named_weights().items()}
optimizer = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE)
data = torch.Generator().manual_seed(0)
size = spectra.square().mean().sqrt()
steps, errors = [], []
for step in range(STEPS + 1):
    if step % 100 == 0:
        with torch.no_grad():
            steps.append(step)
            errors.append(relative_error(net(held_out), spectra))
    signal = white_noise(BATCH, data)
    target = wavebase.power_spectrum(signal, T)
    target = target + LABEL_NOISE * size * torch.randn(target.shape, generator=data, dtype=torch.float64)
    loss = torch.nn.functional.mse_loss(net(signal), target) / size**2  # relative, so that the rate has no unit
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# 4. What became of it? The verdict looks at how the function is computed, not only at the error.
trained = net.named_weights()
moved = sum(int((trained[name] != start[name]).sum()) for name in start)
print(
    f"after {STEPS} steps: relative error {errors[-1]:.2g}; {moved} of {sum(w.numel() for w in start.values())} weights moved"
)
verdict = wavebase.verdict(trained, exact)
print(f"verdict: {verdict.name}")
for reason in verdict.reasons:
    print(f"  {reason}")

# 5. A control that must look bad: the same net without its oscillators.
broken = {name: weight.clone() for name, weight in trained.items()}
broken["weight_hh_cell"][exact.blocks["gen"]] = 0
print(f"without its oscillators: {wavebase.verdict(broken, exact).name}")

# 6. One figure.
figure = Figure(figsize=(6, 3.6), layout="constrained")
axes = figure.subplots()
axes.semilogy(steps, errors, label="net that started exact")
axes.axhline(1, color="gray", linestyle=":", label="zero output")
axes.set(xlabel="training step", ylabel="relative error, held out", title=f"SGD under label noise: {verdict.name}")
axes.legend()
path = Path("outputs/minimal.png")
path.parent.mkdir(exist_ok=True)
figure.savefig(path, dpi=150)
print(f"figure: {path}")
