"""Signals: bounds, generators, known components; recordings of every format and every way to be broken."""

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from wavebase.signals.generators import Chirp, Impulse, Sinusoids, Tones, WhiteNoise
from wavebase.signals.recordings import Recording, read_recording
from wavebase.spectrum import normalisation_factor, power_spectrum

SIGNALS = [
    WhiteNoise(0.5),
    WhiteNoise(2.0, "gaussian"),
    Sinusoids(0.1, T=8),
    Sinusoids(0.1, T=8, components=3),
    Chirp(1.5, 0.1, 0.4),
    Impulse(0.7, spacing=4),
    Tones(1.0, T=8),
    Tones(1.0, T=7, off_bin=False),
]


def draw(signal, batch=200, samples=24, seed=0):
    return signal.sample(batch, samples, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("signal", SIGNALS, ids=repr)
def test_every_signal(signal):
    x = draw(signal)
    assert x.shape == (200, 24) and x.dtype == torch.float64
    assert 0.3 * signal.peak < x.abs().max() <= signal.peak * (1 + 1e-12)
    state = torch.random.get_rng_state()
    assert torch.equal(x, draw(signal)) and not torch.equal(x, draw(signal, seed=1))
    assert torch.equal(state, torch.random.get_rng_state()), "a sampler must not touch the global generator"


def test_known_components():
    on_bins = power_spectrum(draw(Tones(1.0, T=8, off_bin=False), samples=8), 8, "half")[:, 0]
    assert (on_bins.argmax(-1) == torch.arange(200) % 5).all()
    assert (on_bins.sort(-1).values[:, :-1] < 1e-20).all(), (
        "a tone on a bin lives in that bin alone, DC and Nyquist too"
    )
    between = power_spectrum(draw(Tones(1.0, T=8), samples=8), 8, "half")[:, 0]
    assert (between.sort(-1).values[:, -2] > 0.01).all(), "a tone between bins leaks"
    components = power_spectrum(draw(Sinusoids(0.1, T=9, components=3), samples=9), 9, "half", "amplitude_squared")[
        :, 0
    ]
    assert (components[:, 0] < 1e-20).all() and (components[:, 4] < 1e-20).all()
    assert components[:, 1:4].min() >= 0 and 0.08**2 < components[:, 1:4].max() <= 0.1**2
    impulses = draw(Impulse(1.0, spacing=8), samples=24).unflatten(1, (3, 8))
    assert ((impulses != 0).sum(-1) == 1).all()
    gaussian = draw(WhiteNoise(4.0, "gaussian"), samples=1000)
    assert abs(gaussian.std() - 1) < 0.01 and gaussian.abs().max() > 3
    chirp = draw(Chirp(1.0, 0.1, 0.2), batch=50, samples=1024)
    spectrum = power_spectrum(chirp, 1024, "half")[:, 0]
    inside = spectrum[:, 92:216].sum(-1) / spectrum.sum(-1)
    assert (inside > 0.95).all()


def test_normalisations_say_what_they_say():
    t = torch.arange(16, dtype=torch.float64)
    cosine = 0.3 * torch.cos(2 * torch.pi * 3 * t / 16)[None]
    assert power_spectrum(cosine, 16, [3], "amplitude_squared").item() == pytest.approx(0.09)
    assert power_spectrum(cosine, 16, [3]).item() == pytest.approx(0.09 * 256 / 4)
    noise = draw(WhiteNoise(1.0), batch=4000, samples=16)
    assert power_spectrum(noise, 16, "full", "power_per_sample").mean().item() == pytest.approx(1 / 3, rel=0.02)
    with pytest.raises(ValueError, match="normalisation must be"):
        normalisation_factor(8, "decibel")


class TestRecordings:
    wave = np.sin(np.linspace(0, 60, 1000)) * np.linspace(0.2, 0.9, 1000)

    @pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "float64"])
    def test_wav_formats(self, tmp_path, dtype):
        kind = np.dtype(dtype)
        if kind.kind == "f":
            samples = self.wave.astype(kind)
        else:
            top = -float(np.iinfo("int8").min) if dtype == "uint8" else -float(np.iinfo(kind).min)
            samples = (np.round(self.wave * (top - 1)) + (128 if dtype == "uint8" else 0)).astype(kind)
        wavfile.write(tmp_path / "a.wav", 8000, samples)
        read, rate = read_recording(str(tmp_path / "a.wav"))
        assert rate == 8000 and np.abs(read - self.wave).max() < {"uint8": 0.02, "int16": 1e-4}.get(dtype, 1e-6)

    def test_channels_columns_and_scale(self, tmp_path):
        table = np.stack([self.wave, -3 * self.wave], 1)
        np.save(tmp_path / "a.npy", table)
        np.savetxt(tmp_path / "b.csv", table, delimiter=",", header="left,right", comments="")
        np.savetxt(tmp_path / "c.csv", table, delimiter=",")
        for name, channel in (("a.npy", 1), ("b.csv", 1), ("b.csv", "right"), ("c.csv", 1)):
            assert np.allclose(read_recording(str(tmp_path / name), channel)[0], table[:, 1])
        signal = Recording(str(tmp_path / "a.npy"), 8, channel=1, amplitude=0.25)
        assert signal.peak == 0.25
        training, held_out = (
            draw(signal, 4000, 8),
            signal.sample(4000, 8, torch.Generator().manual_seed(0), held_out=True),
        )
        assert held_out.abs().max() == pytest.approx(0.25, rel=0.1)
        scaled = torch.from_numpy(table[:, 1] * (0.25 / np.abs(table[:, 1]).max()))
        assert torch.isin(training, scaled[:800]).all() and torch.isin(held_out, scaled[800:]).all()
        assert torch.unique(training).numel() == 800 and torch.unique(held_out).numel() == 200

    @pytest.mark.parametrize(
        "content,channel,column",
        [
            ("0,10\n1,11\n2,12\n", 1, [10, 11, 12]),
            ("time,value\n0,10\n1,11\n2,12\n", "value", [10, 11, 12]),
            ("\ufeff0,10\n1,11\n2,12\n", 0, [0, 1, 2]),  # a byte order mark, as spreadsheets save
            ("\ufefftime,value\n0,10\n1,11\n2,12\n", "time", [0, 1, 2]),
            ('"load, kN",disp,temp\n0,1,7\n1,11,17\n2,21,27\n', "disp", [1, 11, 21]),
            ('"time","value"\n"0","10.5"\n"1","11"\n"2","12"\n', "value", [10.5, 11, 12]),
            ("value,date\n10,2020-01-01\n11,2020-01-02\n12,2020-01-03\n", 0, [10, 11, 12]),
            ("time;value\n0;10,5\n1;11,25\n2;12\n", 1, [10.5, 11.25, 12]),
            ("0\t10,5\n1\t11\n2\t12\n", 1, [10.5, 11, 12]),
            ("x,y\r\n0,10\r\n1,11\r\n2,12\r\n\r\n", -1, [10, 11, 12]),
        ],
    )
    def test_tables_as_other_programs_write_them(self, tmp_path, content, channel, column):
        (tmp_path / "a.csv").write_bytes(content.encode())
        assert read_recording(str(tmp_path / "a.csv"), channel)[0].tolist() == column

    def test_a_name_is_for_a_column_of_a_table_only(self, tmp_path):
        np.save(tmp_path / "a.npy", np.ones((100, 2)))
        with pytest.raises(ValueError, match=r"signal\.channel must be a number for a \.npy file, got 'right'"):
            read_recording(str(tmp_path / "a.npy"), "right")

    @pytest.mark.parametrize(
        "make,words",
        [
            (None, "which is no file"),
            (("a.mp3", b"x"), "must end in"),
            (("a.wav", b"not a wave"), "readable .wav"),
            (("a.npy", b"not an array"), "readable .npy"),
            (("a.csv", b"a,b\n1,2\n3\n"), "readable .csv"),
            (("a.csv", b"1,2\nx,3\n"), "readable .csv"),
            (("a.csv", b"value\n10,0\n10,9\n"), "part cells by ; where commas are decimal"),
            (("a.csv", b""), "readable .csv"),
            (("a.npy", np.array([1.0, np.nan] * 50)), "must hold finite samples, got nan at sample 1"),
            (("a.npy", np.zeros(100)), "only zeros"),
            (("a.npy", np.ones(20)), "T must fit both parts"),
            (("a.npy", np.ones((4, 4, 4))), "samples by channels"),
            (("a.npy", np.ones(100) + 1j), "real numbers wanted"),
            (("a.npy", np.ones((100, 2))), None),
        ],
    )
    def test_every_way_to_be_broken(self, tmp_path, make, words):
        file = tmp_path / (make[0] if make else "missing.wav")
        if make and isinstance(make[1], bytes):
            file.write_bytes(make[1])
        elif make:
            np.save(file, make[1])
        if words is None:
            with pytest.raises(ValueError, match=r"signal\.channel must"):
                Recording(str(file), 8, channel=2)
            return
        with pytest.raises(ValueError, match=words) as refusal:
            Recording(str(file), 8)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: WhiteNoise(0.0),
        lambda: WhiteNoise(float("nan")),
        lambda: Sinusoids(T=8, components=9),
        lambda: Chirp(lowest=0.4, highest=0.3),
        lambda: Impulse(spacing=0),
    ],
)
def test_wrong_settings_are_refused(make):
    with pytest.raises(ValueError, match="signal\\."):
        make()


@pytest.mark.parametrize("announced", [2**32 - 1 - 36, 8002])
def test_a_wav_that_announces_more_than_it_holds_is_refused(announced, tmp_path):
    wavfile.write(tmp_path / "x.wav", 8000, np.arange(4000, dtype=np.int16))
    content = bytearray((tmp_path / "x.wav").read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = announced.to_bytes(4, "little")
    (tmp_path / "x.wav").write_bytes(content)
    with pytest.raises(ValueError, match=rf"readable .wav file, got .*\({announced} bytes of samples announced, 8000 there\); repair"):  # fmt: skip
        read_recording(str(tmp_path / "x.wav"))
