"""Every model config: one contract; and the recurrence against torch.nn.LSTM."""

import json
import re

import pytest
import torch

from conftest import ROOT, SMALL
from wavebase.experiment import build, config, validation
from wavebase.recurrence.cells import lstm_trace
from wavebase.recurrence.lstm import lstm_sequence

MODELS = sorted(file.stem for file in (ROOT / "conf" / "model").glob("*.yaml"))
EXPERIMENTS = sorted(file.stem for file in (ROOT / "conf" / "experiment").glob("*.yaml"))


UNTRAINED = {"bayes"}  # samples the exact posterior: its gradient is zero by construction
SHORT_MIX = ("T=100", "signal.samples=1000", "signal.duration=9.99")  # a window of whole periods of its tones


def small(experiment):
    """An experiment at a size of seconds; four samples would say nothing of periods of ten and more."""
    longer = SHORT_MIX if "extraction" in experiment else ("T=40",) if "forecast" in experiment else ()
    return (f"experiment={experiment}", *SMALL, *longer)


def native_task(model):
    """The overrides under which a model, or what its name begins with, finds the task it was made for."""
    if model == "bayes":  # too slow for the sweep of an experiment
        return (*small("harmonic_forecast"), "model=bayes", "model.noise=0.1", "model.updates=16")
    for file in sorted((ROOT / "conf" / "experiment").glob("*.yaml")):
        text = file.read_text()
        made_for = re.search(r"override /model: (\w+)\n", text)
        if made_for and f"{model}_".startswith(f"{made_for[1]}_"):
            return (*small(file.stem), f"model={model}")
        if re.search(rf"^ +model: .*\b{model}\b", text, re.MULTILINE):  # one of those that it sweeps over
            return (*small(file.stem), f"model={model}")
    return (f"model={model}", *SMALL)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("model", MODELS)
def test_model_contract(model, dtype, composed, tmp_path):
    node = composed(f"dtype={dtype}", *native_task(model))
    cfg = config.parse(node)
    components = build.build_components(cfg, learning_rate=1e-3)
    inputs, target = components.task.sample_batch(4, cfg.generator("data"))
    output = components.net(inputs)
    assert output.dtype == getattr(torch, dtype) and len(output) == len(target)
    if isinstance(inputs, tuple):  # shown the truth: a forecaster may predict the horizon only, the target's end
        target = target[..., -output.shape[-1] :]
    assert output.shape == target.shape or not target.is_floating_point(), "only a class may be given by its number"

    components.task.loss(output, target).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in components.trained.values())
    assert any(p.grad.any() for p in components.trained.values()) == (model not in UNTRAINED)

    torch.save(components.net.state_dict(), tmp_path / "net.pt")
    other = build.build_components(config.parse({**node, "seed": 99}), learning_rate=1e-3)
    other.net.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    assert torch.equal(other.net(inputs), output)

    names = set(components.net.named_weights())
    assert names and all(not weight.requires_grad for weight in components.net.named_weights().values())


@pytest.fixture(scope="module")
def finished(run_once, composed, tmp_path_factory):
    """finished("T=5") -> the folder of such a run. Experiments that differ only in what they sweep over are one run here."""
    folders = {}

    def go(*words):
        key = json.dumps(composed(*words), sort_keys=True)
        if key not in folders:
            folders[key] = run_once(tmp_path_factory.mktemp("finished") / "run", *words)
        return folders[key]

    return go


@pytest.mark.parametrize("model", MODELS)
def test_two_training_steps(model, finished):
    task = native_task(model)
    # without noise the ridges are at their least, where a step is below the rounding of their logarithm
    folder = finished(*task, *["signal.noise=0.1"] * ("experiment=harmonic_forecast" in task))
    summary = folder.summary()
    assert summary["status"] == "done" and summary["steps"] == 2
    first, last = folder.load_checkpoint(0), folder.load_checkpoint(2)
    moved = any(not torch.equal(first["net"][name], weight) for name, weight in last["net"].items())
    assert moved == (model not in UNTRAINED)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_runs_two_steps(experiment, finished):
    assert finished(*small(experiment)).summary()["status"] in ("done", "diverged")


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 5, 2, 4), (2, 7, 1, 9)])
def test_sigmoid_cell_is_torch_lstm_values_and_gradients(shape):
    B, N, inputs, H = shape
    draw = torch.Generator().manual_seed(0)
    reference = torch.nn.LSTM(inputs, H, batch_first=True, dtype=torch.float64)
    state = [torch.randn(B, H, generator=draw, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    x = torch.randn(B, N, inputs, generator=draw, dtype=torch.float64, requires_grad=True)
    expected, (h, c) = reference(x, (state[0][None], state[1][None]))
    w_ih, w_hh, b_ih, b_hh = reference.parameters()
    hidden, last_h, last_c = lstm_sequence(x, *state, w_ih, w_hh, b_ih + b_hh, "sigmoid")
    for ours, theirs in ((hidden, expected), (last_h, h[0]), (last_c, c[0])):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    weight = torch.randn(expected.shape, generator=draw, dtype=torch.float64)
    variables = [x, *state, w_ih, w_hh, b_ih, b_hh]
    ours, theirs = (torch.autograd.grad((out * weight).sum(), variables) for out in (hidden, expected))
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)
    signed, *_ = lstm_sequence(x, *state, w_ih, w_hh, b_ih + b_hh, "tanh")
    assert not torch.allclose(signed, expected)


def test_a_stack_is_its_members_and_a_trace_is_its_sequence():
    draw = torch.Generator().manual_seed(0)
    S, B, N, inputs, H = 3, 2, 5, 2, 4
    shapes = ((S, B, N, inputs), (S, B, H), (S, B, H), (S, 4 * H, inputs), (S, 4 * H, H), (S, 4 * H))
    tensors = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]
    hidden, last, cell = lstm_sequence(*tensors)
    trace = lstm_trace(*tensors)
    torch.testing.assert_close(trace.hidden, hidden)
    torch.testing.assert_close(trace.cell[..., -1, :], cell)
    torch.testing.assert_close(trace.output_gate * torch.tanh(trace.cell), hidden)
    assert (trace.input_gate < 0).any() and (trace.forget_gate > 0).all()
    for member in range(S):
        alone, *_ = lstm_sequence(*(tensor[member] for tensor in tensors))
        torch.testing.assert_close(hidden[member], alone)
    torch.testing.assert_close(last, hidden[..., -1, :])


def test_a_start_is_taken_from_a_checkpoint(ran, composed):
    """Of a run of other kind, with the weights that it had then; a wrong file is named."""
    import wavebase

    folder = ran(*SMALL, "model=random", "optim.lr=0.1")
    torch.save(folder.load_checkpoint(0)["weights"], folder.path / "weights.pt")
    for file, step in ((f"{folder.path}/checkpoints/step_00000002.pt", 2), (f"{folder.path}/weights.pt", 0)):
        expected = folder.load_checkpoint(step)["weights"]
        for parametrization, rtol in (("raw", 0), ("unit_scaled", 4e-16)):
            words = (*SMALL, f"model.start_from={file}", f"model.parametrization={parametrization}")
            found = build.build_components(config.parse(composed(*words)), learning_rate=1e-3).net.named_weights()
            for name, weight in found.items():
                torch.testing.assert_close(weight, expected[name], rtol=rtol, atol=0)
            assert not torch.equal(found["hidden_0"], wavebase.spectral_construction(4).weights["hidden_0"])
    for words, complaint in (
        (("T=5",), r"must hold weight_ih_input \[35, 1\], got \[28, 1\]"),
        (("model.start_from=none.pt",), r"start_from must be a file that exists, got none.pt"),
    ):
        with pytest.raises(validation.ConfigError, match=complaint):
            build.build_components(
                config.parse(composed(*SMALL, f"model.start_from={file}", *words)), learning_rate=1e-3
            )


def test_inputs_of_another_shape_are_refused():
    import wavebase

    net = wavebase.spectral_lstm(4)
    for shape in ((3,), (2, 6), (2, 2), (2, 4, 1)):
        with pytest.raises(ValueError, match="multiple of T=4"):
            net(torch.zeros(shape))


def test_public_names_are_documented_and_light():

    import wavebase

    for name in wavebase.__all__:
        assert getattr(wavebase, name).__doc__, name
    with pytest.raises(AttributeError):
        wavebase.no_such_name  # noqa: B018
