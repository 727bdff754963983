"""Criteria by hand on a tiny network, and the contract that every criterion keeps.

Steps for adding a criterion: write it in ``autoprune/pruning/importance.py`` (or in a package of your own,
as an entry point of ``autoprune.importances``), name it in ``autoprune/builtins.py``, add its expected values
to ``BY_HAND`` below. For your own package, subclass :class:`ImportanceContract` and override ``criterion``.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.builtins import IMPORTANCES
from autoprune.errors import ModelError, UnknownNameError
from autoprune.pruning.groups import find_groups
from autoprune.pruning.importance import Calibration, score_groups
from autoprune.space import PruningGroup


class Tiny(nn.Module):
    """Two groups: ``first`` of three channels with a norm, ``second`` of four without, both written out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)
        self.second, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 5)
        self.first.weight.data = torch.tensor([[1.0, -2.0], [3.0, 4.0], [0.0, -5.0]])[..., None, None]
        self.norm.weight.data = torch.tensor([-0.5, 2.0, 0.25])
        self.second.weight.data = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 2.0], [0.0, 0.0, 0.0], [0.0, 2.0, 2.0]])[
            ..., None, None
        ]

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.norm(self.first(x)).relu()).relu()
        return self.head(x.mean((2, 3)))


class Residual(nn.Module):
    """One group of two producers with a norm each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
        self.branch, self.norm2, self.head = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 5)
        self.stem.weight.data = torch.tensor([[3.0, 0.0], [0.0, 1.0]])[..., None, None]
        self.branch.weight.data = torch.tensor([[0.0, -4.0], [0.0, 0.0]])[..., None, None]
        self.norm1.weight.data, self.norm2.weight.data = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.5])

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.stem(x))
        return self.head((x + self.norm2(self.branch(x.relu()))).mean((2, 3)))


def batches(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(8, 2, 4, 4), torch.randint(0, 5, (8,))) for _ in range(count)]


def groups_of(network: nn.Module) -> tuple[PruningGroup, ...]:
    return find_groups(network, torch.randn(1, 2, 4, 4)).cuttable


def scores_of(network: nn.Module, name: str, seed: int = 0) -> dict[str, Tensor]:
    return score_groups(network, groups_of(network), [name], Calibration(batches(), seed))[name]


BY_HAND = {
    ("l1", "first"): [1 + 2, 3 + 4, 5],
    ("l1", "second"): [1, 4, 0, 4],
    ("l2", "first"): [math.sqrt(5), 5, 5],
    ("l2", "second"): [1, math.sqrt(8), 0, math.sqrt(8)],
    ("fpgm", "first"): [math.sqrt(40) + math.sqrt(10), math.sqrt(40) + math.sqrt(90), math.sqrt(10) + math.sqrt(90)],
    ("fpgm", "second"): [1 + 3 + 3, 3 + math.sqrt(8), 1 + 2 * math.sqrt(8), 3 + math.sqrt(8)],
    ("bn_scale", "first"): [0.5, 2, 0.25],
}


@pytest.mark.parametrize(("name", "group"), BY_HAND)
def test_scores_are_those_computed_by_hand(name: str, group: str) -> None:
    torch.testing.assert_close(scores_of(Tiny(), name)[group], torch.tensor(BY_HAND[name, group], dtype=torch.float32))


@pytest.mark.parametrize(
    ("name", "expected"), [("l1", [7.0, 1.0]), ("l2", [5.0, 1.0]), ("bn_scale", [1.5, 2.5]), ("fpgm", [26**0.5] * 2)]
)
def test_every_layer_that_produces_a_channel_counts(name: str, expected: list[float]) -> None:
    torch.testing.assert_close(scores_of(Residual(), name)["stem"], torch.tensor(expected))


@pytest.mark.parametrize("build", [Tiny, Residual])
def test_taylor_is_the_squared_slope_of_the_loss_as_a_channel_fades(build: type[nn.Module]) -> None:
    """By central differences: scale all that produces a channel, measure the loss, average over batches."""
    torch.manual_seed(0)
    network = build().double()  # in training mode, which is not the mode to be scored in

    def loss(group: PruningGroup, channel: int, scale: float, batch: tuple[Tensor, Tensor]) -> float:
        faded = copy.deepcopy(network).eval()
        for member in group.producers():
            for parameter in faded.get_submodule(member.module).parameters(recurse=False):
                parameter.data[channel] *= scale
        return float(F.cross_entropy(faded(batch[0].double()), batch[1]).detach())

    def slope(group: PruningGroup, channel: int, batch: tuple[Tensor, Tensor]) -> float:
        return (loss(group, channel, 1 + 1e-5, batch) - loss(group, channel, 1 - 1e-5, batch)) / 2e-5

    found = scores_of(network, "taylor")
    for group in groups_of(network):
        expected = [
            sum(slope(group, channel, batch) ** 2 for batch in batches()) / 2 for channel in range(group.num_channels)
        ]
        torch.testing.assert_close(found[group.name], torch.tensor(expected), rtol=1e-3, atol=1e-7)
        assert max(expected) > 1e-5


def test_random_follows_the_seed_and_differs_between_groups() -> None:
    first = scores_of(Tiny(), "random", seed=3)
    assert all(torch.equal(first[name], again) for name, again in scores_of(Tiny(), "random", seed=3).items())
    assert not any(torch.equal(first[name], other) for name, other in scores_of(Tiny(), "random", seed=4).items())
    assert not torch.equal(first["first"], first["second"][:3])


def test_a_group_that_a_criterion_makes_no_sense_for_is_absent() -> None:
    assert set(scores_of(Tiny(), "bn_scale")) == {"first"}
    assert set(scores_of(Tiny(), "l1")) == {"first", "second"}


def test_an_unknown_criterion_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no importance criterion named 'tailor'; did you mean 'taylor'\?"):
        scores_of(Tiny(), "tailor")


def test_taylor_without_batches_says_what_to_raise() -> None:
    with pytest.raises(ModelError, match=r"criteria taylor need data.*raise space\.calibration_images"):
        score_groups(Tiny(), groups_of(Tiny()), ["l1", "taylor"], Calibration([]))


def own_criterion(folder: Path, body: str) -> str:
    """Write a criterion as a user would, and return its name."""
    path = folder / "own.py"
    path.write_text(f"import torch\n\ndef fn(group, network, calibration):\n    {body}\n")
    return f"{path}:fn"


def test_a_criterion_from_a_file_is_scored_beside_the_shipped_ones(tmp_path: Path) -> None:
    name = own_criterion(tmp_path, "return torch.arange(group.num_channels, dtype=torch.float64)")
    scores = score_groups(Tiny(), groups_of(Tiny()), ["l1", name], Calibration(batches()))
    assert list(scores) == ["l1", name]
    assert scores[name]["second"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert scores[name]["second"].dtype == torch.float32


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return torch.ones(group.num_channels, 1)", r"returned \(3, 1\).*of shape \(3,\)"),
        ("return torch.ones(2)", r"returned \(2,\).*of shape \(3,\)"),
        ("return [1.0] * group.num_channels", r"returned list.*of shape \(3,\)"),
        ("return torch.full((group.num_channels,), float('nan'))", "returned NaN or infinite scores"),
        ("return torch.full((group.num_channels,), 1e300, dtype=torch.float64)", "returned NaN or infinite scores"),
        ("raise KeyError('lost')", "failed .*KeyError: 'lost'"),
    ],
)
def test_a_criterion_that_misbehaves_is_named_with_the_group(tmp_path: Path, body: str, message: str) -> None:
    name = own_criterion(tmp_path, body)
    with pytest.raises(ModelError, match=message) as caught:
        scores_of(Tiny(), name)
    assert f"importance criterion {name!r}" in str(caught.value)
    assert "group 'first'" in str(caught.value)


class ImportanceContract:
    """Hold what every criterion promises; subclass it and override ``criterion`` to test your own."""

    @pytest.fixture
    def criterion(self) -> str:
        """Return the criterion's name, as the registry knows it."""
        raise NotImplementedError

    @pytest.fixture(params=[Tiny, Residual])
    def network(self, request: pytest.FixtureRequest) -> nn.Module:
        torch.manual_seed(0)
        return request.param()

    def test_scores_are_one_finite_float32_per_channel_on_the_cpu(self, criterion: str, network: nn.Module) -> None:
        channels = {group.name: group.num_channels for group in groups_of(network)}
        scores = scores_of(network, criterion)
        assert scores
        for name, values in scores.items():
            assert values.shape == (channels[name],)
            assert (values.dtype, values.device.type) == (torch.float32, "cpu")
            assert torch.isfinite(values).all()
            assert not values.requires_grad

    def test_the_network_and_the_random_state_are_untouched(self, criterion: str, network: nn.Module) -> None:
        groups, calibration = groups_of(network), Calibration(batches())
        former, random_state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
        score_groups(network, groups, [criterion], calibration)
        assert torch.equal(torch.get_rng_state(), random_state)
        assert all(torch.equal(tensor, former[name]) for name, tensor in network.state_dict().items())
        assert all(parameter.grad is None for parameter in network.parameters())
        assert all(module.training for module in network.modules())

    def test_the_same_question_has_the_same_answer(self, criterion: str, network: nn.Module) -> None:
        first, again = scores_of(network, criterion), scores_of(network, criterion)
        assert all(torch.equal(values, again[name]) for name, values in first.items())

    def test_a_frozen_network_is_scored_the_same(self, criterion: str, network: nn.Module) -> None:
        free = scores_of(network, criterion)
        frozen = scores_of(network.requires_grad_(False), criterion)
        assert all(torch.equal(values, frozen[name]) for name, values in free.items())
        assert not any(parameter.requires_grad for parameter in network.parameters())

    def test_company_changes_nothing(self, criterion: str, network: nn.Module) -> None:
        alone = scores_of(network, criterion)
        company = score_groups(network, groups_of(network), ["l1", criterion, "taylor"], Calibration(batches()))
        assert all(torch.equal(values, company[criterion][name]) for name, values in alone.items())


class TestShippedImportances(ImportanceContract):
    @pytest.fixture(params=sorted(IMPORTANCES.builtins))
    def criterion(self, request: pytest.FixtureRequest) -> str:
        return request.param
