"""The entry point `python -m wavebase.run model=spectral optim=sgd`; sweeps with -m. Light to import."""

from wavebase.cli.run import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
