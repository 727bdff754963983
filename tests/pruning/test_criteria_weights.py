"""Criteria that read weights and gradients, against numbers computed by hand and against slow references."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from criteria_networks import Case, build, group, out, read
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.core.builtin_names import IMPORTANCES
from autoprune.core.channel_groups import Member, PruningGroup
from autoprune.errors import ModelError
from autoprune.pruning.criteria.channel_parameters import filters, producing
from autoprune.pruning.importance import Calibration, NotApplicable, score_by, score_groups


def score(name: str, case: Case) -> dict[str, Tensor]:
    return score_groups(case.network, case.groups, [name], case.calibration)[name]


class Residual(nn.Module):
    """One group of two producers with a norm each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
        self.branch, self.norm2, self.head = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 5)
        self.stem.weight.data = torch.tensor([[3.0, 0.0], [0.0, 1.0]])[..., None, None]
        self.branch.weight.data = torch.tensor([[0.0, -4.0], [0.0, 0.0]])[..., None, None]
        self.norm1.weight.data, self.norm2.weight.data = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.5])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("l1", [7, 1]),
        ("l2", [5, 1]),
        ("lamp", [1, 1 / 26]),
        ("fpgm", [math.sqrt(26)] * 2),
        ("bn_scale", [1.5, 2.5]),
    ],
)
def test_every_layer_that_produces_a_channel_counts(name: str, expected: list[float]) -> None:
    members = *(out(path, 2) for path in ("stem", "norm1", "branch", "norm2")), read("branch", 2), read("head", 2)
    scores = score_groups(Residual(), [group("stem", 2, *members)], [name], Calibration())[name]["stem"]
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float32))


def weights_by_hand(network: nn.Module, name: str, channel: int) -> list[Tensor]:
    """Return the filters of one channel, as one would find them in the documentation of each layer."""
    match name:
        case "embed":
            return [network.embed.weight[:, channel]]
        case "lstm":
            gates = 4 if isinstance(network.lstm, nn.LSTM) else 3
            tails = [f"l{layer}{tail}" for layer in range(2) for tail in ("", "_reverse")]
            names = [f"weight_{kind}_{tail}" for tail in tails for kind in ("ih", "hh")]
            return [getattr(network.lstm, name).view(gates, 4, -1)[:, channel] for name in names]
        case "q":
            return [network.q.weight[channel], network.k.weight[channel]]
        case "v":
            return [network.v.weight[channel]]  # the bare scale has one number per channel: no filter
        case "conv":
            return [network.conv.weight[channel], network.depthwise.weight[channel]]
        case _:
            return [network.up.weight[:, channel]]


@pytest.mark.parametrize("kind", ["lstm", "gru_time_first", "attention", "upsampling"])
def test_the_filters_of_every_kind_of_layer_are_found(kind: str) -> None:
    case = build(kind)
    found = {name: score(name, case) for name in ("l1", "l2")}
    for one in case.groups:
        expected = [
            torch.cat([w.flatten() for w in weights_by_hand(case.network, one.name, channel)]).detach()
            for channel in range(one.num_channels)
        ]
        torch.testing.assert_close(found["l1"][one.name], torch.stack([w.abs().sum() for w in expected]))
        torch.testing.assert_close(found["l2"][one.name], torch.stack([w.norm() for w in expected]))


def test_layers_of_a_stack_that_are_numbered_apart_are_padded_with_zeros() -> None:
    """The first layer of two reads fewer inputs than the second one."""
    network = nn.LSTM(2, 3, num_layers=2)
    units = group("", 6, Member("", "out", tuple(range(6))))
    found = filters(units, network)
    expected = [network.weight_ih_l0, network.weight_hh_l0, network.weight_ih_l1, network.weight_hh_l1]
    sums = [w.detach().abs().view(4, 3, -1).sum((0, 2)) for w in expected]
    torch.testing.assert_close(found.abs().sum(1), torch.cat([sums[0] + sums[1], sums[2] + sums[3]]))


def test_running_statistics_and_norms_are_no_filters() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.PReLU(3))
    one = group("0", 3, out("0", 3), out("1", 3))
    assert [slices.parameter.shape for slices in producing(one, network)] == [(3,)] * 3
    for name in ("l1", "l2", "lamp", "fpgm"):
        with pytest.raises(NotApplicable, match="only norms or biases"):
            IMPORTANCES.get(name)(one, network, Calibration())


def test_a_bare_parameter_is_a_filter_if_it_has_several_numbers_per_channel() -> None:
    network = nn.Module()
    network.positions = nn.Parameter(torch.arange(6.0).view(1, 3, 2))
    one = group("positions", 2, Member("positions", "dim2", (0, 1)))
    assert filters(one, network).tolist() == [[0, 2, 4], [1, 3, 5]]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8))
def test_lamp_is_the_share_among_those_that_are_not_smaller(norms: list[int]) -> None:
    network = nn.Linear(1, len(norms))
    network.weight.data = torch.tensor(norms, dtype=torch.float32)[:, None]
    found = score_by({"lamp": IMPORTANCES.get("lamp")}, network, [group("", len(norms), out("", len(norms)))], EMPTY)
    expected = [n**2 / max(1, sum(other**2 for other in norms if other >= n)) for n in norms]
    assert found["lamp"][""].tolist() == pytest.approx(expected)


EMPTY = Calibration()


def test_fpgm_tells_filters_apart_that_differ_little() -> None:
    network = nn.Linear(2, 3)
    network.weight.data = torch.tensor([[1000.0, 0.0], [1000.0, 0.01], [1000.0, 0.03]])
    scores = score_by({"fpgm": IMPORTANCES.get("fpgm")}, network, [group("", 3, out("", 3))], EMPTY)["fpgm"][""]
    torch.testing.assert_close(scores, torch.tensor([0.04, 0.03, 0.05]))


@pytest.mark.parametrize("kind", ["convolutional", "mlp", "lstm", "attention", "upsampling"])
def test_taylor_is_the_squared_slope_of_the_loss_as_a_channel_fades(kind: str) -> None:
    """By central differences: scale all that produces a channel, measure the loss, average over batches."""
    case = build(kind)

    def loss(one: PruningGroup, channel: int, scale: float, batch: tuple[Tensor, Tensor]) -> float:
        faded = copy.deepcopy(case.network).double().eval()
        for slices in producing(one, faded):
            slices.parameter.data.movedim(slices.dim, 0)[slices.positions[slices.channels == channel]] *= scale
        inputs = batch[0].double() if batch[0].is_floating_point() else batch[0]
        return float(F.cross_entropy(faded(inputs), batch[1]).detach())

    def slope(one: PruningGroup, channel: int, batch: tuple[Tensor, Tensor]) -> float:
        return (loss(one, channel, 1 + 1e-5, batch) - loss(one, channel, 1 - 1e-5, batch)) / 2e-5

    found = score("taylor", case)
    batches = case.calibration.batches
    for one in case.groups:
        expected = [sum(slope(one, c, batch) ** 2 for batch in batches) / 2 for c in range(one.num_channels)]
        torch.testing.assert_close(found[one.name], torch.tensor(expected), rtol=2e-3, atol=1e-8)
        assert max(expected) > 1e-6


def test_gradient_taylor_and_snip_put_the_same_numbers_together() -> None:
    case = build("mlp")
    one = Case(case.network, case.groups[:1], Calibration(case.calibration.batches[:1]))
    network = copy.deepcopy(case.network).eval()
    (inputs, labels) = case.calibration.batches[0]
    F.cross_entropy(network(inputs), labels).backward()
    parts = [
        network.first.weight,
        network.first.bias[:, None],
        network.norm.weight[:, None],
        network.norm.bias[:, None],
    ]
    g, w = torch.cat([p_grad(part, network) for part in parts], 1), torch.cat([part.detach() for part in parts], 1)
    torch.testing.assert_close(score("gradient", one)["first"], g.norm(dim=1))
    torch.testing.assert_close(score("taylor", one)["first"], (g * w).sum(1).square())
    torch.testing.assert_close(score("snip", one)["first"], (g * w).abs().sum(1))


def p_grad(part: Tensor, network: nn.Module) -> Tensor:
    """Return the gradient of a parameter, or of a view of one, in the view's shape."""
    return next(p.grad.view(part.shape) for p in network.parameters() if p.data_ptr() == part.data_ptr())


def test_random_follows_the_seed_and_differs_between_groups() -> None:
    case = build("convolutional")
    first, again, other = (
        score("random", Case(case.network, case.groups, Calibration(seed=seed))) for seed in (3, 3, 4)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    assert not torch.equal(first["stem"][:5], first["inner"])


# synflow


def test_synflow_is_the_share_of_all_paths_that_lead_through_a_channel() -> None:
    """In a chain of two layers the flow through a channel is the product of what it reads and of what reads it."""
    case = build("mlp")
    first, norm, second, head = case.network.first, case.network.norm, case.network.second, case.network.head
    norm.running_var.data.uniform_(0.5, 2)
    norm.weight.data.uniform_(-1, 1)
    scale = (norm.weight.abs() / (norm.running_var + norm.eps).sqrt()).double()
    before = first.weight.double().abs().sum(1) * scale
    after = head.weight.double().abs().sum(0) @ second.weight.double().abs()
    share = (before * after / (before * after).sum()).detach().float()
    found = score("synflow", case)
    torch.testing.assert_close(found["first"], 2 * share)  # once by the layer, once by the norm
    assert float(found["second"].sum()) == pytest.approx(1)  # what flows in flows out


def test_synflow_needs_neither_data_nor_a_second_look_at_it() -> None:
    case = build("mlp")
    expected = score("synflow", case)
    shape_only = score("synflow", Case(case.network, case.groups, Calibration(input_shape=(6,))))
    assert all(torch.equal(scores, shape_only[name]) for name, scores in expected.items())


def test_synflow_does_not_overflow_in_a_deep_network() -> None:
    layers = [nn.Linear(8, 8, bias=False) for _ in range(60)]
    for layer in layers:
        layer.weight.data.fill_(10.0)
    one = group("0", 8, out("0", 8), read("1", 8))
    scores = score_groups(nn.Sequential(*layers), [one], ["synflow"], Calibration(input_shape=(8,)))["synflow"]["0"]
    torch.testing.assert_close(scores, torch.full((8,), 1 / 8))


@pytest.mark.parametrize(
    ("calibration", "weight", "message"),
    [
        (Calibration(), 1.0, "needs the shape of an input; give Calibration batches or an input_shape"),
        (
            Calibration([(torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1))]),
            1.0,
            "reads an input of int64",
        ),
        (Calibration(input_shape=(4,)), 0.0, "the flow through this network is 0"),
    ],
)
def test_synflow_says_why_it_cannot_score(calibration: Calibration, weight: float, message: str) -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    network[1].weight.data.fill_(weight)
    with pytest.raises(ModelError, match=message):
        score_groups(network, [group("0", 3, out("0", 3), read("1", 3))], ["synflow"], calibration)
