"""`python -m wavebase.report FOLDER`."""

from wavebase.report import main

main()
