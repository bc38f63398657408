"""The entry point `python -m wavebase.probe PATH`. Light to import."""

from wavebase.cli.probe import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
