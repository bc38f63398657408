"""Is the exact cosine transform exact at any N? Expected: yes to rounding, 1e-14 (float32) and 1e-31 (float64) mean
squared error, falling behind only where angles are rounded before they are reduced: by N^2 with one number a frequency.

    python experiments/cosine_exactness.py          about a minute; writes outputs/studies/cosine_exactness/
"""

import torch
from matplotlib.figure import Figure

from wavebase import study
from wavebase.figures import style
from wavebase.models.cosine import cosine_transform
from wavebase.records.atomic import atomic_write
from wavebase.signals.generators import WhiteNoise
from wavebase.spectrum import dct_frequencies, sample_amplitudes

SIZES = (64, 128, 256, 512, 1024, 2048, 4096)


def naive(x: torch.Tensor, w: torch.Tensor, angles: torch.dtype) -> torch.Tensor:
    """The transform and its inverse with angles w n formed in `angles`, everything else in the dtype of x."""
    n = torch.arange(len(w), dtype=angles)
    basis = torch.outer(w.to(angles), n).cos().to(x.dtype)
    a = sample_amplitudes(torch.tensor([1, 2**0.5], dtype=x.dtype), len(w))
    return ((x * a) @ basis.mT @ basis) * a


def main() -> None:
    forms = {
        "float32, this project": lambda x, w: cosine_transform(len(w), tied=True)(x.float()),
        "float32, angles in float32": lambda x, w: naive(x.float(), w, torch.float32),
        "float32, angles in float64 of float32 frequencies": lambda x, w: naive(x.float(), w.float(), torch.float64),
        "float64, this project": lambda x, w: cosine_transform(len(w), tied=True, dtype=torch.float64)(x),
        "float64, one float64 number a frequency": lambda x, w: naive(x, w, torch.float64),
    }
    errors = {form: [] for form in forms}
    for N in SIZES:
        x = WhiteNoise().sample(64, N, torch.Generator().manual_seed(0)).float().double()  # the same in both dtypes
        with torch.no_grad():
            for form, net in forms.items():
                errors[form].append((net(x, dct_frequencies(N)).double() - x).square().mean().item())
    for form, values in errors.items():
        print(f"{form:<50}", " ".join(f"{value:8.1e}" for value in values))
    figure = Figure(figsize=(8, 5), layout="constrained")
    ax = figure.subplots()
    for (form, values), colour in zip(errors.items(), style.COLOURS, strict=False):
        ax.plot(SIZES, values, "o-" if "project" in form else "x--", color=colour, label=form)
    ax.axhline(1 / 3, color=style.GREY, linestyle=":", label="predicting zero")
    ax.set(xscale="log", yscale="log", xlabel="N = M", ylabel="mean squared error", title="Exactness against N")
    ax.set_xticks(SIZES, map(str, SIZES))
    ax.set_xticks([], minor=True)
    ax.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    atomic_write(study.FOLDER / "cosine_exactness" / "exactness.png", lambda f: f.write(style.png(figure)))


if __name__ == "__main__":
    main()
