"""Does gradient descent keep the exact cosine transform? Expected: at every N and seed under the stability boundary
(half of it) to rounding, and not over it (1.5), where rounding errors grow.

    python experiments/cosine_keeps.py              a few minutes; writes outputs/studies/cosine_keeps/
"""

from wavebase import study

OVERRIDES = (
    "experiment=cosine_reconstruction",
    "T=16,64,256",
    "optim.lr_over_boundary=0.5,1.5",
    "seed=0,1,2",
    "train.steps=200",
    "train.batch=32",
    *study.FAST_OVERRIDES,
)


def main() -> None:
    runs = study.sweep("cosine_keeps", *OVERRIDES)
    print(f"{'N':>4} {'of boundary':>11} {'verdicts':<22} {'error at the end':>17} {'drift, bins (max)':>18}")
    for (N, fraction), members in study.grouped(runs, "T", "optim.lr_over_boundary").items():
        drift = [run.value("probes", "final", "frequency/analysis_drift_max") for run in members]
        worst = "not finite" if None in drift else f"{max(drift):.1e}"
        verdicts = ", ".join(sorted({run.verdict for run in members}))
        errors = study.final_errors(members)
        print(f"{N:>4} {fraction:>11} {verdicts:<22} {errors.min():>8.1e} {errors.max():>8.1e} {worst:>18}")


if __name__ == "__main__":
    main()
