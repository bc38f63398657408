"""The tests that need a CUDA device, in a process of their own: one that has started CUDA cannot be forked, as other tests do."""

import os
import subprocess
import sys

import pytest

from conftest import DEVICES, ROOT, VISIBLE


@pytest.mark.skipif(not DEVICES, reason="no CUDA device")
def test_everything_on_the_device_agrees_with_the_cpu():
    environment = {**os.environ, "WAVEBASE_ON_DEVICE": "1"}
    environment.pop("CUDA_VISIBLE_DEVICES")
    if VISIBLE is not None:
        environment["CUDA_VISIBLE_DEVICES"] = VISIBLE
    command = [sys.executable, "-m", "pytest", "-q", "-rs", str(ROOT / "tests" / "on_device")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
