"""The entry point `python -m wavebase.probe PATH`. Light to import."""

from wavebase.cli.signals import run_main

__all__ = ["main"]


def main() -> None:
    """Run `wavebase.cli.probe.main`."""
    run_main("wavebase.cli.probe")


if __name__ == "__main__":
    main()
