"""The entry point `python -m wavebase.probe PATH`. Light to import."""

from wavebase.cli.signals import run_main
from wavebase.renamed import old_names

__all__ = ["main"]
__getattr__ = old_names("probe")


def main() -> None:
    """Run `wavebase.cli.probe.main`."""
    run_main("wavebase.cli.probe")


if __name__ == "__main__":
    main()
