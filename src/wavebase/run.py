"""The entry point `python -m wavebase.run model=spectral optim=sgd`; sweeps with -m. Light to import."""

from wavebase.cli.signals import run_main

__all__ = ["main"]


def main() -> None:
    """Run `wavebase.cli.run.main`."""
    run_main("wavebase.cli.run")


if __name__ == "__main__":
    main()
