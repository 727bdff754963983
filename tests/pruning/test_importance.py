"""The pass that asks every criterion: what reaches it, what comes back, and what it says when something is wrong."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.core.builtin_names import IMPORTANCES
from autoprune.errors import ModelError, UnknownNameError
from autoprune.pruning.importance import (
    Calibration,
    NotApplicable,
    score_by,
    score_groups,
    scores_jointly,
    uses_data,
    uses_gradients,
)
from autoprune.testing import ExampleNetwork, example_calibration, example_groups

NAMES = sorted(IMPORTANCES.builtins)
GROUPS = example_groups()


def scores_of(name: str, network: nn.Module | None = None) -> dict[str, Tensor]:
    return score_groups(network or ExampleNetwork(), GROUPS, [name], example_calibration())[name]


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_one_finite_float32_per_channel_on_the_cpu(name: str) -> None:
    scores = scores_of(name)
    assert list(scores) == ["stem", "inner"]
    for group in GROUPS:
        values = scores[group.name]
        assert values.shape == (group.num_channels,)
        assert (values.dtype, values.device.type, values.requires_grad) == (torch.float32, "cpu", False)
        assert torch.isfinite(values).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_network_and_the_random_state_are_untouched(name: str) -> None:
    network = ExampleNetwork()
    former, random_state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    scores_of(name, network)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(tensor, former[key]) for key, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(module.training and not module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_network_in_another_precision_and_mode_is_scored_the_same(name: str) -> None:
    frozen = ExampleNetwork().double().eval().requires_grad_(False)
    assert all(torch.equal(values, scores_of(name, frozen)[key]) for key, values in scores_of(name).items())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_company_changes_nothing(name: str) -> None:
    names = list(dict.fromkeys(["synflow", "ablation", name, "fisher", "taylor"]))
    company = score_groups(ExampleNetwork(), GROUPS, names, example_calibration())
    assert list(company) == names
    assert all(torch.equal(values, company[name][key]) for key, values in scores_of(name).items())


def test_every_criterion_that_needs_data_says_so_and_the_others_do_not() -> None:
    needy = {"gradient", "taylor", "snip", "fisher", "activation", "apoz", "ablation", "obs"}
    for name in NAMES:
        empty = Calibration(input_shape=(1, 8, 8))
        if name in needy:
            with pytest.raises(ModelError, match=rf"criteria {name} need data.*raise space\.calibration_images"):
                score_groups(ExampleNetwork(), GROUPS, ["l1", name], empty)
        else:
            assert score_groups(ExampleNetwork(), GROUPS, [name], empty)[name]


def test_gradients_are_those_of_each_batch_and_the_scores_are_averaged() -> None:
    seen = []

    @uses_gradients
    def largest(group, network, calibration):
        ((images, labels),) = calibration.batches
        fresh = ExampleNetwork().eval()
        F.cross_entropy(fresh(images), labels).backward()
        torch.testing.assert_close(network.stem.weight.grad, fresh.stem.weight.grad)
        seen.append(float(labels.sum()))
        return torch.full((group.num_channels,), seen[-1])

    scores = score_by({"largest": largest}, ExampleNetwork(), GROUPS[:1], example_calibration())["largest"]["stem"]
    assert len(seen) == 2
    assert scores.tolist() == pytest.approx([sum(seen) / 2] * 6)


def test_the_loss_is_the_one_of_the_calibration() -> None:
    batches = example_calibration().batches
    doubled = Calibration(batches, loss=lambda outputs, labels: 2 * F.cross_entropy(outputs, labels))
    for name, factor in (("gradient", 2), ("taylor", 4), ("snip", 2), ("fisher", 4), ("ablation", 2), ("obs", 4)):
        found = score_groups(ExampleNetwork(), GROUPS, [name], doubled)[name]["stem"]
        torch.testing.assert_close(found, factor * scores_of(name)["stem"], rtol=1e-3, atol=1e-6)


def test_a_group_that_a_criterion_makes_no_sense_for_is_absent() -> None:
    def only_stem(group, network, calibration):
        if group.name != "stem":
            raise NotApplicable("not the stem")
        return torch.ones(group.num_channels)

    @scores_jointly
    def only_inner(groups, network, calibration):
        return {"inner": torch.ones(5), "unheard of": torch.ones(1)}

    @scores_jointly
    @uses_data
    def nothing(groups, network, calibration):
        raise NotApplicable("nothing at all")

    criteria = {"a": only_stem, "b": only_inner, "c": nothing}
    scores = score_by(criteria, ExampleNetwork(), GROUPS, example_calibration())
    assert {name: list(found) for name, found in scores.items()} == {"a": ["stem"], "b": ["inner"], "c": []}


def test_an_unknown_criterion_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no importance criterion named 'tailor'; did you mean 'taylor'\?"):
        scores_of("tailor")


def own_criterion(folder: Path, body: str) -> str:
    """Write a criterion as a user would, and return its name."""
    path = folder / "own.py"
    path.write_text(f"import torch\n\ndef fn(group, network, calibration):\n    {body}\n")
    return f"{path}:fn"


def test_a_criterion_from_a_file_is_scored_beside_the_shipped_ones(tmp_path: Path) -> None:
    name = own_criterion(tmp_path, "return torch.arange(group.num_channels, dtype=torch.float64)")
    scores = score_groups(ExampleNetwork(), GROUPS, ["l1", name], Calibration())
    assert list(scores) == ["l1", name]
    assert scores[name]["inner"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert scores[name]["inner"].dtype == torch.float32


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return torch.ones(group.num_channels, 1)", r"returned \(6, 1\).*of shape \(6,\)"),
        ("return torch.ones(2)", r"returned \(2,\).*of shape \(6,\)"),
        ("return [1.0] * group.num_channels", r"returned list.*of shape \(6,\)"),
        ("return torch.full((group.num_channels,), float('nan'))", "returned NaN or infinite scores"),
        ("return torch.full((group.num_channels,), 1e300, dtype=torch.float64)", "returned NaN or infinite scores"),
        ("raise KeyError('lost')", "failed .*KeyError: 'lost'"),
    ],
)
def test_a_criterion_that_misbehaves_is_named_with_the_group(tmp_path: Path, body: str, message: str) -> None:
    name = own_criterion(tmp_path, body)
    with pytest.raises(ModelError, match=message) as caught:
        scores_of(name)
    assert f"importance criterion {name!r}" in str(caught.value)
    assert "group 'stem'" in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda: torch.ones(6), "'joint' returned Tensor; it scores jointly, so it has to return a mapping"),
        (lambda: {"inner": torch.ones(4)}, r"'joint' returned \(4,\) for group 'inner'"),
        (lambda: {}["stem"], "'joint' failed with KeyError: 'stem'"),
    ],
)
def test_a_joint_criterion_that_misbehaves_is_named(answer, message: str) -> None:
    @scores_jointly
    def joint(groups, network, calibration):
        return answer()

    with pytest.raises(ModelError, match=message):
        score_by({"joint": joint}, ExampleNetwork(), GROUPS, Calibration())
