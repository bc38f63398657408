"""The entry point `python -m wavebase.probe PATH`. Light to import."""

from wavebase.cli.probe import main
from wavebase.renamed import old_names

__all__ = ["main"]
__getattr__ = old_names("probe")

if __name__ == "__main__":
    main()
