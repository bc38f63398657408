"""Does the suite pass on a busy machine, on both vector paths? Several copies of it at once are each other's load.

    python tests/under_load.py [--each 4] [--log outputs/under_load] [pytest's own arguments]

Half of the copies are forced to AVX2, the other half run what the processor has. Each runs in a copy of the committed tree.
Prints the result of each, the processor time and the machine's load every minute; status 1 if one fails.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
AVX2 = {
    "WAVEBASE_NATIVE": "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}
PATHS = {"avx2": AVX2, "own": {}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=4, help="copies of the suite on each path")
    parser.add_argument(
        "--log", type=Path, default=ROOT / "outputs/under_load", help="folder of the copies and their output"
    )
    asked, rest = parser.parse_known_args()
    if asked.each < 1:
        parser.error(f"--each must be at least 1, got {asked.each}")
    log = asked.log.resolve()
    shutil.rmtree(log, ignore_errors=True)
    log.mkdir(parents=True)
    suites, outputs = {}, {}
    for path, variables in PATHS.items():
        for number in range(1, asked.each + 1):
            name = f"{path}-{number}"
            tree = log / name
            subprocess.run(["git", "clone", "-q", "--no-hardlinks", ROOT, tree], check=True)
            command = [sys.executable, "-m", "pytest", "-q", "--basetemp", log / f"{name}.tmp", *rest]
            environment = {**os.environ, **variables, "PYTHONPATH": str(tree / "src")}
            outputs[name] = open(log / f"{name}.txt", "w")  # noqa: SIM115  # closed when its suite ends
            suites[name] = subprocess.Popen(
                command, cwd=tree, env=environment, stdout=outputs[name], stderr=subprocess.STDOUT
            )
    began, loads, running = time.monotonic(), [], dict(suites)
    while running:
        for name, suite in list(running.items()):
            if suite.poll() is not None:
                del running[name]
                outputs[name].close()
                failures = [
                    line for line in (log / f"{name}.txt").read_text().splitlines() if line.startswith("FAILED")
                ]
                print("\n  ".join([f"{name}: status {suite.returncode}", *failures]), flush=True)
        if time.monotonic() - began > 60 * len(loads):
            loads.append(os.getloadavg()[0])
            print(f"minute {len(loads) - 1}: load {loads[-1]:.1f}, {len(running)} suites running", flush=True)
        time.sleep(1)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    failed = [name for name, suite in suites.items() if suite.returncode]
    print(f"{len(suites) - len(failed)} of {len(suites)} suites passed; load {statistics.median(loads):.1f} (median of minutes), "
          f"{(used.ru_utime + used.ru_stime) / 60:.0f} CPU minutes; output in {log}")  # fmt: skip
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
