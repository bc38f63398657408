"""What do the dashboard, a report, a run's own page and the console look like? Trains a few small nets below a temporary folder and
photographs each page in a headless Chromium at 1400 and 800 pixels, and a terminal of 80 columns: a few minutes.

    python experiments/screenshots.py    docs/pictures/{dashboard,hparams,report,look}{,_800}.png, docs/pictures/terminal.png
"""

from __future__ import annotations

import base64
import fcntl
import html
import io
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from PIL import Image
from tensorboard import program

from wavebase import console
from wavebase.records.atomic import atomic_write

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# no sandbox: a container's root has none, and it opens our own pages only
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update --disable-sync --hide-scrollbars --remote-debugging-pipe"
WIDTHS = {"": 1400, "_800": 800}
# The exact net at half the boundary does not move, and must look like it.
SWEEP = "-m T=4 model=spectral,perturbed optim.lr_over_boundary=0.5,1.5 seed=range(0,3) train.steps=200 train.log_every=4 probe.every=20 hydra/launcher=stacked hydra.sweep.dir=outputs/first_sweep"
WATCHED = "model=perturbed train.steps=400 train.log_every=10 train.checkpoint_every=20 probe.every=20 probe.figures=[]"
SHARP = "-m T=4 model=perturbed optim.lr_over_boundary=0.5,1.5 train.steps=200 train.log_every=4 probe.every=10 probe.measure=[function.held_out_error,position.distance,drift.weight_drift,gradient.movement,curvature.sharpness] hydra.sweep.dir=outputs/watched"
CHARTS = 4
COLOURS = {31: "#c62828", 32: "#2e7d32", 33: "#b26a00", 36: "#00796b"}  # of a terminal
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

# until the table of settings has its rows
ROWS = """(async () => {
  const below = root => [...root.querySelectorAll("*")].flatMap(e => [e, ...(e.shadowRoot ? below(e.shadowRoot) : [])]);
  for (let n = 0; n < 100; n++) {
    await new Promise(done => setTimeout(done, 300));
    if (below(document).some(e => e.children.length == 0 && /^perturbed-/.test(e.textContent.trim()))) break;
  }
  await new Promise(done => setTimeout(done, 1500));
})()"""


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
        return self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)["result"].get(
            "value"
        )

    def photograph(self, name: str) -> None:
        """docs/pictures/<name>.png, in at most 256 colours: a third of the size."""
        content = base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])
        small = io.BytesIO()
        Image.open(io.BytesIO(content)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "png", optimize=True)  # fmt: skip
        atomic_write(PICTURES / f"{name}.png", lambda file: file.write(small.getvalue()))

    def visit(self, address: str, seconds: float = 1.0) -> None:
        """Open a page and wait."""
        self.ask("Page.navigate", url=address)
        time.sleep(seconds)

    def at_both_widths(self, name: str, address: str, height: int, script: str = "1", seconds: float = 1.0) -> None:
        """Photograph a page at 1400 and at 800 pixels, after a script has run in it."""
        for suffix, width in WIDTHS.items():
            self.look(width, height)
            self.visit("about:blank", 0.2)
            self.visit(address, seconds)
            self.value(script)
            self.photograph(f"{name}{suffix}")


def run(words: str) -> None:
    """`wavebase run`. Raises RuntimeError if it fails."""
    if subprocess.run([sys.executable, "-m", "wavebase.run", *words.split()]).returncode:
        raise RuntimeError(f"every run must finish, got a failure of wavebase run {words}; see above")


def dashboard(browser: Browser) -> None:
    """TensorBoard's pages of custom scalars and of settings, once it has read both runs to their ends."""
    run(SHARP)
    server = program.TensorBoard()
    words = ["--logdir", "outputs/watched", "--load_fast=false", "--reload_interval=0", "--host=127.0.0.1", "--port=0"]
    server.configure(argv=[None, *words])
    address = server.launch()
    read: list[str] = []
    while len(read) < 2:
        time.sleep(0.2)
        tags = json.load(urlopen(f"{address}data/plugin/text/tags"))
        read = [name for name in tags if "verdict/text_summary" in tags[name]]
    for suffix, width in WIDTHS.items():
        browser.look(width, 900)
        browser.visit("about:blank", 0.2)
        browser.visit(f"{address}#custom_scalars&_smoothingWeight=0")
        if (charts := browser.value(CLICKS)) != CHARTS:
            raise RuntimeError(f"TensorBoard must show {CHARTS} charts, got {charts}; CLICKS is for another version of it")  # fmt: skip
        browser.photograph(f"dashboard{suffix}")
    browser.at_both_widths("hparams", f"{address}#hparams", 500, ROWS)


def report(browser: Browser) -> None:
    """The page of a sweep, and of one of its runs."""
    run(SWEEP)
    browser.at_both_widths("report", Path("outputs/first_sweep/report.html").absolute().as_uri(), 1500)


def one_run(browser: Browser) -> None:
    """The page to scroll through a run, at its middle."""
    run(f"{WATCHED} hydra.run.dir=outputs/run")
    subprocess.run([sys.executable, "-m", "wavebase", "look", "outputs/run"], check=True)
    middle = "show(Math.floor(data.steps.length / 4))"
    browser.at_both_widths("look", Path("outputs/run/look.html").absolute().as_uri(), 1000, middle)


def terminal(browser: Browser) -> None:
    """A run as a terminal of 80 columns shows it."""
    words = ["-m", "wavebase", "run", *WATCHED.split(), "T=4", "hydra.run.dir=outputs/shown", "train.batch=1024"]
    shown = screen([sys.executable, *words])
    lines = f"$ wavebase run {' '.join(words[3:5])} T=4\n{shown}"
    page = f"<body style='margin:0'><pre style='font:14px/1.35 monospace;width:80ch;margin:8px;white-space:pre-wrap'>{coloured(lines)}</pre>"
    Path("terminal.html").write_text(page)
    browser.look(720, 24 * (lines.count("\n") + 2))
    browser.visit(Path("terminal.html").absolute().as_uri())
    height = int(browser.value("document.querySelector('pre').getBoundingClientRect().bottom")) + 8
    browser.look(720, height)
    browser.photograph("terminal")


def screen(command: list[str]) -> str:
    """What a terminal of 80 columns shows at the end, with the last state of the progress bar that stood before."""
    control, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        text = b""
        while True:
            try:
                part = os.read(control, 65536)
            except OSError:  # it ended
                break
            if not part:
                break
            text += part
        process.wait()
    lines = []
    for line in text.decode().replace("\r\n", "\n").split("\n"):
        states = [state for state in line.split("\r") if state.strip()]
        bars = [state for state in states if "|" in state and " left" in state]
        lines += bars[len(bars) // 2 :][:1] + [state for state in states if state not in bars][-1:] if bars else states[-1:] or [""]  # fmt: skip
    return "\n".join(lines)


def coloured(text: str) -> str:
    """A terminal's text as markup, its colours kept."""
    parts = re.split(r"\x1b\[(\d+)m", text)
    marked = html.escape(parts[0])
    for code, part in zip(parts[1::2], parts[2::2], strict=True):
        colour = COLOURS.get(int(code))
        marked += f"<b style='color:{colour}'>{html.escape(part)}</b>" if colour else html.escape(part)
    return marked


def main() -> None:
    parser = console.Parser(description=__doc__.split("\n\n")[0].replace("\n", " "))
    every = (report, one_run, terminal, dashboard)
    parser.add_argument("only", nargs="*", help=f"some of {', '.join(one.__name__ for one in every)}")
    only = parser.parse_args().only
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        browser = Browser(Path(folder) / "profile")
        try:
            for one in every:
                if not only or one.__name__ in only:
                    one(browser)
        finally:
            browser.say.close()  # it ends
            browser.process.wait()


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, OSError) as error:
        console.print_error(str(error))
        sys.exit(1)
