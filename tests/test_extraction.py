"""Extracting a frequency from a noisy mix: the generator, the lanes, the references, the stateful net, the lock-in."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from conftest import FULL, ONE_PROBE
from wavebase.constructions.lock_in import lock_in_construction
from wavebase.experiment import build, config, runner, stacked
from wavebase.models import lock_in, stateful
from wavebase.models.stateful import StatefulLSTM
from wavebase.records.folder import RunFolder
from wavebase.signals.jittered_mix import JitteredMix
from wavebase.tasks.extraction import Extraction, Lanes
from wavebase.tasks.extraction_references import least_squares, matched_filter
from wavebase.training.loop import TrainSettings, train
from wavebase.training.trainer import TrainState

SHORT = ("T=100", "signal.samples=1000", "signal.duration=9.99", "task.held_out_count=2", "probe.figures=[]")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def task(signal: JitteredMix | None = None, T: int = 1000, dtype=torch.float64, **keys) -> Extraction:
    keys = {"lanes": 4, "held_out_count": 2, **keys}
    return Extraction(signal or JitteredMix(), T, dtype, torch.device("cpu"), seeded(0), **keys)


# ---- the mix ----


@pytest.mark.parametrize("seed", [1, 2])
def test_the_mix_is_the_specified_one_bit_for_bit(seed) -> None:
    random = np.random.RandomState(seed)  # what np.random.seed(seed) seeds
    t = np.linspace(0, 10, 10000)
    total = np.zeros(10000)
    for frequency in (1, 3, 5, 7):
        for n in range(10000):
            amplitude = random.uniform(0.8, 1.2)
            phase = random.uniform(0, 0.01 * 2 * np.pi)
            total[n] += amplitude * np.sin(2 * np.pi * frequency * t[n] + phase)
    mix = JitteredMix().mix(np.random.RandomState(seed))
    assert np.array_equal((total / 4).astype(np.float32), mix.astype(np.float32))
    assert 0.35 < mix.std() < 0.36


def test_what_the_jitter_leaves_and_adds() -> None:
    for turns in (0.0, 0.01, 0.3, 1.0):
        signal = JitteredMix(frequencies=(3.0,), phase_jitter=turns)
        mix = signal.mix(np.random.RandomState(0))
        angles = 2 * np.pi * 3 * signal.times()
        mean = np.imag(signal.mean_jitter * np.exp(1j * angles))
        assert abs((mix - mean).mean()) < 0.02
        assert np.square(mix - mean).mean() == pytest.approx(signal.noise_variance, rel=0.05)


def test_samples_are_mixes_with_phases_of_their_own() -> None:
    signal = JitteredMix()
    x = signal.sample(50, 3000, seeded(0))
    assert x.shape == (50, 3000) and x.dtype == torch.float64 and 0.5 * signal.peak < x.abs().max() <= signal.peak
    assert torch.equal(x, signal.sample(50, 3000, seeded(0))) and (x[0] - x[1]).abs().max() > 0.1


# ---- the lanes ----


@pytest.mark.parametrize(
    "selectors,layout", list(itertools.product(("blocked", "interleaved"), ("strided", "contiguous")))
)
def test_lanes_hold_every_sample_once(selectors, layout) -> None:
    lanes = Lanes(3, 20, 12, selectors, layout)
    series = torch.arange(2 * 60).reshape(2, 3, 20)
    rows = lanes.rows(series)
    assert rows.shape == (2, 12, lanes.steps) and torch.equal(lanes.series(rows), series)
    if layout == "strided":
        assert (rows[0, :, 1] - rows[0, :, 0] == lanes.stride).all() and lanes.stride > 1
    else:
        assert (rows.diff(dim=-1) == 1).all()
    assert selectors == "blocked" or (rows[0] // 20 == torch.arange(12)[:, None] // 4).all()


def test_the_originals_order() -> None:
    """Row r of the 40,000, four blocks with one selector each, is met by lane r % 32 at step r // 32."""
    it = task(lanes=32, selectors="blocked", train_seed=2)
    rows, target = it.held_out["training"]
    mix, tones = it.signal.mix(np.random.RandomState(2)), it.signal.tones()
    for r in (0, 1, 31, 32, 9983, 9999, 10000, 10015, 25000, 39999):
        frequency, n = divmod(r, 10000)
        one_hot = [float(i == frequency) for i in range(4)]
        assert rows[r % 32, r // 32].tolist() == [mix[n], *one_hot]
        assert target[r % 32, r // 32].item() == tones[frequency, n]
    (batch, keep), wanted = it.sample_batch(32, seeded(0), 1250 + 7)
    assert torch.equal(batch, rows[:, 7:8]) and torch.equal(wanted, target[:, 7:8]) and keep == 1
    assert it.sample_batch(32, seeded(0), 1250).input[1] == 0, "an epoch starts from rest"


def test_random_phases_depend_on_the_seed_and_the_epoch_alone() -> None:
    generator = seeded(5)
    it = task(lanes=16, unroll=500, phases="random")
    parts = [it.sample_batch(16, generator, step) for step in range(10)]
    resumed = seeded(0)
    resumed.set_state(generator.get_state())
    again = task(lanes=16, unroll=500, phases="random").sample_batch(16, resumed, 8)
    assert torch.equal(again.input[0], parts[8].input[0]) and torch.equal(again.target, parts[8].target)
    assert (parts[0].target - parts[5].target).abs().max() > 0.1, "another epoch, other phases"
    other = it.sample_batch(16, seeded(6), 0)
    assert (parts[0].target - other.target).abs().max() > 0.1
    turns = parts[0].target[:4].flatten(1)
    assert (turns[:, :1] - turns[0, 0]).abs()[1:].min() > 1e-3, "every lane of a tone has phases of its own"
    # mix and target belong together: after the jitter's mean the mix is the mean of its tones
    series = it._series(torch.cat([p.target for p in parts[:5]], 1))[0].mean(0)
    mix = it._series(torch.cat([p.input[0][..., :1] for p in parts[:5]], 1))[0, 0]
    assert (mix - series).std() < 0.15 * mix.std()  # the jitter's own: 0.04 of 0.35


# ---- errors and references ----


def test_errors_are_those_of_their_set() -> None:
    it = task(
        lanes=4, selectors="blocked"
    )  # as many lanes as tones: the set stream has the same shape in another order
    for name, (rows, target) in it.held_out.items():
        assert it.metrics(target.clone(), target) == dict.fromkeys(it.metrics(target, target), 0.0)
        nothing = it.metrics(torch.zeros_like(target), target)
        assert nothing["relative_error"] == pytest.approx(1) and nothing["mean_squared_error"] == pytest.approx(
            0.5, 1e-3
        )
        three = torch.where(rows[..., 2:3] == 1, torch.zeros_like(target), target)  # all right but for 3 Hz
        of = it.metrics(three, target)
        assert of["mean_squared_error_3Hz"] == pytest.approx(0.5, 1e-3), name
        assert of["mean_squared_error_1Hz"] == of["mean_squared_error_7Hz"] == 0
        assert of["mean_squared_error"] == pytest.approx(of["mean_squared_error_3Hz"] / 4)


def test_references_are_what_is_achievable() -> None:
    it = task()
    errors = {name: it.reference_errors(name) for name in it.held_out}
    for of in errors.values():
        assert of["zero"] == pytest.approx((0.5, 0.5), 1e-3) and of["mean"][0] == pytest.approx(0.5, 1e-2)
        assert of["least_squares"][1] < 1e-4 and of["least_squares"][0] < 0.01
        assert of["matched_filter"][1] < 1e-4 < of["matched_filter"][0]
    test = errors["training"]
    assert it.baselines["least_squares"] == test["least_squares"][0] == pytest.approx(0.00104, 0.02)
    assert test["memoryless"][0] == pytest.approx(0.29, 0.02) and test["matched_filter"][0] == pytest.approx(
        0.065, 0.02
    )
    assert errors["random_phases"]["memoryless"][0] > 0.4, "what it learned is about the training phases"


def test_least_squares_is_least_squares() -> None:
    signal = JitteredMix()
    mix = signal.mix(np.random.RandomState(3), phases=np.array([0.1, 2, 4, 5]))
    found = least_squares(signal, mix, 1000)
    for n in (1500, 9999):
        window = slice(n - 999, n + 1)
        angles = 2 * np.pi * np.outer(signal.times(), signal.frequencies)
        design = np.concatenate([np.sin(angles), np.cos(angles)], 1)
        coefficients = np.linalg.lstsq(design[window], 4 * mix[window], rcond=None)[0]
        phasors = (coefficients[:4] + 1j * coefficients[4:]) / signal.mean_jitter
        expected = np.imag(phasors * np.exp(1j * angles[n]))
        np.testing.assert_allclose(found[:, n], expected, atol=3e-4)  # what it knows before any sample pulls a little
    clean = JitteredMix(amplitude_jitter=0, phase_jitter=0)
    mix, tones = clean.mix(np.random.RandomState(0)), clean.tones()
    assert np.abs(least_squares(clean, mix, 1000) - tones)[:, 1000:].max() < 1e-6
    assert np.abs(matched_filter(clean, mix, 1000) - tones)[:, 1000:].max() < 5e-3
    none = JitteredMix(phase_jitter=1.0)
    assert np.abs(least_squares(none, none.mix(np.random.RandomState(0)), 1000)).max() < 1e-6, "nothing to find: zero"


# ---- the stateful net ----


@pytest.mark.parametrize("layers,bidirectional", [(1, False), (3, False), (2, True)])
def test_the_net_and_its_start_are_torchs(layers, bidirectional) -> None:
    torch.manual_seed(1)
    lstm = torch.nn.LSTM(5, 8, layers, batch_first=True, bidirectional=bidirectional)
    linear = torch.nn.Linear(16 if bidirectional else 8, 1)
    net = stateful.build(
        JitteredMix(), 3, 6, torch.float32, seeded(0), hidden_size=8, layers=layers, bidirectional=bidirectional, torch_seed=1
    )  # fmt: skip
    own = dict(net.named_parameters())
    for name, parameter in lstm.named_parameters():
        assert torch.equal(own[name], parameter), name
    assert torch.equal(net.readout.weight, linear.weight) and torch.equal(net.readout.bias, linear.bias)
    x = torch.randn(3, 6, 5, generator=seeded(1))
    torch.testing.assert_close(net(x), linear(lstm(x)[0]))
    assert net(x).abs().max() > 0.01


def test_the_original_has_its_parameters_and_its_first_epoch(composed) -> None:
    cfg = config.parse(composed("experiment=frequency_extraction_original", "task.held_out_count=1"))
    components = build.build_components(cfg)
    assert sum(p.numel() for p in components.net.parameters()) == 69249
    losses: list[float] = []
    member = TrainState(
        components.net, components.task, components.trained, components.optimizer, lambda step: 1e-4, components.settings.clip_norm,
        cfg.generator("data"), lambda step, values: losses.append(values["loss/train"]), lambda step: None, lambda step: None,
    )  # fmt: skip
    train([member], TrainSettings(steps=1249, batch=32, log_every=1), 10**6, range(1250))
    # of the published program, epoch 1: 0.4847 (mean of 1250 batches; the last one does not move it)
    assert np.mean(losses) == pytest.approx(0.4847, rel=0.001)


def net_of(**keys) -> StatefulLSTM:
    net = StatefulLSTM(5, 6, 1, lanes=3, unroll=4, dtype=torch.float64, **keys)
    stateful.torch_start(net, seeded(0))
    return net


@pytest.mark.parametrize("keys", [{}, {"layers": 2}, {"attention": 3}, {"attention": 9}, {"bidirectional": True}])
def test_a_stream_in_pieces_is_the_stream(keys) -> None:
    net = net_of(**keys)
    x = torch.randn(3, 12, 5, generator=seeded(1), dtype=torch.float64)
    whole = net(x)
    components = [net((part, torch.tensor(float(n > 0)))) for n, part in enumerate(x.split(4, 1))]
    torch.testing.assert_close(torch.cat(components, 1), whole)
    torch.testing.assert_close(net((x[:, :4], torch.tensor(0.0))), whole[:, :4])  # reset: from rest again
    carried = net((x[:, :4], torch.tensor(1.0)))
    assert (carried - whole[:, :4]).abs().max() > 1e-3
    net(x)  # whole sequences leave the carried state alone
    state = net.state.clone()
    net(x[:2])
    assert torch.equal(net.state, state)


def test_gradients_end_with_the_piece() -> None:
    net = net_of()
    x = torch.randn(3, 8, 5, generator=seeded(1), dtype=torch.float64)
    net((x[:, :4], torch.tensor(0.0)))
    (ours,) = torch.autograd.grad(net((x[:, 4:], torch.tensor(1.0))).square().sum(), net.weight_hh_l0)
    lstm = torch.nn.LSTM(5, 6, batch_first=True, dtype=torch.float64)
    lstm.load_state_dict({n: p for n, p in net.state_dict().items() if n.endswith("_l0")})
    state = tuple(s.detach() for s in lstm(x[:, :4])[1])
    (theirs,) = torch.autograd.grad(net.readout(lstm(x[:, 4:], state)[0]).square().sum(), lstm.weight_hh_l0)
    torch.testing.assert_close(ours, theirs)
    (full,) = torch.autograd.grad(net(x)[:, 4:].square().sum(), net.weight_hh_l0)
    assert (ours - full).abs().max() > 1e-3 * full.abs().max()


@pytest.mark.parametrize("keys,causal", [({}, True), ({"attention": 3}, True), ({"bidirectional": True}, False)])
def test_what_is_causal(keys, causal) -> None:
    net = net_of(**keys)
    x = torch.randn(3, 8, 5, generator=seeded(1), dtype=torch.float64)
    later = x.clone()
    later[:, 6] += 1
    change = (net(later) - net(x)).abs().amax((0, 2))
    assert bool((change[:6] == 0).all()) is causal and change[6] > 1e-3
    assert (change[:4] == 0).all(), "it looks ahead within its piece only"


def test_stacked_members_equal_their_runs_alone(composed, tmp_path) -> None:
    def refuse(job, error):
        raise error

    base = ("T=20", "signal.samples=200", "signal.duration=1.99", *SHORT[3:], "experiment=frequency_extraction", "dtype=float64", "optim=sgd", "optim.lr=0.1", "optim.lr_over_boundary=null", "train.batch=16", "task.unroll=25", "train.steps=12", "model.hidden_size=5", "probe.every=6", ONE_PROBE)  # fmt: skip
    changes = ("seed=0", "seed=1", "optim.lr=0.03", "optim.clip_norm=0.01")
    for kind in ("task.phases=random", "model.attention=4", "model.layers=2"):
        tried = changes if FULL or kind == "task.phases=random" else changes[:2]
        listed = [
            [runner.Job(composed(*base, kind, c), tmp_path / kind / where / c, {}) for c in tried]
            for where in ("a", "b")
        ]
        finals = stacked.run_stacked(listed[0], 64, refuse)
        for job, final in zip(listed[1], finals, strict=True):
            assert runner.run(job, single=False) == pytest.approx(final, rel=1e-6)
        assert len(set(finals)) == len(tried)


# ---- the lock-in ----


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_lock_in_extracts_whatever_the_phases(dtype) -> None:
    it = task(dtype=dtype)
    net = lock_in.build(it.signal, 1000, 4, 1, dtype, seeded(0), seeded(0))
    assert net.construction is not None and net.construction.hidden_size == 36
    with torch.no_grad():
        for name, (rows, target) in it.held_out.items():
            found = it.metrics(net(rows), target)
            assert found["mean_squared_error_after"] < 1e-4, name
            assert found["mean_squared_error"] == pytest.approx(0.05, 0.01), "silent until its first window is complete"


def test_the_lock_in_without_jitter_is_exact_to_its_window() -> None:
    """Windows of 100 samples, one second: left are the first window's missing sample, rounding, and tanh's curvature."""
    clean = JitteredMix(duration=9.99, samples=1000, amplitude_jitter=0, phase_jitter=0)
    it = task(clean, T=100)
    for eps, bound in ((2.0**-7, 2e-6), (2.0**-20, 1e-14)):
        net = lock_in.build(clean, 100, 4, 1, torch.float64, seeded(0), seeded(0), eps=eps)
        rows, target = it.held_out["random_phases"]
        with torch.no_grad():
            square = it._series(net(rows) - target).square()
        assert square[..., 200:].mean() < bound and square[..., 100:200].mean() < 1e-3
        assert square[..., :100].mean() > 0.3


def test_siblings_of_the_lock_in(composed) -> None:
    errors = {}
    for model in ("lock_in", "lock_in_perturbed", "lock_in_random"):
        cfg = config.parse(composed("experiment=extraction_lock_in", f"model={model}", *SHORT))
        components = build.build_components(cfg)
        rows, target = components.task.held_out["random_phases"]
        with torch.no_grad():
            errors[model] = components.task.metrics(components.net(rows), target)["mean_squared_error_after"]
        assert set(components.net.construction.blocks) == {"gen", "clock", "sum", "hold", "prod"}
        assert components.net.named_weights()["weight_hh_cell"].shape == (36, 36)
    assert errors["lock_in"] < 1e-3 < 0.1 < errors["lock_in_random"]
    assert errors["lock_in"] < errors["lock_in_perturbed"]


def test_a_lock_in_wants_a_window_and_a_tone() -> None:
    with pytest.raises(ValueError, match="whole periods of every tone, got T=700"):
        lock_in_construction(JitteredMix(), 700)
    with pytest.raises(ValueError, match="must leave a tone"):
        lock_in_construction(JitteredMix(phase_jitter=1.0), 1000)
    with pytest.raises(ValueError, match=r"model\.eps must lie between 0 and 0.018"):
        lock_in_construction(JitteredMix(), 1000, eps=0.1)


# ---- the command line ----


@pytest.mark.parametrize(
    "bad,words",
    [
        ("signal.frequencies=[1,600]", "signal.frequencies must lie between 0 and the grid's Nyquist frequency, 499.95 Hz, got 600"),
        ("signal.frequencies=[1,13]", "signal.frequencies must lie below the lanes' Nyquist frequency, 6.249 Hz, got 13"),
        ("signal.frequencies=[3,3]", "signal.frequencies must be different hertz"),
        ("signal.phase_jitter=-1", "signal.phase_jitter must lie in 0..1 turns, got -1"),
        ("task.unroll=0", "task.unroll must be at least 1 and divide the lane length of 250 steps, got 0"),
        ("task.unroll=52", "divide the lane length of 250 steps, got 52"),
        ("task.selected=[0,4]", "task.selected must be different numbers of tones in 0..3, got [0, 4]"),
        ("train.batch=96", "signal.samples must make streams of whole lanes, got a stream of 10000 samples for 24 lanes"),
        ("train.batch=6", "train.batch must be a positive multiple of the 4 streams that are read at once, got 6"),
        ("T=10000", "T must lie in 1..9999, a window within the mix, got 10000"),
        ("task.test_seed=-1", "task.test_seed must lie in 0..2^32-1, got -1"),
        ("model.layers=0", "model.layers must be at least 1, got 0"),
        ("signal=white_noise", "must have signal=jittered_mix"),
        ("task=power_spectrum", "model needs 'signal', got a task that does not give it"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_line(bad, words, cli) -> None:
    status, out, err = cli("experiment=frequency_extraction", bad)
    assert status == 1 and words in err and err.count("\n") == 1 and "Traceback" not in err + out


@pytest.mark.draws
def test_a_run_leaves_its_numbers_and_figures(ran) -> None:
    short = [word for word in SHORT if "figures" not in word]
    folder: RunFolder = ran(
        "experiment=frequency_extraction",
        *short,
        "train.batch=16",
        "train.steps=100",
        "task.unroll=50",
        "probe.draw=true",
    )
    summary = folder.summary()
    assert summary["metrics"]["mean_squared_error"] < 0.3 < summary["baseline"]["zero"]
    assert summary["baseline"]["least_squares"] < 0.02
    probes = summary["probes"]["final"]
    for name in ("seen", "training", "shifted", "random_phases", "stream"):
        assert math.isfinite(probes[f"mean_squared_error_after/{name}"]) and math.isfinite(probes[f"error/{name}"])
    assert probes["drift/weight_hh_cell"] > 0.01
    examples = folder.examples()
    assert examples["after"].shape == examples["target"].shape == (4, 1000) and examples["signal"].shape == (1000,)
    assert np.square(examples["after"] - examples["target"]).mean() == pytest.approx(
        summary["metrics"]["mean_squared_error"]
    )
    figures = {file.stem for file in (folder.path / "figures").glob("*.png")}
    assert figures == {"train_loss", "one_second", "tones", "per_frequency", "error_over_time", "output_spectra", "seen_and_unseen"}  # fmt: skip


@pytest.mark.parametrize("selectors", ["interleaved", "blocked"])
@pytest.mark.parametrize("layout", ["strided", "contiguous"])
@pytest.mark.parametrize("lanes", [4, 8])
def test_metrics_know_the_set_in_time_by_its_content(selectors, layout, lanes) -> None:
    """A copy of a target, as another device or a saved file gives it, is measured as the target itself."""
    signal = JitteredMix((1.0, 2.0, 3.0, 4.0), samples=1000, duration=9.99)
    asked = task(signal, T=100, lanes=lanes, selectors=selectors, layout=layout)
    wrong = {}
    for name in ("training", "stream"):
        target = asked.held_out[name].target
        tone = asked._series(torch.ones_like(target), name == "stream")
        assert tone.shape[1:] == (4, 1000)
        rows = (asked.whole if name == "stream" else asked.lanes).rows(torch.eye(4, dtype=torch.float64)[1][:, None].expand(4, 1000))  # fmt: skip
        output = target + rows[..., None]  # wrong by 1 in the second tone alone
        wrong[name] = asked.metrics(output, target)
        assert asked.metrics(output.clone(), target.clone()) == wrong[name]
        assert wrong[name]["mean_squared_error_2Hz"] == pytest.approx(1)
        assert wrong[name]["mean_squared_error_1Hz"] == pytest.approx(0, abs=1e-12)
