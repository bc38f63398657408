"""examples/minimal.py does what its text says."""

import re
import subprocess
import sys

from conftest import ROOT


def test_the_minimal_example_runs_and_its_control_looks_bad(tmp_path):
    lines = (ROOT / "examples" / "minimal.py").read_text()
    assert len(lines.splitlines()) <= 110
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "minimal.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    start, end = (float(found) for found in re.findall(r"relative error:? (?:exact net )?([0-9.e+-]+\d)", done.stdout))
    assert start < 1e-14 < 1e-4 < end < 0.02, "exact, then moved by the noise"
    assert int(re.search(r"(\d+) of 3644 weights moved", done.stdout)[1]) > 1000
    assert "verdict: preserved" in done.stdout and "without its oscillators: broken" in done.stdout
    assert (tmp_path / "outputs" / "minimal.png").read_bytes().startswith(b"\x89PNG")
