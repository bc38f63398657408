"""The trainable cosine transform: exact against scipy, refused when asked for nonsense, kept by training, told by its probes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from scipy import fft
from torch.func import functional_call, grad, stack_module_state, vmap

from wavebase.cli.names import conf_folder
from wavebase.constructions.cosine import exact_cosine_weights, perturb_frequencies, random_cosine_weights
from wavebase.experiment import config, validation
from wavebase.experiment.build import build_components
from wavebase.models.cosine import CosineTransform, build, cosine_transform
from wavebase.probes import cosine as probes
from wavebase.probes.curvature import largest_curvature
from wavebase.probes.snapshot import Snapshot
from wavebase.signals.generators import WhiteNoise
from wavebase.spectrum import cosine_basis, dct_frequencies
from wavebase.tasks.reconstruction import Reconstruction

DTYPES = (torch.float32, torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(batch: int, N: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return WhiteNoise().sample(batch, N, generator(7)).to(dtype)


def reconstruction(N: int, dtype: torch.dtype = torch.float64) -> Reconstruction:
    return Reconstruction(WhiteNoise(), N, dtype, torch.device("cpu"), generator(1), held_out_count=64)


def snapshot(net: torch.nn.Module, N: int, start: CosineTransform | None = None) -> Snapshot:
    task = reconstruction(N)
    return Snapshot(
        step=0,
        weights=net.named_weights(),
        start=(start or net).named_weights(),
        construction=None,
        held_out=task.held_out,
        predict=lambda x: net(x).detach(),
        trace=lambda x: None,
        metrics=task.metrics,
        baselines=task.baselines,
        forward=net,
        loss=task.loss,
        trained=dict(net.named_parameters()),
        learning_rate=0.1,
    )


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-13), (torch.float64, 1e-28)])
def test_the_exact_start_reconstructs_512_samples(dtype, bound):
    for tied in (False, True):
        net, x = cosine_transform(512, tied=tied, dtype=dtype), noise(64, 512, dtype)
        error = (net(x).double() - x.double()).square().mean().item()
        assert error <= bound
    # a net that outputs zero must fail the same bound, and its relative error is 1
    task = reconstruction(512, dtype)
    x, target = task.held_out["training"]
    metrics = task.metrics(torch.zeros_like(x), target)
    assert metrics["mean_squared_error"] > 0.3 and metrics["relative_error"] == pytest.approx(1)


@pytest.mark.parametrize("N", [2, 3, 7, 16, 33, 512])
def test_analysis_and_synthesis_are_scipys_dct(N):
    x = noise(5, N)
    scale = np.abs(x.numpy()).max() * math.sqrt(N)
    for dtype in DTYPES:
        net, given = cosine_transform(N, dtype=dtype), x.to(dtype)
        bound = 8 * torch.finfo(dtype).eps * scale  # a rounding of each factor and of the sums, in norm
        for ours, theirs in (
            (net.analyse(given), fft.dct(given.double().numpy(), type=3, norm="ortho")),
            (net.synthesise(given), fft.dct(given.double().numpy(), type=2, norm="ortho")),
            (net.analyse(given), fft.idct(given.double().numpy(), type=2, norm="ortho")),
        ):
            assert np.abs(ours.detach().double().numpy() - theirs).max() <= bound
            assert np.abs(0 * ours.detach().numpy() - theirs).max() > bound  # zero output fails


@pytest.mark.parametrize(("N", "M"), [(2, 1), (5, 3), (50, 50), (64, 17), (130, 100)])
def test_the_basis_is_what_an_element_by_element_fill_gives(N, M):
    offset = torch.randn(M, generator=generator(), dtype=torch.float64)
    w = (dct_frequencies(M) + offset).tolist()
    filled = torch.tensor([[math.cos(w[m] * n) for n in range(N)] for m in range(M)], dtype=torch.float64)
    torch.testing.assert_close(cosine_basis(offset, N), filled, rtol=0, atol=4e-16 * 5 * N)


def test_the_basis_has_right_first_and_second_derivatives():
    offset = torch.randn(5, generator=generator(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda o: cosine_basis(o, 11), offset)
    assert torch.autograd.gradgradcheck(lambda o: cosine_basis(o, 11), offset)


def test_one_float32_number_a_frequency_would_not_be_exact():
    w = dct_frequencies(512).float().double()  # rounded once, everything else in float64
    n = torch.arange(512, dtype=torch.float64)
    amplitude = torch.full((512,), math.sqrt(2 / 512), dtype=torch.float64)
    amplitude[0] = math.sqrt(1 / 512)
    a = torch.cos(torch.outer(w, n)) * amplitude
    x = noise(64, 512)
    assert ((x @ a.mT @ a) - x).square().mean() > 1e-11  # the bound of the issue is 1e-13


@pytest.mark.parametrize("tied", [False, True])
def test_training_at_half_the_boundary_keeps_the_exact_start(tied):
    N = 32
    net, task, data = cosine_transform(N, tied=tied, dtype=torch.float64), reconstruction(N), generator(3)
    x, target = task.sample_batch(256, generator(2))
    rate = 0.5 * 2 / largest_curvature(lambda: task.loss(net(x), target), net.parameters())
    optimizer = torch.optim.SGD(net.parameters(), rate)
    for _ in range(300):
        x, target = task.sample_batch(32, data)
        optimizer.zero_grad()
        task.loss(net(x), target).backward()
        optimizer.step()
    x, target = task.held_out["training"]
    assert task.metrics(net(x), target)["relative_error"] < 1e-14
    assert net.offset_analysis.abs().max() * N / math.pi < 1e-13


def test_a_small_frequency_error_is_undone_and_over_the_boundary_it_grows():
    N, task = 16, reconstruction(16)
    ends = {}
    for fraction in (0.5, 2.5):
        weights = perturb_frequencies(exact_cosine_weights(N), N, 0.2, generator(4))
        net = CosineTransform(weights, N)
        x, target = task.held_out["training"]
        start = task.loss(net(x), target).item()
        rate = fraction * 2 / largest_curvature(lambda: task.loss(net(x), target), net.parameters())  # noqa: B023
        for _ in range(200):
            gradients = torch.autograd.grad(task.loss(net(x), target), list(net.parameters()))
            with torch.no_grad():
                for p, g in zip(net.parameters(), gradients, strict=True):
                    p -= rate * g
        ends[fraction] = task.loss(net(x), target).item() / start
    assert ends[0.5] < 1e-3
    assert not ends[2.5] < 1e-3


def test_the_curvature_is_what_the_theory_says():
    # lambda_max = 4 v N / 3 at the exact untied start for white noise of variance v, up to the edges' O(1/N)
    N = 128
    net, x = cosine_transform(N, dtype=torch.float64), noise(512, N)
    frequencies = [net.offset_analysis, net.offset_synthesis]
    measured = largest_curvature(lambda: (net(x) - x).square().mean(), frequencies)
    assert measured == pytest.approx(4 / 3 * N / 3, rel=0.1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tied", [False, True])
def test_a_stack_of_members_gives_each_members_numbers(dtype, tied):
    N, M, x = 24, 20, noise(6, 24, dtype)
    nets = [
        CosineTransform(random_cosine_weights(exact_cosine_weights(N, M, tied, dtype), generator(s)), N)
        for s in range(3)
    ]
    stacked, _ = stack_module_state(nets)

    def loss(weights, signal):
        return (functional_call(nets[0], weights, (signal,)) - signal).square().mean()

    together = vmap(grad(loss), in_dims=(0, None))(stacked, x)
    outputs = vmap(lambda w: functional_call(nets[0], w, (x,)))(stacked)
    for s, net in enumerate(nets):
        alone = torch.autograd.grad((net(x) - x).square().mean(), list(net.parameters()))
        tolerance = 50 * torch.finfo(dtype).eps
        torch.testing.assert_close(outputs[s], net(x), rtol=tolerance, atol=tolerance * net(x).abs().max().item())
        for name, gradient in zip(dict(net.named_parameters()), alone, strict=True):
            size = gradient.abs().max().item()
            torch.testing.assert_close(together[name][s], gradient, rtol=tolerance, atol=tolerance * size)


def test_starts_differ_in_weights_only_and_repeat_with_their_generators():
    def net(start, seed):
        scale = {"frequency_scale": 0.3} if start == "perturbed" else {}
        return build(12, torch.float64, generator(seed), generator(seed), M=8, start=start, **scale)

    names = {name: w.shape for name, w in net("exact", 0).named_weights().items()}
    for start in ("perturbed", "random"):
        first, again, other = net(start, 0), net(start, 0), net(start, 1)
        assert {name: w.shape for name, w in first.named_weights().items()} == names
        assert torch.equal(first.offset_synthesis, again.offset_synthesis)
        assert not torch.equal(first.offset_synthesis, other.offset_synthesis)
    moved = perturb_frequencies(exact_cosine_weights(4000), 4000, 0.3, generator())["offset_analysis"]
    bins = moved * 4000 / math.pi
    assert bins.abs().max() <= 0.3 and bins.std().item() == pytest.approx(0.3 / math.sqrt(3), rel=0.05)


def test_probes_of_the_exact_transform_are_zero_and_of_known_errors_known():
    N = 64
    net = cosine_transform(N, dtype=torch.float64)
    exact = {
        **probes.frequency_drift(snapshot(net, N)),
        **probes.orthogonality(snapshot(net, N)),
        **probes.product(snapshot(net, N)),
        **probes.bin_leakage(snapshot(net, N)),
    }
    assert all(value < 1e-14 for value in exact.values())

    weights = exact_cosine_weights(N)
    weights["offset_analysis"][5] = 0.25 * math.pi / N
    weights["offset_analysis"][9] = 2 * (math.pi - dct_frequencies(N)[9])  # the same cosines: w and 2 pi - w
    moved = CosineTransform(weights, N)
    values = probes.frequency_drift(snapshot(moved, N, net))
    assert values["frequency/analysis_from_exact_max"] == pytest.approx(0.25)
    assert values["frequency/analysis_drift_median"] == 0
    assert values["frequency/synthesis_drift_max"] == 0
    # one wrong frequency: by Parseval the product misses the identity by that row's change
    change = (cosine_basis(weights["offset_analysis"], N) - cosine_basis(torch.zeros(N).double(), N))[5]
    expected = (change * math.sqrt(2 / N)).norm() / math.sqrt(N)
    assert probes.product(snapshot(moved, N))["product/identity_distance"] == pytest.approx(expected.item(), rel=1e-9)
    assert probes.orthogonality(snapshot(moved, N))["orthogonality/synthesis"] < 1e-14
    assert probes.orthogonality(snapshot(moved, N))["orthogonality/analysis"] > 0.01
    assert probes.bin_leakage(snapshot(moved, N))["leakage/max"] > 0.01

    doubled = {**exact_cosine_weights(N), "amplitude_synthesis": torch.zeros(2, dtype=torch.float64)}
    silent = snapshot(CosineTransform(doubled, N), N)
    assert probes.product(silent)["product/identity_distance"] == pytest.approx(1)  # zero output is as far as I itself


def test_fewer_frequencies_than_samples_cannot_beat_the_rank():
    N, M, x = 64, 32, noise(4000, 64)
    net = cosine_transform(N, M, dtype=torch.float64)
    error = ((net(x) - x).norm() / x.norm()).item()
    assert error == pytest.approx(math.sqrt(1 - M / N), rel=0.02)  # M = N/2: an orthogonal projection


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: cosine_transform(1), "at least 2 samples, got 1"),
        (lambda: cosine_transform(8, 9), "1..N=8, got 9"),
        (lambda: cosine_transform(8, 0), "1..N=8, got 0"),
        (lambda: build(8, torch.float64, generator(), generator(), frequency_scale=-0.1), "not negative, got -0.1"),
        (lambda: build(8, torch.float64, generator(), generator(), frequency_scale=math.nan), "finite"),
        (lambda: build(8, torch.float64, generator(), generator(), start="rnd"), "exact, perturbed or random"),
        (lambda: cosine_transform(8)(torch.zeros(3, 9)), r"N=8, got \[3, 9\]"),
        (lambda: cosine_transform(8)(torch.zeros(8)), r"N=8, got \[8\]"),
    ],
)
def test_bad_input_is_refused(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value) and ";" in str(error.value)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("model.M=17", "model.M must lie in 1..N=16, got 17"),
        ("T=1", "T must be a window of at least 2 samples, got 1"),
        ("model.frequency_scale=-1", "model.frequency_scale must be finite and not negative, got -1"),
        ("model.M=three", "model.M must be a whole number or null, got 'three'"),
        ("task=power_spectrum", "model needs 'N', got a task that does not give it"),
    ],
)
def test_a_bad_configuration_is_refused_in_one_line(bad, words):
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        node = compose("config", ["experiment=cosine_reconstruction", "T=16", bad])
    with pytest.raises(validation.ConfigError, match=words) as error:
        build_components(config.parse(OmegaConf.to_container(node, resolve=True)))
    assert "\n" not in str(error.value)


def test_a_bad_command_prints_one_line(cli):
    words = ("experiment=cosine_reconstruction", "T=16", "model.M=17", "hydra.run.dir=run")
    assert cli(*words) == (1, "", "wavebase: model.M must lie in 1..N=16, got 17; use null for N\n")


@pytest.mark.draws
def test_the_experiment_runs_on_a_recording_and_undoes_a_small_error(tmp_path, cli):
    wave = tmp_path / "wave.npy"
    np.save(wave, np.random.default_rng(0).uniform(-1, 1, 4000))
    status, _, err = cli(
        "experiment=cosine_reconstruction",
        "T=16",
        "train.steps=20",
        "signal=file",
        f"signal.path={wave}",
        "model.start=perturbed",
        "model.frequency_scale=0.05",
        "probe.every=10",
        "hydra.run.dir=run",
    )
    assert status == 0, err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["watched_weight"] == "frequency_analysis" and summary["status"] == "done"
    assert summary["relative_error"]["final"] < summary["relative_error"]["initial"] < 0.15
    for name in ("train_loss", "reconstruction", "frequencies", "operator"):
        assert (tmp_path / "run" / "figures" / f"{name}.png").stat().st_size > 5000
    probes_seen = summary["probes"]["final"]
    for name in ("frequency/analysis_drift_rms", "orthogonality/synthesis", "product/identity_distance", "leakage/rms"):
        assert math.isfinite(probes_seen[name])
