"""Commands of the runner, sweeps and reports as a new user gives them."""

import csv
import json
import math

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import ONE_PROBE, ROOT, SMALL
from wavebase.experiment import runner, stacked
from wavebase.records.folder import RunFolder, find_runs
from wavebase.report import write

TINY = ("model=random", *SMALL, ONE_PROBE)
SWEEP = ("-m", *TINY, "hydra.sweep.dir=s")


def rows(folder):
    with (folder / "summary.csv").open() as file:
        return list(csv.DictReader(file))


def made(folder, config, final=0.5):
    """A finished run's folder."""
    from omegaconf import OmegaConf

    run = RunFolder(folder)
    run.start(OmegaConf.to_yaml(OmegaConf.create(config)))
    summary = {"status": "done", "verdict": "fine", "choices": {"model": "random"}, "seed": config["seed"]}
    run.finish({**summary, "relative_error": {"initial": 1.0, "final": final}})


class TestReports:
    @pytest.mark.parametrize(
        "settings",
        [
            [{"optim": {"lr": 1.0}}, {"optim": {"lr": 0.001}}],
            [{"optim": {"lr": 0.1}}, {"optim": {"lr": 0.2}}],  # 0.<seed>
            [{"T": 1}, {"T": 2}],  # the seed itself
            [{"model": {"start": "exact"}}, {"model": {"start": "random"}}],
            [{"model": {"start_from": "a/s1/x.pt"}}, {"model": {"start_from": "b/s2/x.pt"}}],
        ],
    )
    def test_settings_that_go_along_with_the_seed_are_not_pooled(self, settings, tmp_path):
        for seed, setting in enumerate(settings, 1):
            made(tmp_path / f"r{seed}", {"seed": seed, **setting}, seed / 10)
        write.write(tmp_path)
        assert [row["runs"] for row in rows(tmp_path)] == ["1", "1"]

    @pytest.mark.parametrize(
        "settings",
        [
            [{"signal": {"seed": 11}}, {"signal": {"seed": 12}}],
            [{"model": {"torch_seed": 7}}, {"model": {"torch_seed": 9}}],
            [{"model": {"start_from": "runs/s1/x.pt"}}, {"model": {"start_from": "runs/s2/x.pt"}}],
            [{"threads": 1}, {"threads": 2}],
        ],
    )
    def test_what_only_repeats_the_seed_is_pooled(self, settings, tmp_path):
        for seed, setting in enumerate(settings, 1):
            made(tmp_path / f"r{seed}", {"seed": seed, **setting}, seed / 10)
        write.write(tmp_path)
        (row,) = rows(tmp_path)
        assert row["runs"] == "2" and float(row["error_end_median"]) == pytest.approx(0.15)

    def test_two_runs_of_the_command_line(self, cli, tmp_path):
        for seed, rate in ((1, 1.0), (2, 0.001)):
            assert cli(*TINY, f"seed={seed}", f"optim.lr={rate}", f"hydra.run.dir=p/{seed}")[0] == 0
        write.write(tmp_path / "p")
        assert len(rows(tmp_path / "p")) == 2

    @pytest.mark.parametrize("subdir", ["${model.start}/${seed}", "a/b/${seed}"])
    def test_a_sweep_of_nested_folders_has_its_report(self, subdir, cli, tmp_path):
        status, out, _ = cli(*SWEEP, "seed=0,1", f"hydra.sweep.subdir={subdir}")
        assert status == 0 and "2 runs, 0 failed" in out and (tmp_path / "s" / "report.html").is_file()


class TestTheRunner:
    CHDIR = (*TINY, "signal=file", "signal.path=no.wav", "hydra.job.chdir=true", "hydra.run.dir=c")

    def test_a_relative_path_is_named_with_its_folder(self, cli, tmp_path):
        status, _, err = cli(*self.CHDIR)
        assert status == 1 and err.count("\n") == 1 and f"'no.wav', which is no file in {tmp_path / 'c'}" in err

    def test_a_job_s_folder_that_stays_empty_goes_with_chdir_too(self, cli, tmp_path):
        status, _, _ = cli(*self.CHDIR)
        assert status == 1 and not (tmp_path / "c").exists()

    def test_cfg_job_knows_the_folder_of_configurations(self, cli, tmp_path):
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "mymodel.yaml").write_text((ROOT / "conf" / "model" / "random.yaml").read_text())
        status, out, err = cli("-cd", ".", "--cfg", "job", "model=mymodel")
        assert status == 0 and not err and "model" in out

    def test_options_between_words(self, cli, tmp_path):
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "mymodel.yaml").write_text((ROOT / "conf" / "model" / "random.yaml").read_text())
        status, _, err = cli("model=mymodel", "-cd", ".", *SMALL, "hydra.run.dir=r")
        assert status == 0 or "before or after all" in err

    def test_a_key_of_swept_models(self, cli):
        words = (
            "-m",
            "model=dictionary_ridge,linear_prediction",
            "model.noise=0.2",
            "task=forecast",
            "hydra.sweep.dir=s",
        )
        status, _, err = cli(*words)
        assert status == 1 and "++model.noise=0.2" in err

    def test_another_recording_under_the_same_name(self, cli, tmp_path):
        words = (*TINY, "signal=file", "signal.path=a.npy", "hydra.run.dir=r")
        ends = []
        for seed in (0, 1):
            np.save(tmp_path / "a.npy", np.random.default_rng(seed).standard_normal(400))
            status, _, err = cli(*words)
            ends.append((status, err, json.loads((tmp_path / "r" / "summary.json").read_text())["loss"]))
        assert (ends[1][0] == 1 and "a.npy" in ends[1][1]) or ends[0][2] != ends[1][2]

    def test_tensorboard_holds_single_precision_and_the_page_says_so(self, tmp_path):
        folder = RunFolder(tmp_path)
        folder.start("seed: 0\n")
        folder.log(0, {"loss/train": 0.1, "loss/held_out": 1.5e-52})
        folder.finish({"status": "done"})
        assert folder.metrics()["loss/held_out"][1].tolist() == [1.5e-52]
        events = EventAccumulator(str(tmp_path)).Reload()
        assert events.Scalars("loss/train")[0].value == np.float32(0.1)
        assert events.Scalars("log10/loss/held_out")[0].value == pytest.approx(math.log10(1.5e-52))
        assert "loss/held_out" not in events.Tags()["scalars"], "it would be drawn as zero"
        page = (ROOT / "docs" / "run_folder.md").read_text()
        assert any("tfevents" in line and "single precision" in line for line in page.splitlines())


class TestSweeps:
    def test_a_diverged_run_is_the_worst_of_all(self, composed, tmp_path):
        """A sweeper that minimises can use infinity; nan ends its sweep, and a job without a value counts as failed."""
        job = runner.Job(composed(*TINY, "optim.lr=300.0", "train.steps=150"), tmp_path / "r", {"model": "random"})
        values = [runner.run(job, single=False) for _ in range(2)]
        assert RunFolder(tmp_path / "r").summary()["status"] == "diverged"
        assert values == [math.inf, math.inf]

    def test_equal_jobs_of_a_stack_share_the_result(self, composed, tmp_path):
        job = runner.Job(composed(*TINY), tmp_path / "r", {"model": "random"})
        failed = []
        first, second = stacked.run_stacked([job, job], 8, lambda job, error: failed.append(error))
        assert first is not None and second == first and not failed

    def test_two_configurations_in_one_folder_are_refused(self, cli):
        words = ("hydra/launcher=stacked", "seed=0,1", "optim.lr_over_boundary=0.1,0.2")
        status, _, err = cli(*SWEEP, *words, "hydra.sweep.subdir=lr${optim.lr_over_boundary}")
        assert status == 1 and "must name every job's own folder, got lr0.1 for jobs that differ in seed" in err

    @pytest.mark.parametrize(
        "launcher",
        [
            "basic",
            "stacked",
        ],
    )
    def test_callbacks_get_the_value_of_a_job(self, launcher, cli, tmp_path):
        callback = "+hydra.callbacks.l._target_=hydra.experimental.callbacks.LogJobReturnCallback"
        _, out, err = cli(*SWEEP, "seed=0,1", f"hydra/launcher={launcher}", callback)
        logs = "".join(file.read_text() for file in (tmp_path / "s").rglob("*.log"))
        assert "Succeeded with return value: 0." in out + err + logs


def test_the_folder_of_a_report_is_any_above_the_runs(tmp_path):
    made(tmp_path / "a" / "b" / "r", {"seed": 0})
    assert len(find_runs(tmp_path)) == 1
