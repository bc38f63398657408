"""A folder from a stranger: probing it and reporting on it runs no code, changes nothing outside, prints no secret, and ends in one line."""

import csv
import io
import json
import os
import pickle
import shutil
import signal
import sys
import zipfile

import numpy as np
import pytest
import torch
import yaml

from conftest import FULL, ROOT, SMALL
from wavebase import console
from wavebase.cli import probe
from wavebase.experiment import runner
from wavebase.records.atomic import RecordsError, atomic_write, lock_owner, open_regular
from wavebase.records.events import Events
from wavebase.records.folder import RunFolder
from wavebase.report import __main__

SECRET = "swordfish-4711"
QUICK = ("samples=8", "draws=4", "panels=eigenvalues")
ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202edrow"


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """Files that nothing may change or print."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "secret").write_text(f"{SECRET}: {SECRET}\n")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "train_loss.png").write_text(SECRET)
    return folder


@pytest.fixture
def unharmed(outside, tmp_path, monkeypatch):
    """The folder outside, compared before and after; a secret in the environment; and nothing waits for ever."""
    before = listed(outside)
    monkeypatch.setenv("WAVEBASE_SECRET", SECRET)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def late(*_):
        raise AssertionError("it waits for what never comes")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    yield outside
    signal.alarm(0)
    assert listed(outside) == before
    assert not (tmp_path / "ran").exists(), "code of others ran"
    for file in tmp_path.rglob("*"):
        if file.is_file() and not file.is_symlink():
            assert SECRET.encode() not in file.read_bytes(), f"{file} holds the secret"


def listed(folder):
    return {
        file: (file.read_bytes() if file.is_file() else b"", file.lstat().st_mtime_ns) for file in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A finished run of two steps."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    from wavebase.cli import names

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(names.conf_folder()), version_base="1.3"):
        node = OmegaConf.to_container(compose("config", [*SMALL, "model.bins=[0,1]"]), resolve=True)
    folder = tmp_path_factory.mktemp("good") / "run"
    runner.run(runner.Job(node, folder, {"model": "spectral"}), single=False)
    return folder


class Call:
    """What a pickle runs when it is loaded."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def in_config(change):
    """The stored configuration with something else in it, and a summary that vouches for it."""

    def harm(folder, outside, ran):
        node = yaml.safe_load((folder / "config.yaml").read_text())
        change(node, ran)
        RunFolder(folder)
        (folder / "config.yaml").write_text(yaml.safe_dump(node))
        vouch(folder)

    return harm


def vouch(folder, **changes):
    import hashlib

    summary = json.loads((folder / "summary.json").read_text())
    digest = hashlib.sha256((folder / "config.yaml").read_bytes()).hexdigest()
    (folder / "summary.json").write_text(json.dumps({**summary, "config_sha256": digest, **changes}))


def config_text(text):
    def harm(folder, outside, ran):
        (folder / "config.yaml").write_text(text.replace("RAN", str(ran)))

    return harm


def instead(name, put):
    """Another thing under a record's name."""

    def harm(folder, outside, ran):
        file = folder / name
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        file.unlink(missing_ok=True)
        put(file, outside)

    return harm


def link(file, outside):
    file.symlink_to(outside / "secret")


def pipe(file, outside):
    os.mkfifo(file)


def text(content):
    return lambda file, outside: file.write_text(content)


def checkpoint(make, wanted=None):
    def harm(folder, outside, ran):
        for file in (folder / "checkpoints").glob("*.pt"):
            make(file, ran)

    return harm


def zipped_pickle(file, thing, protocol=2):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(thing, protocol))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


def unpacks_to_much(file, ran):
    whole = torch.load(file, weights_only=True)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"0" * 10**7)
    del whole


def larger_than_stored(file, ran):
    state = torch.load(file, weights_only=True)
    torch.save({**state, "weights": {"weight_hh_l0": torch.zeros(1).expand(10**7, 10**7)}}, file)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{n}: &{n} [{','.join(f'*{m}' for _ in range(9))}]\n" for m, n in zip("abcdefgh", "bcdefghi", strict=True))  # fmt: skip
COMMAND = {"_target_": "wavebase.recurrence.native.build._compile", "command": ["touch", "RAN"], "result": "x"}


def put(*path, value):
    def change(node, ran):
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = json.loads(json.dumps(value).replace("RAN", str(ran)))

    return in_config(change)


# name -> (harm, what `probe` says, what `report` says of it; None where it has nothing to complain about)
HOSTILE = {
    "target": (put("model", value=COMMAND), "model._target_ must name what is registered", None),
    "signal": (put("signal", value=COMMAND), "signal._target_ must name what is registered", None),
    "module": (put("model", "_target_", value="wavebase.experiment.validation.named"), "must name what is registered", None),
    "optimiser": (put("optim", "_target_", value="torch.nn.modules.linear.Linear"), "must name what is registered", None),
    "probe": (put("probe", "measure", value=["mechanism.np.save"]), "probe.measure must name what is registered", None),
    "figure": (put("probe", "figures", value=["os.system"]), None, None),
    "environment": (put("model", "start", value="${oc.env:WAVEBASE_SECRET}"), "got '${oc.env:WAVEBASE_SECRET}'", None),
    "number": (put("optim", "lr", value="${oc.env:WAVEBASE_SECRET}"), "got '${oc.env:WAVEBASE_SECRET}'", None),
    "file": (put("model", "start_from", value="/etc/hostname"), "must be a readable checkpoint", None),
    "memory": (put("task", "held_out_count", value=10**15), "", None),
    "escapes": (put("model", "start", value=f"{ESCAPE}\n\nwavebase: all is well"), "\\x1b", None),
    "keys": (put("model", "gains", value={str(n): n for n in range(6000)}), "more than 5000 keys", "config.yaml must"),
    "tag": (config_text("model: !!python/object/apply:os.system ['touch RAN']\n"), "config.yaml must be readable YAML", "config.yaml must"),
    "path tag": (config_text("model: !!python/object/apply:pathlib.Path [RAN]\n"), "config.yaml must be readable YAML", "config.yaml must"),
    "new tag": (config_text("!!python/object/new:os.system ['touch RAN']\n"), "config.yaml must be readable YAML", "config.yaml must"),
    "anchors": (config_text(BOMB), "an anchor or alias", "config.yaml must"),
    "large": (config_text("a: " + "x" * 2**21), "at most 262144 bytes", "config.yaml must"),
    "deep": (config_text("[" * 50_000), "config.yaml must be readable", "config.yaml must"),
    "sixties": (config_text("a: " + "1:" * 100_000 + "1"), "", "config.yaml must"),
    "digits": (config_text("a: " + "1" * 100_000), "", "config.yaml must"),
    "linked config": (instead("config.yaml", link), "must be a file of its own, got a link", "got a link"),
    "piped config": (instead("config.yaml", pipe), "must be a file of its own, got a pipe", "got a pipe"),
    "config folder": (instead("config.yaml", lambda file, _: file.mkdir()), "must be a file of its own, got a folder", "got a folder"),
    "linked metrics": (instead("metrics.jsonl", link), None, "metrics.jsonl must be a file of its own, got a link"),
    "piped metrics": (instead("metrics.jsonl", pipe), None, "metrics.jsonl must be a file of its own, got a pipe"),
    "deep metrics": (instead("metrics.jsonl", text("[" * 100_000 + "\n")), None, "metrics.jsonl must"),
    "huge step": (instead("metrics.jsonl", text(f'{{"step": {10**30}, "loss/train": 1}}\n')), None, "metrics.jsonl must"),
    "odd tags": (instead("metrics.jsonl", text(json.dumps({"step": 0, f"{ESCAPE}$\\frac{{$": 1e999, "loss/train": 10**17}) + "\n")), None, None),
    "linked summary": (instead("summary.json", link), None, "summary.json must be a file of its own, got a link"),
    "piped summary": (instead("summary.json", pipe), None, "summary.json must be a file of its own, got a pipe"),
    "deep summary": (instead("summary.json", text('{"status":' * 100_000)), None, "summary.json must be readable JSON"),
    "large summary": (instead("summary.json", text('{"status": "' + "x" * 2**24 + '"}')), None, "at most"),
    "failed": (lambda folder, *_: vouch(folder, status="failed", error=f"{ESCAPE}\nfailed: x" + "y" * 10**5), None, "failed: "),
    "choices": (lambda folder, *_: vouch(folder, choices={"model": f"=cmd{ESCAPE}$\\frac", "optim": "@SUM(A1)"}, verdict=f"-1+{ESCAPE}"), None, "summary.json must hold a verdict that wavebase gives"),
    "linked checkpoint": (checkpoint(lambda file, ran: (file.unlink(), file.symlink_to("/etc/hostname"))), "must be a file of its own, got a link", None),
    "piped checkpoint": (checkpoint(lambda file, ran: (file.unlink(), os.mkfifo(file))), "must be a file of its own, got a pipe", None),
    "pickle": (checkpoint(lambda file, ran: zipped_pickle(file, {"net": Call(f"touch {ran}")})), "must be a readable checkpoint", None),
    "bare pickle": (checkpoint(lambda file, ran: file.write_bytes(pickle.dumps(Call(f"touch {ran}")))), "must be a readable checkpoint", None),
    "unpacks": (checkpoint(unpacks_to_much), "compressed parts", None),
    "expands": (checkpoint(larger_than_stored), "a tensor without all of its numbers", None),
    "list": (checkpoint(lambda file, ran: torch.save([1], file)), "a file that holds a list", None),
    "another net": (checkpoint(lambda file, ran: torch.save({"net": {"a": torch.ones(1)}, "learning_rate": 1.0, "lambda_max": None}, file)), "must hold checkpoints of the net", None),
    "no rate": (checkpoint(lambda file, ran: torch.save({"net": {}}, file)), "without its learning rate", None),
    "linked folder": (instead("checkpoints", lambda file, outside: file.symlink_to(outside)), "must be a folder of its own, got a link", None),
    "objects": (lambda folder, outside, ran: np.savez(folder / "examples.npz", signal=np.array([Call(f"touch {ran}")], dtype=object)), "examples.npz must be readable arrays", None),
    "linked examples": (instead("examples.npz", link), "must be a file of its own, got a link", None),
}  # fmt: skip


def commanded(monkeypatch, capsys, main, *words):
    """(exit status, standard output, standard error) of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["wavebase", *map(str, words)])
    try:
        main()
        status = 0
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    for said in (out, err):
        assert SECRET not in said and "Traceback" not in said
        assert said.isprintable() or not set(console.CONTROLS.findall(said)), "nothing that a terminal obeys"
    return status, out, err


# what probing does not read is left to the report
@pytest.mark.parametrize("name", [name for name, (_, said, _) in HOSTILE.items() if said is not None] + ["odd tags"])
def test_probing_a_hostile_folder(name, good, unharmed, tmp_path, monkeypatch, capsys):
    harm, complaint, _ = HOSTILE[name]
    shutil.copytree(good, tmp_path / "run")
    harm(tmp_path / "run", unharmed, tmp_path / "ran")
    status, _, err = commanded(monkeypatch, capsys, probe.main, tmp_path / "run", *QUICK)
    if complaint is None:
        assert (status, err) == (0, "")
    else:
        assert status == 1 and err.count("\n") == 1 and complaint in err and len(err) < 1100, err


def test_the_environment_was_read_before(good, tmp_path, monkeypatch):
    """What the loader of old did: the cases above are not refused for another reason."""
    from omegaconf import OmegaConf

    monkeypatch.setenv("WAVEBASE_SECRET", SECRET)
    (tmp_path / "c.yaml").write_text("lr: ${oc.env:WAVEBASE_SECRET}\np: !!python/object/apply:pathlib.Path [x]\n")
    assert OmegaConf.to_container(OmegaConf.load(tmp_path / "c.yaml"), resolve=True)["lr"] == SECRET
    assert len(RunFolder(good).config()) > 8 and RunFolder(good).config() == yaml.safe_load(
        (good / "config.yaml").read_text()
    )


def options(group):
    return sorted(file.stem for file in (ROOT / "conf" / group).glob("*.yaml"))


@pytest.mark.parametrize("group", ["model", "signal", "task", "optim", "probe", "experiment"])
def test_what_a_run_writes_is_read_back_as_it_was(group, composed, tmp_path):
    """The loader knows fewer types than the one of old; none of them is in a configuration of ours."""
    odd = {"a": [1e-5, 1e22, -0.0, 2**63 - 1, -(2**62), "1e-3", "1:30", "yes", "off", "null", "", "2020-01-01", "0x1f", "007", "~", "=", "<<", "a: b", "&x", "!t", "é\n\x1b", True, None, 0]}  # fmt: skip
    for n, option in enumerate(options(group)):
        node = composed(
            f"{group}={option}", *(["signal.path=x.npy"] if option == "file" else []), "seed=9223372036854775807"
        )
        if n and group != "experiment" and not FULL:  # the other groups are those of the first
            node = {key: node[key] for key in (group, "seed", "resume", "trust")}
        (tmp_path / "config.yaml").write_text(runner.config_text({**node, **odd}))
        assert node["trust"] == [], "an empty one is not stored"
        kept = {key: value for key, value in {**node, **odd}.items() if key not in ("resume", "trust")}
        assert RunFolder(tmp_path).config() == kept


def test_what_one_reader_changes_another_does_not_see(good):
    """A configuration that was read before is not parsed again."""
    stored = RunFolder(good).config()
    changed = RunFolder(good).config()
    changed["model"]["bins"].append("mine")
    changed["signal"].clear()
    assert RunFolder(good).config() == stored != changed


def test_a_configuration_that_could_not_be_read_back_is_not_begun(tmp_path):
    with pytest.raises(RecordsError, match=r"must fit into 262144 bytes, got 300002; shorten its lists"):
        RunFolder(tmp_path / "run").start("a" * 300_000 + "é")
    assert not (tmp_path / "run").exists()


def test_reporting_on_a_tree_of_hostile_folders(good, unharmed, tmp_path, monkeypatch, capsys):
    tree = tmp_path / "tree"
    for name, (harm, _, _) in HOSTILE.items():
        shutil.copytree(good, tree / name)
        harm(tree / name, unharmed, tmp_path / "ran")
    shutil.copytree(good, tree / "zz good")
    (tree / "loop").symlink_to(tree)
    (tree / "away").symlink_to(unharmed)
    status, out, err = commanded(monkeypatch, capsys, __main__.main, tree)
    assert status == 0 and not err, err
    lines = out.splitlines()
    for name, (_, _, complaint) in HOSTILE.items():
        about = [line for line in lines if f"{tree}/{name}/" in line or line.startswith(f"failed: {tree}/{name}: ")]
        if complaint is None:
            assert not about, about
        else:
            assert len(about) == 1 and complaint in about[0] and len(about[0]) < 1300, (name, about)
    assert f"{len(HOSTILE) + 1} runs, 1 failed" in lines[-1]
    page = (tree / "report.html").read_text()
    assert not console.CONTROLS.findall(page) and page.count("data:image/png") >= 1
    for name in ("runs.csv", "summary.csv"):
        cells = [cell for row in csv.reader(io.StringIO((tree / name).read_text())) for cell in row]
        assert not [c for c in cells if c.startswith(("=", "+", "@")) or (c.startswith("-") and not number(c))]
        assert not console.CONTROLS.findall("".join(cells))
        assert any(c.startswith("'=cmd") for c in cells)


def number(cell):
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_numbers_in_a_table_stay_numbers():
    from wavebase.report.table import as_csv

    text = as_csv(
        [{"a": -1.5, "b": "-2", "c": "=1+1", "=d": None, "e": "\t@x", "f": "+x", "g": True, "h": "a=b"}]
    ).decode()
    assert text == "a,b,c,'=d,e,f,g,h\n-1.5,-2,'=1+1,,'\t@x,'+x,True,a=b\n"


def test_a_configuration_above_ones_own_checkpoint(good, unharmed, tmp_path, monkeypatch, capsys):
    """Above weights that are no run's it is not even read; above a run's checkpoint it builds nothing that is not registered."""
    home = tmp_path / "home" / "weights"
    home.mkdir(parents=True)
    torch.save(torch.nn.LSTM(1, 4).state_dict(), home / "mine.pt")
    (tmp_path / "home" / "config.yaml").write_text(f"a: !!python/object/apply:os.system ['touch {tmp_path}/ran']\n")
    status, out, err = commanded(monkeypatch, capsys, probe.main, home / "mine.pt", *QUICK)
    assert status == 0 and "spectral_radius" in out and not err
    shutil.copytree(good, tmp_path / "run")
    HOSTILE["target"][0](tmp_path / "run", unharmed, tmp_path / "ran")
    status, _, err = commanded(monkeypatch, capsys, probe.main, tmp_path / "run/checkpoints/step_00000002.pt", *QUICK)
    assert status == 1 and "model._target_ must name what is registered" in err
    (home / "mine_spectrum" / "x").unlink(missing_ok=True)
    shutil.rmtree(home / "mine_spectrum")
    (home / "mine_spectrum").symlink_to(unharmed)
    status, _, err = commanded(monkeypatch, capsys, probe.main, home / "mine.pt", *QUICK)
    assert status == 1 and "got a link" in err


@pytest.mark.parametrize(
    "name", [".lock", "metrics.jsonl", "config.yaml", "summary.json", "checkpoints", "figures", "examples.npz"]
)
def test_a_run_writes_through_no_link(name, composed, unharmed, tmp_path):
    """`.lock` and metrics.jsonl emptied what they pointed to, figures/ wrote into another folder."""
    folder = tmp_path / "run"
    folder.mkdir()
    target = unharmed / ("pictures" if name in ("checkpoints", "figures") else "secret")
    (folder / name).symlink_to(target)
    node = composed(*SMALL, "probe.figures=[train_loss]", "probe.draw=true")
    go = lambda: runner.run(runner.Job(node, folder, {"model": "test"}), single=False)  # noqa: E731
    if name == "examples.npz":  # replaced by a file of its own
        go()
        assert not (folder / name).is_symlink()
        return
    with pytest.raises(RecordsError, match=rf"{name} must be a (file|folder) of its own, got a link; remove it"):
        go()
    assert lock_owner(folder) is None


def test_no_link_waits_where_a_file_is_about_to_be_written(unharmed, tmp_path, monkeypatch):
    import socket

    part = tmp_path / f".a.txt.{socket.gethostname()}-{os.getpid()}.part"
    part.symlink_to(unharmed / "secret")
    atomic_write(tmp_path / "a.txt", lambda file: file.write(b"mine"))
    (tmp_path / "b.txt").symlink_to(unharmed / "secret")
    atomic_write(tmp_path / "b.txt", lambda file: file.write(b"mine"))
    assert (tmp_path / "a.txt").read_text() == (tmp_path / "b.txt").read_text() == "mine"
    assert not (tmp_path / "b.txt").is_symlink()
    monkeypatch.setattr("wavebase.records.events.time.time", lambda: 1.0)
    (tmp_path / f"events.out.tfevents.{1:010d}.{socket.gethostname()}.{os.getpid()}.0").symlink_to(unharmed / "secret")
    with pytest.raises(OSError):
        Events(tmp_path)


def test_what_is_no_file_is_refused_and_not_waited_for(unharmed, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(unharmed / "secret")
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("pipe", "folder", "link", "broken", "null"):
        for mode in ("rb", "r+b", "ab", "wb"):
            with pytest.raises(RecordsError, match=f"{name} must be a file of its own, got a "):
                open_regular(tmp_path / name, mode)
    with pytest.raises(RecordsError, match="got a device"):
        open_regular(tmp_path.__class__("/dev/null"), "rb")
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "nothing", "rb")
    assert lock_owner(tmp_path) is None


def test_a_terminal_is_told_nothing_that_it_obeys(capsys):
    console.print_styled(f"{ESCAPE}\ttab\nnext \udcff broken")
    console.print_error(ESCAPE + "\nsecond" + "x" * 5000)
    out, err = capsys.readouterr()
    assert out == "\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\u202edrow\ttab\nnext \\udcff broken\n"
    assert err.startswith("wavebase: \\x1b]0;owned") and len(err) < 1100 and err.count("\n") == 1


def test_a_compressed_archive_is_no_bomb(tmp_path, monkeypatch, capsys):
    """A .npz of a megabyte was let unpack to 4 GB."""
    import struct

    from wavebase.records import untrusted

    with zipfile.ZipFile(tmp_path / "w.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weight_hh_l0.npy", b"0" * 10**5)
    content = bytearray((tmp_path / "w.npz").read_bytes())
    at = content.index(b"PK\x01\x02") + 24  # the size that the directory gives
    content[at : at + 4] = struct.pack("<I", 2**29)
    (tmp_path / "w.npz").write_bytes(content)
    status, _, err = commanded(monkeypatch, capsys, probe.main, tmp_path / "w.npz", *QUICK)
    assert status == 1 and err.count("\n") == 1 and "parts that are larger than the file" in err

    weights = {"weight_hh_l0": np.random.default_rng(0).normal(size=(32, 8)), "weight_ih_l0": np.ones((32, 1))}
    np.savez_compressed(tmp_path / "w.npz", **weights, zeros=np.zeros(10**5))
    assert commanded(monkeypatch, capsys, probe.main, tmp_path / "w.npz", *QUICK)[0] == 0
    monkeypatch.setattr(untrusted, "MOST_ARRAYS", 10**5)
    status, _, err = commanded(monkeypatch, capsys, probe.main, tmp_path / "w.npz", *QUICK)
    assert status == 1 and err.count("\n") == 1 and "parts that are larger than the file" in err
    np.savez_compressed(tmp_path / "w.npz", **weights)
    assert commanded(monkeypatch, capsys, probe.main, tmp_path / "w.npz", *QUICK)[0] == 0


def test_a_stray_checkpoint_is_none_of_the_run(good, tmp_path, monkeypatch, capsys):
    """`step_final.pt` was read as the newest checkpoint, without a verdict."""
    shutil.copytree(good, tmp_path / "run")
    torch.save({"a": torch.ones(1)}, tmp_path / "run" / "checkpoints" / "step_final.pt")
    status, out, _ = commanded(monkeypatch, capsys, probe.main, tmp_path / "run", *QUICK)
    assert status == 0 and "verdict at step 2" in out and "step_final" not in out
    (tmp_path / "run" / "config.yaml").write_text("- a\n- list\n")
    status, _, err = commanded(monkeypatch, capsys, probe.main, tmp_path / "run", *QUICK)
    assert status == 1 and err.count("\n") == 1 and "config.yaml must be a mapping, got a list" in err
