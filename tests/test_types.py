"""A stranger's program: what the documentation prints checks with `mypy --strict` against the installed package."""

import doctest
import pkgutil
import re
import subprocess
import sys
from importlib import import_module

import numpy
import pytest
import torch

import wavebase
from conftest import FULL, ROOT
from test_commands import PAGES, printed

DOCUMENTED = re.findall(r":: (wavebase[.\w]+)", (ROOT / "docs" / "reference" / "api.md").read_text())
WRONG = {  # a line that must not check: what is said of it
    'wavebase.spectral_lstm(T="16")': 'expected "int"',
    "wavebase.spectral_lstn(16)": 'Module has no attribute "spectral_lstn"',
    "wavebase.power_spectrum(torch.rand(1, 8), 4).windows": '"Tensor" has no attribute "windows"',
    "wavebase.verdict({}, wavebase.spectral_construction(4)).reason": '"Verdict" has no attribute "reason"',
    "wavebase.perturb(wavebase.spectral_construction(4), wavebase.Perturbation())": 'Missing positional argument "generator"',
    "wavebase.analyze(torch.eye(4)).layer": '"Report" has no attribute "layer"',
}

# What a stranger's programs can meet of torch and numpy. The rest, torch's compiler above all, is left unread: reading it is
# five sixths of the time. Whatever comes from there is Any, so a type of ours that needs it is found as a hole.
MET = {
    torch: "_C _VF _tensor _utils autograd functional nn overrides random return_types serialization storage types version",
    numpy: "_core _globals _typing dtypes fft lib linalg random typing version",
}
UNREAD = ("IPython", "PIL", "filelock", "hydra", "matplotlib", "omegaconf", "tensorboard", "torch.autograd.profiler",
          "torch.autograd.profiler_util", "torch.nn.attention", "torch.nn.parallel", "torch.nn.utils")  # fmt: skip


def settings(file):
    """Write the configuration of a short check: the default one, without what no program here meets."""
    unread = [f"{package.__name__}.{module.name}" for package, met in MET.items() for module in pkgutil.iter_modules(package.__path__) if module.name not in met.split()]  # fmt: skip
    sections = ",".join(f"{name}.*" for name in (*unread, *UNREAD))
    file.write_text(f"[mypy]\n[mypy-{sections}]\nfollow_imports = skip\nfollow_imports_for_stubs = True\n")
    return file


def programs():
    """What pages and docstrings print, a text each: a page's blocks in a row, its modules of the package each alone."""
    for page in PAGES:
        blocks = [(kind, path, body) for kind, path, body in printed((ROOT / page).read_text())]
        yield "".join(body for kind, _, body in blocks if kind == "python")
        yield from (body for _, path, body in blocks if path.startswith("src/"))
    for dotted in DOCUMENTED:
        examples = doctest.DocTestParser().get_examples(named(dotted).__doc__)
        yield "".join(example.source for example in examples)


def named(dotted):
    module, _, name = dotted.rpartition(".")
    return getattr(import_module(module), name)


def questions():
    """A program that asks mypy for the type of every public name and of every public member of a documented class."""
    yield f"import {', '.join(sorted({dotted.rpartition('.')[0] for dotted in DOCUMENTED}))}"
    yield from (f"reveal_type(wavebase.{name})" for name in wavebase.__all__)
    for dotted in DOCUMENTED:
        yield f"reveal_type({dotted})"
        if isinstance(thing := named(dotted), type):
            members = [name for name in {**vars(thing), **thing.__annotations__} if not name.startswith("_")]
            yield from (f"def of_{thing.__name__}_{name}(x: {dotted}) -> None: reveal_type(x.{name})" for name in members)  # fmt: skip


def test_what_the_documentation_prints_checks_and_wrong_programs_do_not(tmp_path):
    texts, asked = [text for text in programs() if text], [*questions()]
    assert len(DOCUMENTED) >= 15 and len(texts) >= 15 and len(asked) > 100
    for n, text in enumerate(texts):
        (tmp_path / f"printed_{n}.py").write_text(text)
    (tmp_path / "asked.py").write_text("\n".join(asked))
    (tmp_path / "wrong.py").write_text("\n".join(["import torch, wavebase", *WRONG]))
    chosen = "" if FULL else settings(tmp_path / "short.ini")
    command = [sys.executable, "-m", "mypy", "--strict", f"--config-file={chosen}", f"--cache-dir={ROOT}/.mypy_cache/stranger{'_full' * FULL}", "."]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    said = done.stdout.splitlines()[:-1]
    of_wrong = [line for line in said if line.startswith("wrong.py")]
    for n, (program, complaint) in enumerate(WRONG.items(), 2):
        assert any(line.startswith(f"wrong.py:{n}: ") and complaint in line for line in of_wrong), (
            program,
            done.stdout,
        )
    assert len(of_wrong) == len(WRONG), of_wrong
    types = dict(line.removeprefix("asked.py:").split(": note: Revealed type is ") for line in said if ": note: Revealed" in line)  # fmt: skip
    assert len(types) == len(asked) - 1, done.stdout + done.stderr
    # containers of anything (a summary's JSON) are said so; a parameter, a result or an attribute that may be anything is a hole
    holes = [asked[int(line) - 1] for line, kind in types.items() if re.search(r'^"(?:Any|object|builtins.object)"|: Any(?: =)?[,)]|-> Any"', kind)]  # fmt: skip
    assert not holes, holes
    rest = [line for line in said if ": note: Revealed" not in line and line not in of_wrong]
    assert not rest, "\n".join(rest)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda net: wavebase.power_spectrum([1.0] * 8, 8), "x must be a real tensor .*, got list; use"),
        (lambda net: wavebase.power_spectrum(torch.ones(8) * 1j, 8), r"got torch.complex64 \[8\]; use"),
        (lambda net: wavebase.verdict(net, net.construction), "weights must be a mapping .*, got SpectralLSTM; give"),
        (lambda net: wavebase.save_construction(net, "x"), "must be a Construction, got SpectralLSTM; give"),
        (
            lambda net: wavebase.perturb(net.construction, wavebase.Perturbation(), 0),
            "generator must be .*, got 0; use",
        ),
        (
            lambda net: wavebase.analyze(torch.nn.LSTM(1, 2).state_dict()),
            "w_hh must map every gate .*, got weight_ih_l0, ",
        ),
    ],
)
def test_who_does_not_check_types_is_told_in_one_line(wrong, words):
    with pytest.raises(ValueError, match=words) as refusal:
        wrong(wavebase.spectral_lstm(4))
    assert "\n" not in str(refusal.value)


def test_completion_offers_the_public_names_alone():
    assert {name for name in dir(wavebase) if not name.startswith("__")} == set(wavebase.__all__)
