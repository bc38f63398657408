"""examples/minimal.py does what its text says."""

import re

from conftest import FULL, ROOT


def test_the_minimal_example_runs_and_its_control_looks_bad(tmp_path, monkeypatch, capsys):
    file = ROOT / "examples" / "minimal.py"
    lines = file.read_text()
    assert len(lines.splitlines()) <= 110 and "\nSTEPS = 3000\n" in lines
    program = lines if FULL else lines.replace("\nSTEPS = 3000\n", "\nSTEPS = 300\n")
    monkeypatch.chdir(tmp_path)
    exec(compile(program, file, "exec"), {"__name__": "__main__"})
    out = capsys.readouterr().out
    start, end = (float(found) for found in re.findall(r"relative error:? (?:exact net )?([0-9.e+-]+\d)", out))
    assert start < 1e-14 < 1e-4 < end < 0.02, "exact, then moved by the noise"
    assert int(re.search(r"(\d+) of 3644 weights moved", out)[1]) > 1000
    assert "verdict: preserved" in out and "without its oscillators: broken" in out
    assert (tmp_path / "outputs" / "minimal.png").read_bytes().startswith(b"\x89PNG")
