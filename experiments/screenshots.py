"""What do the dashboard and a sweep's report look like? Trains a few small nets below a temporary folder and photographs both pages
in a headless Chromium: a minute or two.

    python experiments/screenshots.py    docs/pictures/dashboard.png, docs/pictures/report.png
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tensorboard import program

from wavebase import console
from wavebase.records.atomic import atomic_write

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# no sandbox: a container's root has none, and it opens our own pages only
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update --disable-sync --hide-scrollbars --remote-debugging-pipe"
SWEEP = "-m model=perturbed,random optim.lr_over_boundary=0.5,1.5 seed=range(0,8) train.steps=200 train.log_every=4 probe.figures=[] hydra/launcher=stacked hydra.sweep.dir=outputs/first_sweep"
WATCHED = "model=perturbed train.steps=400 train.log_every=10 probe.every=20 probe.figures=[] probe.measure=[function.held_out_error,drift.weight_drift,curvature.sharpness]"
RATES = {"under_the_boundary": 0.5, "over_the_boundary": 1.5}
CHARTS = 4
# What no address can ask of TensorBoard is clicked, once its charts are there: logarithmic axes that show outliers.
CLICKS = """(async () => {
  const pause = ms => new Promise(done => setTimeout(done, ms));
  const below = root => [...root.querySelectorAll("*")].flatMap(e => [e, ...(e.shadowRoot ? below(e.shadowRoot) : [])]);
  let logarithmic = [];
  for (let n = 0; n < 100 && logarithmic.length < CHARTS; n++) {
    await pause(300);
    logarithmic = below(document).filter(e => e.getAttribute("icon") == "line-weight");
  }
  await pause(2000);
  const outliers = below(document).filter(e => e.tagName == "PAPER-CHECKBOX" && e.checked && /outliers/.test(e.textContent));
  [...logarithmic, ...outliers].forEach(e => e.click());
  await pause(3000);
  return logarithmic.length;
})()""".replace("CHARTS", str(CHARTS))


class Browser:
    """A headless Chromium with one page, spoken to through two pipes in its debugging protocol
    (https://chromedevtools.github.io/devtools-protocol). Raises RuntimeError where there is none or it ends."""

    def __init__(self, folder: Path):
        path = next(filter(None, map(shutil.which, BROWSERS)), None)
        if path is None:
            raise RuntimeError(f"one of {', '.join(BROWSERS)} must be installed, got none; install Debian's package chromium")  # fmt: skip
        (heard, say), (hear, said) = os.pipe(), os.pipe()

        def plug() -> None:  # it reads from descriptor 3 and answers on 4, which are taken by now
            os.dup2(heard, 3)
            os.dup2(said, 4)

        alone = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        command = [path, *FLAGS.split(), alone, f"--user-data-dir={folder}"]
        self.process = subprocess.Popen(command, preexec_fn=plug, pass_fds=(3, 4), stderr=subprocess.DEVNULL)
        os.close(heard)
        os.close(said)
        self.say, self.hear, self.count, self.page = os.fdopen(say, "wb", 0), os.fdopen(hear, "rb"), 0, {}
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.page = {"sessionId": self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of one call. Raises RuntimeError if it is refused."""
        self.count += 1
        self.say.write(json.dumps({"id": self.count, "method": method, "params": params, **self.page}).encode() + b"\0")
        while True:
            message = bytearray()
            while (byte := self.hear.read(1)) != b"\0":
                if not byte:
                    raise RuntimeError(f"the browser must answer {method}, got its end; start it by hand to see why")
                message += byte
            answer = json.loads(message)
            if answer.get("id") == self.count:
                if "error" in answer:
                    raise RuntimeError(f"the browser must do {method}, got {answer['error']['message']}; its version may be another")  # fmt: skip
                return answer["result"]

    def look(self, width: int, height: int) -> None:
        """The size of the page in pixels."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def value(self, script: str) -> Any:
        """What the script comes to, promises kept."""
        return self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)["result"]["value"]

    def photograph(self, name: str) -> None:
        """docs/pictures/<name>.png."""
        content = base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])
        atomic_write(PICTURES / f"{name}.png", lambda file: file.write(content))


def run(words: str) -> None:
    """`wavebase run`. Raises RuntimeError if it fails."""
    if subprocess.run([sys.executable, "-m", "wavebase.run", *words.split()]).returncode:
        raise RuntimeError(f"every run must finish, got a failure of wavebase run {words}; see above")


def dashboard(browser: Browser) -> None:
    """TensorBoard's page of custom scalars, once it has read both runs to their ends."""
    for name, rate in RATES.items():
        run(f"{WATCHED} optim.lr_over_boundary={rate} hydra.run.dir=outputs/watched/{name}")
    server = program.TensorBoard()
    words = ["--logdir", "outputs/watched", "--load_fast=false", "--reload_interval=0", "--host=127.0.0.1", "--port=0"]
    server.configure(argv=[None, *words])
    address = server.launch()
    read: list[str] = []
    while len(read) < len(RATES):
        time.sleep(0.2)
        tags = json.load(urlopen(f"{address}data/plugin/scalars/tags"))
        read = [name for name in tags if "final/relative_error" in tags[name]]
    browser.look(1500, 770)
    browser.ask("Page.navigate", url=f"{address}#custom_scalars&_smoothingWeight=0")
    if (charts := browser.value(CLICKS)) != CHARTS:
        raise RuntimeError(f"TensorBoard must show {CHARTS} charts, got {charts}; CLICKS is for another version of it")
    browser.photograph("dashboard")


def report(browser: Browser) -> None:
    """The page of a sweep, down to its last picture."""
    run(SWEEP)
    browser.look(1100, 770)
    browser.ask("Page.navigate", url=Path("outputs/first_sweep/report.html").absolute().as_uri())
    time.sleep(1)
    browser.look(1100, int(browser.value("[...document.querySelectorAll('h2')].at(-1).getBoundingClientRect().top")))
    browser.photograph("report")


def main() -> None:
    console.Parser(description=__doc__.split("\n\n")[0].replace("\n", " ")).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        browser = Browser(Path(folder) / "profile")
        try:
            report(browser)
            dashboard(browser)
        finally:
            browser.say.close()  # it ends
            browser.process.wait()


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, OSError) as error:
        console.print_error(str(error))
        sys.exit(1)
