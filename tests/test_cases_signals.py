"""Recordings as other programs write them, and signals without content: the right samples, or one line."""

import importlib
import json
import struct

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from conftest import SMALL
from wavebase.signals.recordings import Recording, read_recording

WAVE = np.random.default_rng(0).uniform(-0.5, 0.5, 400)


def table(tmp_path, content, channel=0):
    (tmp_path / "a.csv").write_bytes(content.encode())
    return read_recording(str(tmp_path / "a.csv"), channel)[0].tolist()


@pytest.mark.parametrize("name", ["a.wav", "a.npy"])
def test_a_name_is_no_channel_of_an_array(name, cli, tmp_path):
    both = np.stack([WAVE, -WAVE], 1)
    np.save(tmp_path / name, both) if name == "a.npy" else wavfile.write(tmp_path / name, 8000, both.astype("float32"))
    status, _, err = cli(*SMALL, "signal=file", f"signal.path={name}", "signal.channel=right", "hydra.run.dir=run")
    assert status == 1 and err.count("\n") == 1 and "signal.channel must be a number" in err
    assert not (tmp_path / "run").exists()
    assert read_recording(str(tmp_path / name), 1)[0] == pytest.approx(-WAVE, abs=1e-6)


@pytest.mark.parametrize("name", ["a.wav", "a.npy", "a.csv"])
@pytest.mark.parametrize("channel", ["2", "-3", "1.5", "true", "null", "[0]"])
def test_a_channel_that_is_not_there_is_refused(channel, name, cli, tmp_path):
    """The file has two channels; numpy would take -3 for an error of its own, true for 1 and 1.5 for nothing."""
    both = np.stack([WAVE, -WAVE], 1)
    if name == "a.wav":
        wavfile.write(tmp_path / name, 8000, both.astype("float32"))
    else:
        np.save(tmp_path / name, both) if name == "a.npy" else np.savetxt(tmp_path / name, both, delimiter=",")
    status, _, err = cli(*SMALL, "signal=file", f"signal.path={name}", f"signal.channel={channel}", "hydra.run.dir=run")
    assert status == 1 and err.count("\n") == 1 and ("channel" in err or "column" in err), err
    assert not (tmp_path / "run").exists()


class TestCsv:
    @pytest.mark.parametrize(
        "content,channel,wanted",
        [
            ("\ufeff0,10\n1,11\n2,12\n", 0, [0, 1, 2]),
            ("\ufeff10.5\n11\n12\n", 0, [10.5, 11, 12]),
            ("\ufefftime,value\r\n0,10\r\n1,11\r\n", "time", [0, 1]),
            ('\ufeff"time";"value"\n0;10,5\n1;11\n', "time", [0, 1]),
            ('"load, kN",disp,temp\n0,1,7\n1,11,17\n', "disp", [1, 11]),
            ('"load, kN",disp,temp\n0,1,7\n1,11,17\n', "load, kN", [0, 1]),
            ('"a;b",c\n1,2\n3,4\n', "c", [2, 4]),  # a quoted mark parts no cells
            ('"a;b",c\n1,2\n3,4\n', 0, [1, 3]),
            ('"a\tb",c\n1,2\n3,4\n', 1, [2, 4]),
            ('"a,b";c\n1,5;2\n3;4\n', 0, [1.5, 3]),
            ('"time","value"\n"0","10.5"\n"1","11"\n', "value", [10.5, 11]),
            ('"0","10.5"\n"1","11"\n', 1, [10.5, 11]),
            ("value,date\n10,2020-01-01\n11,2020-01-02\n", 0, [10, 11]),
            ("date,value\n2020-01-01,10\n2020-01-02,11\n", 1, [10, 11]),
            ("2020-01-01,10\n2020-01-02,11\n", 1, [10, 11]),
            ("time,2020\n0,10\n1,11\n", 1, [10, 11]),  # a year is a name where another column has one
            (",0\n0,10\n1,11\n", "0", [10, 11]),
        ],
    )
    def test_the_column_that_is_asked_for(self, content, channel, wanted, tmp_path):
        assert table(tmp_path, content, channel) == wanted

    @pytest.mark.parametrize(
        "content,channel,complaint",
        [
            ("value\n10,0\n10,9\n", 0, "part cells by ; where commas are decimal"),
            ("value\n10\n10,9\n", "value", "1 cells in the first row and 2 in row 3"),
            ("a,b,a\n1,2,3\n4,5,6\n", "a", "2 columns named 'a'"),
            ("time,value\n0,ten\n", 1, "could not convert"),
        ],
    )
    def test_what_cannot_be_told_is_refused(self, content, channel, complaint, tmp_path):
        with pytest.raises(ValueError, match=complaint) as refusal:
            table(tmp_path, content, channel)
        assert "\n" not in str(refusal.value)

    def test_which_column_is_read_is_logged(self, tmp_path, caplog):
        """The default is the first one, which is often the time; two columns of whole numbers may be decimal commas."""
        with caplog.at_level("INFO", "wavebase"):
            table(tmp_path, "time,value\n0,10\n1,11\n")
            table(tmp_path, "time,value\n0,10\n1,11\n")
        (line,) = caplog.messages
        assert line.endswith("a.csv: column 0 (time) of 2, from 0 to 1")

    @pytest.mark.parametrize(
        "content,asked",
        [("10,0\n10,9\n11,7\n", True), ("-1,25\n+2,5\n0,0\n", True), ("10,0\n10,9\n11,-7\n", False), ("10,0\n10,9\n1.5,7\n", False),
         ("a,b\n10,0\n10,9\n9,3\n", False), ("10;0\n10;9\n11;7\n", False), ("10,0,1\n10,9,1\n9,7,1\n", False)],
    )  # fmt: skip
    def test_numbers_with_a_decimal_comma_are_not_taken_for_two_columns_silently(
        self, content, asked, tmp_path, caplog
    ):
        """Without a header nothing else distinguishes 10,9 from 10 and 9: the whole parts alone were once read."""
        with caplog.at_level("WARNING", "wavebase"):
            table(tmp_path, content)
        assert [line.endswith("is read; part cells by ; if the commas are decimal") for line in caplog.messages] == (
            [True] if asked else []
        )

    def test_a_column_that_always_rises_is_suspected_to_be_the_time(self, cli, tmp_path):
        """The default column is the first, which often is the time: the exact net reads a ramp as well as any signal."""
        rows = "".join(f"{n},{sample}\n" for n, sample in enumerate(WAVE))
        (tmp_path / "a.csv").write_text("time,value\n" + rows)
        words = (*SMALL, "signal=file", "signal.path=a.csv")
        status, out, err = cli(*words, "hydra.run.dir=run")
        assert status == 0 and "column 0 (time) of 2, from 0 to 399" in out + err
        assert "signal.channel=1 reads another" in out + err
        for channel in ("1", "time"):
            status, out, err = cli(*words, f"signal.channel={channel}", f"hydra.run.dir={channel}")
            assert status == 0 and "reads another" not in out + err


class TestOffset:
    def test_the_mean_of_the_training_part_is_removed_if_asked(self, tmp_path):
        np.save(tmp_path / "a.npy", np.r_[WAVE[:320] + 23, WAVE[320:] + 24])
        signal = Recording(str(tmp_path / "a.npy"), 8, remove_mean=True)
        wanted = np.r_[WAVE[:320], WAVE[320:] + 1] - WAVE[:320].mean()
        wanted /= np.abs(wanted).max()
        parts = np.concatenate([signal._training.numpy(), signal._held_out.numpy()])
        assert parts == pytest.approx(wanted, abs=1e-12) and np.abs(parts).max() == pytest.approx(1)
        kept = Recording(str(tmp_path / "a.npy"), 8)
        assert kept._training.min() > 0.9, "stored configurations of older runs lack the key and keep the offset"

    def test_it_is_on_in_conf(self, ran, tmp_path):
        np.save(tmp_path / "a.npy", WAVE + 23)
        words = ("signal=file", f"signal.path={tmp_path / 'a.npy'}", "task.held_out_count=4", "train.steps=0")
        baseline = {
            key: ran(*SMALL, *words, *more, name=key).summary()["baseline"]
            for key, more in (("removed", ()), ("kept", ("signal.remove_mean=false",)))
        }
        ratio = {key: found["zero"] / found["mean"] for key, found in baseline.items()}
        assert ratio["removed"] < 10 < 1000 < ratio["kept"]

    @pytest.mark.parametrize("use", ["trained on", "held out"])
    def test_a_part_without_anything_but_an_offset_is_refused(self, use, tmp_path):
        parts = [np.full(320, 0.1), WAVE[:80]] if use == "trained on" else [WAVE[:320], np.full(80, 0.1)]
        np.save(tmp_path / "a.npy", np.concatenate(parts))
        with pytest.raises(ValueError, match=f"signal must vary where it is {use}, got only 0.1 in") as refusal:
            Recording(str(tmp_path / "a.npy"), 8, remove_mean=True)
        assert "\n" not in str(refusal.value)


class TestShipped:
    def test_a_recording_that_is_at_hand_everywhere(self):
        samples, rate = read_recording("wavebase:el_nino.csv")
        assert samples.shape == (732,) and rate is None and samples[:2].tolist() == [23.11, 24.2]
        power = np.abs(np.fft.rfft(samples - samples.mean())) ** 2
        assert power.argmax() == 732 / 12, "the year"

    @pytest.mark.parametrize(
        "name", ["wavebase:", "wavebase:../recordings.py", "wavebase:nothing.csv", "wavebase:README.md"]
    )
    def test_another_name_is_refused(self, name):
        with pytest.raises(ValueError, match=r"use wavebase:el_nino\.csv$"):
            read_recording(name)


def chunk(kind, content):
    return kind + struct.pack("<I", len(content)) + content


@pytest.mark.parametrize("extra", [b"PEAK", b"id3 ", b"bext", b"LIST"])
def test_chunks_without_samples_are_nothing_to_the_user(extra, tmp_path, recwarn):
    samples = WAVE.astype("<f4")
    body = b"WAVE" + chunk(b"fmt ", struct.pack("<HHIIHH", 3, 1, 8000, 32000, 4, 32)) + chunk(extra, bytes(16))
    body += chunk(b"data", samples.tobytes())
    (tmp_path / "a.wav").write_bytes(chunk(b"RIFF", body))
    read, rate = read_recording(str(tmp_path / "a.wav"))
    assert rate == 8000 and np.array_equal(read, samples.astype(float)) and not recwarn.list


@pytest.mark.parametrize("model", ["linear_prediction", "omp", "esprit"])
@pytest.mark.parametrize("level", [0.0, 0.25])
def test_the_forecast_of_a_constant_past(model, level):
    from wavebase.models import harmonic_forecasters

    net = getattr(harmonic_forecasters, model)(44, 11, torch.float64)
    past = torch.full((2, 44), level, dtype=torch.float64)
    forecast = net(past).detach()
    assert forecast.isfinite().all()
    if level == 0:
        assert (forecast == 0).all()
    elif model == "linear_prediction":
        assert (forecast - level).abs().max() < 1e-6


def test_a_gap_in_a_recording_is_forecast(cli, tmp_path):
    np.save(tmp_path / "gap.npy", np.r_[WAVE, np.zeros(120), WAVE])
    words = (
        "T=44",
        "signal=file",
        "signal.path=gap.npy",
        "task=forecast",
        "task.horizon=11",
        "model=linear_prediction",
    )
    small = ("train.steps=0", "probe=forecast", "probe.figures=[]", "optim.lr=0.01", "task.held_out_count=4")
    status, _, err = cli(*words, *small, "hydra.run.dir=run")
    assert status == 0 and "Traceback" not in err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["relative_error"]["final"] > 0


@pytest.mark.parametrize("task", [(), ("task=forecast", "model=last", "probe=forecast", "optim.lr=0.1"), ("task=reconstruction", "model=cosine", "probe=cosine")])  # fmt: skip
@pytest.mark.parametrize("silent", ["held out", "training"])
def test_a_silent_part_is_refused(silent, task, cli, tmp_path):
    parts = [np.tile(WAVE, 2), np.zeros(200)] if silent == "held out" else [np.zeros(800), WAVE[:200]]
    np.save(tmp_path / "a.npy", np.concatenate(parts))
    status, _, err = cli(*SMALL, *task, "signal=file", "signal.path=a.npy", "hydra.run.dir=run")
    assert status == 1 and err.count("\n") == 1 and "silent" in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


class Silence:
    peak = 1.0

    def sample(self, batch, samples, generator, held_out=False):
        return torch.zeros(batch, samples, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["power_spectrum.PowerSpectrum", "forecast.Forecast", "reconstruction.Reconstruction", "order_statistic.OrderStatistic"])  # fmt: skip
def test_no_task_measures_errors_relative_to_silence(kind):
    """Stretches that are drawn may be silent although the recording is not."""
    module, name = kind.split(".")
    make = getattr(importlib.import_module(f"wavebase.tasks.{module}"), name)
    sizes = {} if name == "Forecast" else {"T": 8}
    more = {"statistic": "median"} if name == "OrderStatistic" else {}
    with pytest.raises(ValueError, match="signal must not be silent where it is held out"):
        make(Silence(), dtype=torch.float64, device=torch.device("cpu"), probe_generator=torch.Generator(), **sizes, **more)  # fmt: skip


@pytest.mark.parametrize(
    "samples", [np.sin(2 * np.pi * np.arange(800) / 4), np.full(800, 0.3)], ids=["tone", "constant"]
)
def test_a_signal_of_one_spectrum_is_judged_by_its_error(samples, ran, tmp_path):
    """Every window has one spectrum, so the mean predictor errs by rounding alone."""
    np.save(tmp_path / "a.npy", samples)
    words = [word for word in SMALL if word != "T=4"]
    recording = ("signal=file", "signal.remove_mean=false", f"signal.path={tmp_path / 'a.npy'}")
    summary = ran("T=8", *words, *recording).summary()
    assert summary["verdict"] in ("preserved", "unmoved") and summary["relative_loss"]["final"] < 1e-20


def test_a_silent_recording_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(400))
    with pytest.raises(ValueError, match="must hold a signal, got only zeros"):
        Recording(str(tmp_path / "a.npy"), 8)
