"""`python -m wavebase.report FOLDER`."""

from wavebase.report import main

if __name__ == "__main__":
    main()
