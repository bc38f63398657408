"""What the command line says and leaves behind when something is wrong, or when there is nothing to judge."""

import re
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from conftest import SMALL
from test_console import on_terminal, overlong
from test_models import SHORT_MIX
from wavebase import console
from wavebase.cli import errors, names
from wavebase.experiment import runner, summary
from wavebase.records.folder import RunFolder
from wavebase.tasks.power_spectrum import PowerSpectrum

LBFGS = ("model=random", "optim=lbfgs")
ODD = ("[1,2]", "[random]", "{a:1}", "1", "null", "true", "0.5")


@pytest.mark.parametrize(
    "words,said",
    [
        (["model=spectral,random"], "got model=spectral,random; add -m"),
        (["-m", "seed=0", "hydra/launcher=submitit_local"], "pip install -c constraints.txt -e '.[submitit]'"),
        (["-m", "model=dictionary_ridge,linear_prediction", "model.noise=0.2"], "write ++model.noise=0.2"),
        (["model.noise=0.2"], "got 'model.noise'; see --cfg job"),
        (["optim.betas=[0.9,0.9]"], "got 'optim.betas'; see --cfg job"),
        (["optim._target_=torch.optim.Adagrad"], "or leave it out with ~optim.momentum"),
        ([*LBFGS, "optim.line_search_fn=wolfe"], "optim.line_search_fn must be strong_wolfe or null, got 'wolfe'"),
        ([*LBFGS, "optim.history_size=0"], "optim.history_size must be at least 1, got 0"),
        ([*LBFGS, "optim.max_iter=0"], "optim.max_iter must be at least 1, got 0"),
        *[([f"model={odd}"], f"model must be the name of an option, got {odd}; see conf/model") for odd in ODD],
        (["-m", "model=spectral,[1,2]"], "model must be the name of an option, got spectral,[1,2]; see conf/model"),
        (["optim="], "optim must be the name of an option, got nothing; see conf/optim"),
        (["optim=adagrad", "optim.lr=null", "optim.lr_over_boundary=0.5"], "got Adagrad; give optim.lr instead"),
    ],
)
def test_wrong_words(words, said, cli, tmp_path, monkeypatch):
    if "submitit" in said:  # whether or not it is installed here
        text = "In 'hydra/config': Could not find 'hydra/launcher/submitit_local' Available options in 'hydra/launcher': basic stacked"
        assert said in errors.one_line(errors.HydraException(text))
        return
    status, out, err = cli(*SMALL, *words)
    assert status == 1 and said in err and err.count("\n") == 1 and "Traceback" not in err, err
    assert not out and not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [("model=listed",), ("--cfg", "job", "model=listed")])
def test_a_group_that_is_a_list(words, cli, tmp_path, monkeypatch):
    conf = tmp_path / "conf"
    shutil.copytree(names.conf_folder(), conf)
    (conf / "model" / "listed.yaml").write_text("- spectral\n- random\n")
    monkeypatch.setenv("WAVEBASE_CONF", str(conf))
    status, _, err = cli(*words)
    assert status == 1 and "model must be a mapping of keys, got ['spectral', 'random']; see conf/model" in err


SLOW = "optim: {lr: 1.0e-5}"
HALF = "optim: {lr_over_boundary: 0.5}"


@pytest.mark.parametrize(
    "default,experiment,words,rate",
    [
        ("adam", HALF, [], None),
        ("sgd", SLOW, [], 1e-5),
        ("adam", HALF, ["optim.lr=2e-5"], 2e-5),
        ("sgd", SLOW, ["optim.lr_over_boundary=0.5"], None),
        ("adam", f"{HALF[:-1]}, lr: 1.0e-5}}", [], "got 1e-05 and 0.5 from conf/experiment/mine.yaml; set one"),
        ("both", "seed: 0", [], "got 0.1 and 0.5 from conf/optim/both.yaml and conf/optim/sgd.yaml; set"),
        ("both", "seed: 0", ["optim.lr_over_boundary=null"], 0.1),
    ],
)
def test_a_rate_or_a_fraction_in_a_file(default, experiment, words, rate, cli, tmp_path, monkeypatch):
    """The last one that was asked for is obeyed; a default is no request."""
    conf = tmp_path / "conf"
    shutil.copytree(names.conf_folder(), conf)
    (conf / "optim" / "both.yaml").write_text("defaults: [sgd, _self_]\nlr: 0.1\n")
    (conf / "experiment" / "mine.yaml").write_text(
        f"# @package _global_\ndefaults:\n  - override /optim: {default}\n{experiment}\n"
    )
    monkeypatch.setenv("WAVEBASE_CONF", str(conf))
    node = []
    monkeypatch.setattr(runner, "run", lambda job, single: node.append(job.node))
    status, _, err = cli("experiment=mine", *words)
    if isinstance(rate, str):
        assert status == 1 and not node and rate in err and err.count("\n") == 1, err
    else:
        assert status == 0 and node[0]["optim"]["lr"] == rate, err


@pytest.mark.parametrize(
    "loss,got",
    [
        (lambda self, output, target: (output - target).square().mean((1, 2)), "shape [4]"),
        (lambda self, output, target: 1.0, "float"),
    ],
)
def test_a_loss_that_is_no_number(loss, got, cli, tmp_path, monkeypatch):
    monkeypatch.setattr(PowerSpectrum, "loss", loss)
    for curvature in ("true", "false"):
        status, _, err = cli(*SMALL, f"probe.curvature={curvature}", "optim.lr=0.1")
        assert status == 1 and f"loss must be a tensor of one number, got {got}" in err and not list(tmp_path.iterdir())


def test_a_task_of_another_shape(cli, tmp_path, monkeypatch):
    real = PowerSpectrum._batch

    def wider(self, signal):
        batch = real(self, signal)
        return batch._replace(target=batch.target[..., :1])

    monkeypatch.setattr(PowerSpectrum, "_batch", wider)
    status, _, err = cli(*SMALL)
    assert status == 1 and "the model's output must have the target's shape" in err and not list(tmp_path.iterdir())


def test_only_folders_that_the_run_made_are_removed(cli, tmp_path):
    mine = tmp_path / "mine" / "empty"
    mine.mkdir(parents=True)
    outside = tmp_path.parent / f"{tmp_path.name}_outside"
    outside.mkdir()
    for folder in (mine, mine / "new" / "run", outside / "run"):
        assert cli("T=1", f"hydra.run.dir={folder}")[0] == 1
        assert mine.is_dir() and not list(mine.iterdir()) and outside.is_dir() and not list(outside.iterdir())
    assert cli("T=1", "hydra.run.dir=fresh/run", "hydra.job.chdir=true")[0] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_checkout_below_a_folder_named_hydra_keeps_its_defects(tmp_path):
    file = tmp_path / "hydra" / "defect.py"
    file.parent.mkdir()
    code = compile("def go():\n    raise RuntimeError('a defect')", str(file), "exec")
    space = {}
    exec(code, space)
    with pytest.raises(RuntimeError) as defect:
        space["go"]()
    assert not errors.raised_by_hydra(defect.value) and not errors.is_expected(defect.value)
    with pytest.raises(Exception) as theirs:
        OmegaConf.to_container(OmegaConf.create({"a": "${nope:"}), resolve=True)
    assert errors.raised_by_hydra(theirs.value)


def test_a_run_without_probes_is_not_judged(cli, tmp_path):
    status, out, err = cli(*SMALL, "probe.measure=[]", "hydra.run.dir=run")
    assert status == 0 and re.search(r"verdict +not judged\n +probe.measure has no", out), out + err
    found = RunFolder(tmp_path / "run").summary()
    assert found["verdict"] == "not judged" and found["relative_error"] == {"initial": None, "final": None}
    assert found["status"] == "done" and found["loss"]["final"] is None and found["probes"]["final"] == {}
    assert cli(*SMALL, "probe.measure=[drift.weight_drift]", "hydra.run.dir=drift")[0] == 0
    assert RunFolder(tmp_path / "drift").summary()["verdict"] == "not judged"
    assert cli("-m", *SMALL, "probe.measure=[]", "seed=0,1", "hydra.sweep.dir=sweep")[0] == 0, "and so in a report"


@pytest.mark.parametrize(
    "experiment,metric", [("frequency_extraction", "mean_squared_error_3Hz"), ("forecast_lstm", "")]
)
def test_where_no_algorithm_is_in_question_no_verdict_is_printed(experiment, metric, cli, tmp_path):
    words = (f"experiment={experiment}", "train.steps=1", "train.batch=4", "probe.figures=[]", "hydra.run.dir=run")
    words += ("task.held_out_count=4",) if experiment == "forecast_lstm" else SHORT_MIX
    status, out, err = cli(*words)
    assert status == 0 and "verdict" not in out and metric in out, out + err
    assert re.search(r"final loss +[\d.e-]+, zero [\d.e-]+, mean [\d.e-]+", out)
    found = RunFolder(tmp_path / "run").summary()
    assert found["verdict"] == "no algorithm" and found["reasons"], "summary.json keeps its keys"
    line = summary.describe(found, tmp_path, short=True)
    assert "no algorithm" not in line and "relative error" in line


def test_an_algorithm_that_random_weights_miss_is_in_question(ran):
    found = ran(*SMALL, "model=random").summary()
    assert found["verdict"] == "no algorithm" and "verdict         no algorithm" in summary.describe(found, Path("x"))


def test_options_may_stand_between_overrides(cli, tmp_path):
    (tmp_path / "more" / "model").mkdir(parents=True)
    text = (names.conf_folder() / "model" / "spectral.yaml").read_text()
    (tmp_path / "more" / "model" / "own.yaml").write_text(text)
    status, out, err = cli("--cfg", "job", "model=own", "-cd", "more", "T=5")
    assert status == 0 and re.search(r"T: 5 +# command line", out), err
    assert f"# {tmp_path}/more/model/own.yaml" in out
    status, out, err = cli("model=own", "-cd", "more", *SMALL, "hydra.run.dir=run")
    assert status == 0 and "unmoved" in out, out + err
    status, _, err = cli("model=own", "--nope", "T=5")
    assert status == 1 and "--nope" in err


def test_a_name_of_an_option_leaves_no_folder(cli, tmp_path):
    status, _, err = cli("-m", *SMALL, "model=../model/spectral", "seed=0", "hydra.sweep.dir=sweep")
    assert status == 0, err
    (found,) = tmp_path.glob("sweep/*/summary.json")
    assert found.parent.name.startswith("model_spectral-sgd-T4-s0-")


def test_a_long_message_keeps_words_escapes_and_its_remedy():
    text = " ".join(["wörd\x1b"] * 400) + "; use fewer words"
    line = console.one_line(text)
    assert len(line) <= console.LONGEST and line.endswith(" … use fewer words")
    assert set(line.removesuffix(" … use fewer words").split()) == {"wörd\\x1b"}


def test_a_sweep_wraps_between_words(tmp_path):
    words = ("-m", *SMALL, "seed=0", "T=1", "hydra.sweep.dir=s")
    status, shown = on_terminal(60, "run", *words, folder=tmp_path)
    assert status == 1 and "#0" in shown
    lines = [line.expandtabs() for line in shown.split("\n")]
    assert not overlong("\n".join(lines), 60), lines
