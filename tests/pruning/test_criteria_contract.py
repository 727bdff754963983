"""Every criterion keeps its contract on every kind of network, and the check finds those that do not."""

from __future__ import annotations

import re

import pytest
import torch
from criteria_networks import BUILDERS, build

from autoprune.core.builtin_names import IMPORTANCES
from autoprune.errors import ModelError
from autoprune.pruning.importance import Calibration, scores_jointly, uses_data, uses_gradients, uses_seed
from autoprune.testing import ExampleNetwork, check_importance, example_groups, permuted

NO_BATCH_NORM = {"layer_norm", "lstm", "gru_time_first", "attention", "transformer", "upsampling"}
NEVER_ZERO = {"layer_norm", "lstm", "gru_time_first", "attention"}
TOKENS = {"lstm", "gru_time_first"}


@pytest.mark.parametrize("network", BUILDERS)
@pytest.mark.parametrize("name", sorted(IMPORTANCES.builtins))
def test_every_criterion_keeps_its_contract(name: str, network: str) -> None:
    case = build(network)
    absent = {"bn_scale": NO_BATCH_NORM, "apoz": NEVER_ZERO, "obs": TOKENS}  # whose recurrent layers read all
    if network in absent.get(name, ()):
        with pytest.raises(AssertionError, match=f"{name} applies to none of the groups"):
            check_importance(name, case.network, case.groups, case.calibration)
    elif name == "synflow" and network in TOKENS:
        with pytest.raises(
            ModelError, match=r"synflow feeds one input of ones, and this network reads an input of int64"
        ):
            check_importance(name, case.network, case.groups, case.calibration)
    else:
        check_importance(name, case.network, case.groups, case.calibration)


@pytest.mark.parametrize("network", BUILDERS)
def test_a_permutation_of_channels_leaves_the_network_the_same_function(network: str) -> None:
    case = build(network)
    inputs = case.calibration.batches[0][0]
    for group in case.groups:
        order = [*range(1, group.num_channels), 0]
        moved = permuted(case.network, group, order)
        assert any(not torch.equal(a, b) for a, b in zip(moved.parameters(), case.network.parameters(), strict=True))
        torch.testing.assert_close(moved.eval()(inputs), case.network.eval()(inputs), rtol=1e-4, atol=1e-5)


def fine(group, network, calibration):
    return network.get_submodule(group.name).weight.flatten(1).sum(1)


def position(group, network, calibration):
    return torch.arange(group.num_channels, dtype=torch.float32)


def global_random(group, network, calibration):
    return torch.rand(group.num_channels)


def counting(group, network, calibration, calls=[]):  # noqa: B006
    calls.append(0)
    return torch.full((group.num_channels,), float(len(calls)))


def zeroing(group, network, calibration):
    network.stem.weight.data.zero_()
    return torch.ones(group.num_channels)


def training(group, network, calibration):
    network.train()
    return torch.ones(group.num_channels)


def hooking(group, network, calibration):
    network.stem.register_forward_hook(lambda *_: None)
    return torch.ones(group.num_channels)


@uses_gradients
def clearing(group, network, calibration):
    network.zero_grad()
    return torch.ones(group.num_channels)


@scores_jointly
def nobody(groups, network, calibration):
    return {}


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (position, "position does not follow the channels: those of group 'stem' changed places"),
        (global_random, "global_random changes what it is given: PyTorch's random state"),
        (counting, "counting gives other scores when called again"),
        (zeroing, "zeroing changes what it is given: the tensor 'stem.weight'"),
        (training, r"training changes what it is given: the mode \(train or eval\)"),
        (hooking, "hooking changes what it is given: hooks on modules"),
        (clearing, r"clearing changes what it is given: parameter\.grad"),
        (nobody, "nobody applies to none of the groups stem, inner"),
    ],
)
def test_the_check_names_what_is_wrong(criterion, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_importance(criterion)


def test_the_check_accepts_functions_objects_and_names() -> None:
    class ByNorm:
        uses_data = True

        def __call__(self, group, network, calibration):
            assert calibration.batches
            return fine(group, network, calibration)

    check_importance(fine)
    check_importance(ByNorm())
    check_importance("l2")
    check_importance(uses_data(fine), ExampleNetwork(seed=3), example_groups(), build("convolutional").calibration)
    check_importance(uses_seed(position))  # chance need not follow the channels


def test_the_check_needs_groups_and_calibration_with_a_network() -> None:
    with pytest.raises(ValueError, match="needs its groups and a calibration"):
        check_importance("l1", ExampleNetwork())


def test_wrong_answers_are_model_errors_that_name_the_criterion() -> None:
    with pytest.raises(ModelError, match=re.escape("importance criterion '<lambda>' returned (2,) for group 'stem'")):
        check_importance(lambda group, network, calibration: torch.ones(2))
    with pytest.raises(ModelError, match="need data"):
        check_importance("taylor", ExampleNetwork(), example_groups(), Calibration())
