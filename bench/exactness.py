"""How exact is the construction? Relative error against the float64 FFT, for every window length, both cells, both dtypes.

    python bench/exactness.py            prints the table and writes bench/results/exactness.md

256 windows of uniform white noise; ||P_hat - P||_F / ||P||_F over all of them, and for the worst single window; then
the worst of ten windows in a row (32 streams). A net that outputs zero has 1 everywhere.
"""

import platform
from pathlib import Path

import torch

import wavebase


def relative_error(output: torch.Tensor, target: torch.Tensor) -> float:
    """Frobenius norm of the difference over that of the target."""
    return ((output.double() - target).norm() / target.norm()).item()


def main() -> None:
    """Measure, print and write."""
    lines = [
        "| T | cell | dtype | units | 256 windows | worst window | worst of ten in a row | float FFT itself |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for T in (2, 3, 4, 5, 7, 8, 16, 31, 32, 64, 100, 128):
        for input_gate, cell in (("tanh", "signed gate"), ("sigmoid", "stock")):
            for dtype in (torch.float64, torch.float32):
                net = wavebase.spectral_lstm(T, dtype=dtype, input_gate=input_gate)
                draw = torch.Generator().manual_seed(T)
                signal = (torch.rand(256, T, generator=draw, dtype=torch.float64) * 2 - 1).to(dtype)
                stream = (torch.rand(32, 10 * T, generator=draw, dtype=torch.float64) * 2 - 1).to(dtype)
                with torch.no_grad():
                    output, streamed = net(signal), net(stream)
                target, target_stream = wavebase.power_spectrum(signal, T), wavebase.power_spectrum(stream, T)
                worst = ((output.double() - target).norm(dim=-1) / target.norm(dim=-1)).max().item()
                ten = max(relative_error(streamed[:, j], target_stream[:, j]) for j in range(10))
                fft = relative_error(torch.fft.fft(signal).abs().square()[:, None], target)
                lines.append(
                    f"| {T} | {cell} | {str(dtype).removeprefix('torch.')} | {net.construction.hidden_size} "
                    f"| {relative_error(output, target):.1e} | {worst:.1e} | {ten:.1e} | {fft:.1e} |"
                )
                print(lines[-1], flush=True)
    head = (
        f"Measured with `python bench/exactness.py`, torch {torch.__version__}, Python {platform.python_version()}.\n\n"
    )
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "exactness.md").write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
