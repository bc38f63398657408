"""The entry point `python -m wavebase.run model=spectral optim=sgd`; sweeps with -m. Light to import."""

from wavebase.cli.run import main
from wavebase.renamed import old_names

__all__ = ["main"]
__getattr__ = old_names("run")

if __name__ == "__main__":
    main()
