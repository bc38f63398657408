"""The zoo's exact algorithms as runs and verdicts see them: contract, mechanism questions, and the loss that no net of the task beats."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

import test_zoo
from conftest import FULL
from test_zoo import CPU, every_member, generator
from wavebase.constructions.counter import counter_construction
from wavebase.constructions.handwritten import perturbed_weights, random_weights
from wavebase.constructions.linear_attention import best_preconditioner, linear_attention_construction
from wavebase.constructions.modular_addition import modular_addition_construction
from wavebase.experiment.judge import algorithm_verdict
from wavebase.models.linear_attention import LinearAttention
from wavebase.models.modular_addition import ModularAddition
from wavebase.tasks.in_context_regression import InContextRegression

F64 = torch.float64


def study(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "experiments" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@every_member
def test_the_contract_is_the_members(make):
    """Whatever is trained: the contract's function takes weights, and its distance knows their units."""
    member = make(F64)
    near = perturbed_weights(member.algorithm, 1e-3, generator())
    for unit_scaled in (False, True):
        net = member.net(near, unit_scaled)
        algorithm = net.algorithm
        assert algorithm is net.algorithm
        with torch.no_grad():
            torch.testing.assert_close(algorithm.forward(near, member.inputs[:8]), net(member.inputs[:8]))
            exact = member.net()(member.inputs[:8])
            assert torch.equal(algorithm.forward(algorithm.weights, member.inputs[:8]), exact)
        assert 0 < algorithm.distance(near) < 0.01 and algorithm.distance(algorithm.weights) == 0
        # of the weights, whatever is trained; large groups have many alike
        every = 1 if FULL else max(1, len(algorithm.symmetries) // 4)
        for symmetry in algorithm.symmetries[::every] if FULL or not unit_scaled else ():
            assert algorithm.aligned(symmetry(near))[1] <= algorithm.distance(near) * (1 + 1e-9)
    for name, block in net.blocks.items():
        entries = algorithm.blocks[name]
        assert sum(int(part.sum()) for part in entries.values()) > 0 and block.stop > block.start


@pytest.mark.parametrize("make", [make for name, make in test_zoo.MEMBERS.items() if "gru" not in name])
def test_questions_are_one_for_the_algorithm_and_not_for_others(make):
    member = make(F64)
    for name, question in member.net().algorithm.questions.items():
        for weights in (member.algorithm.weights, perturbed_weights(member.algorithm, 1e-3, generator())):
            assert question(weights) == pytest.approx(1, abs=0.01), name
        for move in member.algorithm.generators.values():
            assert question(move(member.algorithm.weights, 0.4)) == pytest.approx(1, abs=1e-6)
        nothing = {name: 0 * weight for name, weight in member.algorithm.weights.items()}
        assert question(nothing) == 0
    for seed in range(5):
        lost = random_weights(member.algorithm, False, generator(seed))
        assert min(question(lost) for question in member.net().algorithm.questions.values()) < 0.9


def test_a_net_without_a_bound_has_no_algorithm():
    assert ModularAddition(modular_addition_construction(11, phases=2)).algorithm is None
    assert counter_construction(gain=5.0).contract(lambda weights, inputs: inputs) is None


def test_the_count_is_asked_of_the_counter_and_not_of_another_unit():
    """A net whose count unit is cut off from the readout, or never counts, fails; one that counts downwards does not."""
    exact = counter_construction(3, longest=64)
    (ask,) = exact.questions.values()
    assert all(
        ask(move(exact.weights)) == pytest.approx(1) for name, move in exact.reflections.items() if "sign" in name
    )
    for name, row in (("weight_ih_cell", slice(3, 4)), ("weight_ih_cell", slice(4, 5))):
        cut = {key: weight.clone() for key, weight in exact.weights.items()}
        cut[name][row] = 0
        assert ask(cut) == 0


def test_a_missing_frequency_is_found():
    exact = modular_addition_construction(11)
    all_of, one = exact.questions["all_frequencies"], exact.questions["one_frequency"]
    missing = dict(exact.weights, weight_out=exact.weights["weight_out"].clone())
    missing["weight_out"][:, exact.blocks["k3"]] = 0
    assert all_of(exact.weights) == 1 and all_of(missing) < 1e-12 and one(missing) == pytest.approx(1)


@pytest.mark.parametrize(("condition", "score"), [(1.0, 1.0), (1.4, 0.9), (4.0, 0.64)])
def test_a_preconditioned_step_is_another_algorithm(condition, score):
    task = InContextRegression(16, F64, CPU, generator(), condition=condition)
    plain, rates = linear_attention_construction(16, 4), best_preconditioner(16, task.variances).tolist()
    other = linear_attention_construction(16, 4, rates).weights
    assert plain.questions["plain_step"](other) == pytest.approx(score, abs=0.005)


@pytest.mark.parametrize("condition", [1.0, 4.0])
def test_the_optimum_is_that_of_the_best_layer_and_is_subtracted(condition):
    task = InContextRegression(16, F64, CPU, generator(), condition=condition, held_out_count=4096)
    best = linear_attention_construction(16, 4, best_preconditioner(16, task.variances).tolist())
    algorithm = LinearAttention(linear_attention_construction(16, 4)).algorithm
    for weights, low, high in (
        (best.weights, -1e-12, 1e-12),
        ({name: 0 * weight for name, weight in best.weights.items()}, 0.99, 1.05),
    ):
        found = algorithm_verdict(weights, algorithm, task)
        (loss,) = [c.value for c in found.conditions if c.name == "loss/relative"]
        assert low <= loss <= high
        assert found.name == ("broken" if low > 0 else "preserved" if condition == 1 else "drifted")


def test_runs_of_the_zoo_are_judged_by_their_mechanism(ran):
    """In-context regression's labels are not what the algorithm computes; that read `no algorithm`."""
    shared = ("train.steps=2", "threads=1")
    kept = ran("experiment=in_context_regression", "optim.lr=1e-6", *shared, name="kept").summary()
    assert kept["verdict"] == "preserved" and "mechanism/question_plain_step" in kept["conditions"]
    assert kept["moved"]["changed"] > 0 and kept["relative_loss"]["initial"] == pytest.approx(0, abs=1e-12)
    random = ran("experiment=modular_addition", "model.start=random", *shared, name="random").summary()
    assert random["verdict"] == "no algorithm" and math.isclose(
        random["conditions"]["position/distance"]["bound"], 0.005
    )


def test_controls_of_every_member_are_judged_right():
    controls = study("zoo_controls")
    for name, member in controls.members(small=True).items():
        for label, (truth, change) in controls.changes(member).items():
            made = change(member.net.exact, generator(7))
            found = algorithm_verdict(made, member.net.algorithm, member.task)
            assert found.name in truth, (name, label)
            assert any(c.kind == "mechanism" for c in found.conditions) == bool(member.net.algorithm.questions)


def test_members_share_a_stack_once_their_algorithm_was_read():
    from types import SimpleNamespace

    from wavebase.training.stacking import stack_key

    nets = [test_zoo.attention(F64).net(None, True) for _ in range(2)]
    task = InContextRegression(16, F64, CPU, generator())
    read = nets[0].algorithm
    assert read is not None
    keys = [stack_key(SimpleNamespace(net=net, task=task, trained=dict(net.named_parameters()))) for net in nets]
    assert keys[0] == keys[1]
