"""The arithmetic of compensation against slow references: rows, moments, ridge, norms, and the closed form."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autoprune.models.calling.inputs import Inputs
from autoprune.pruning.compensation import rows as rows_module
from autoprune.pruning.compensation.closed_form import DenseMoments, refit_closed_form
from autoprune.pruning.compensation.compensate import compensate
from autoprune.pruning.compensation.dense_answers import dense_answers
from autoprune.pruning.compensation.layer_fit import LayerFit
from autoprune.pruning.compensation.moments import MomentSums
from autoprune.pruning.compensation.norm_behind import refit_norm
from autoprune.pruning.compensation.readers import plain_twin, readers_of
from autoprune.pruning.compensation.ridge import RIDGE, ridge_change
from autoprune.pruning.compensation.rows import grid_for, sampled, unfolded
from autoprune.pruning.compensation.second_moments import second_moments
from autoprune.pruning.cut_plan import KeptChannels
from autoprune.pruning.surgery import shrink

LAYERS = {
    "3x3": (nn.Conv2d(6, 8, 3, padding=1), (5, 6, 9, 10)),
    "strided, dilated": (nn.Conv2d(6, 8, 3, stride=2, dilation=2, padding=(1, 2), bias=False), (5, 6, 12, 11)),
    "same, circular": (nn.Conv2d(4, 4, (2, 3), padding="same", padding_mode="circular"), (5, 4, 7, 8)),
    "grouped": (nn.Conv2d(6, 9, 3, padding=1, groups=3), (5, 6, 8, 8)),
    "1d": (nn.Conv1d(4, 6, 5, stride=2, padding=2), (6, 4, 20)),
    "3d": (nn.Conv3d(2, 4, 2), (3, 2, 5, 6, 4)),
    "linear": (nn.Linear(7, 5), (4, 6, 7)),
}


def grid_of(module: nn.Module, *steps: int) -> tuple[int, ...]:
    """Return steps in turn for as many dimensions as a layer has positions along."""
    dims = len(module.kernel_size) if isinstance(module, _ConvNd) else 1
    return tuple(steps[dim % len(steps)] for dim in range(dims))


@pytest.mark.parametrize("steps", [(1,), (3,), (2, 4)])
@pytest.mark.parametrize("name", LAYERS)
def test_rows_are_what_each_output_is_computed_from(name: str, steps: tuple[int, ...]) -> None:
    module, shape = LAYERS[name]
    step = grid_of(module, *steps)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    groups = getattr(module, "groups", 1)
    weight = module.weight.reshape(groups, len(module.weight) // groups, -1).transpose(1, 2)
    with torch.no_grad():
        made = torch.cat([rows @ weight for rows in unfolded(module, x, step)], 1)
        made = made.transpose(0, 1).flatten(1) + (0 if module.bias is None else module.bias)
        expected = sampled(module(x), not isinstance(module, nn.Linear), step)
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("has_norm", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_no_output_is_farther_from_its_target_than_by_the_weights_before(name: str, has_norm: bool) -> None:
    module, shape = LAYERS[name]
    module, draw = copy.deepcopy(module), torch.Generator().manual_seed(0)
    x = torch.randn((200, *shape[1:]), generator=draw).relu()
    images, two = not isinstance(module, nn.Linear), grid_of(module, 2)
    with torch.no_grad():
        before = sampled(module(x), images, two)
        wanted = (
            before + 0.5 * torch.randn(before.shape, generator=draw) + 0.3 * sampled(module(x.flip(0)), images, two)
        )
        wanted[:, 0] = 1.0  # a constant
        norm = nn.BatchNorm2d(before.shape[1]).eval() if has_norm else None
        fit = LayerFit(module, module.weight, module.bias, norm)
        assert fit.refit(x, wanted, two, RIDGE) == ""
        after = sampled(module(x), images, two)
    assert fit.is_changed

    def apart(made: Tensor) -> Tensor:  # a norm takes up a shift
        return (made - wanted).var(0, correction=0) if has_norm else (made - wanted).square().mean(0)

    assert bool((apart(after) <= apart(before) * (1 + 1e-5) + 1e-9).all())
    assert float(apart(after).sum()) < 0.99 * float(apart(before).sum())


@pytest.mark.parametrize("columns", [1, 63, 64, 65, 130, 300])
def test_moments_of_many_columns_are_those_of_one_product(columns: int) -> None:
    draw = torch.Generator().manual_seed(0)
    inputs, errors = torch.randn(2, 400, columns, generator=draw), torch.randn(2, 400, 3, generator=draw)
    sums = MomentSums()
    sums.add(inputs, errors)
    rows = inputs.double() - inputs.double().mean(1, keepdim=True)
    torch.testing.assert_close(
        sums.moments(centred=True).inputs, rows.transpose(1, 2) @ rows / 400, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("centred", [False, True])
def test_the_change_is_the_ridge_regression_about_the_weights(centred: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 300, 5, generator=draw) + 3
    errors = torch.randn(2, 300, 4, generator=draw) + inputs[..., :4]
    sums = MomentSums()
    for start in range(0, 300, 70):
        sums.add(inputs[:, start : start + 70], errors[:, start : start + 70])
    moments = sums.moments(centred)
    change = ridge_change(moments, 0.1)
    for group in range(2):
        u, e = inputs[group].double(), errors[group].double()
        if centred:
            u, e = u - u.mean(0), e - e.mean(0)
        a, c = u.T @ u / 300, u.T @ e / 300
        expected = torch.linalg.inv(a + 0.1 * a.diagonal().mean() * torch.eye(5).double()) @ c
        torch.testing.assert_close(change[group], expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(moments.mean_input, inputs.double().mean(1), rtol=1e-6, atol=1e-6)


def test_singular_moments_are_damped_and_numbers_that_are_not_finite_change_nothing() -> None:
    inputs, errors = torch.ones(1, 50, 3), torch.randn(1, 50, 2, generator=torch.Generator().manual_seed(0))
    for centred in (True, False):
        sums = MomentSums()
        sums.add(inputs, errors)
        assert bool(torch.isfinite(ridge_change(sums.moments(centred))).all())
    broken = MomentSums()
    broken.add(torch.randn(1, 50, 3), torch.cat([errors[..., :1], errors[..., 1:] * float("inf")], -1))
    change = ridge_change(broken.moments(centred=True))
    assert bool((change[..., 1] == 0).all())
    assert bool((change[..., 0] != 0).all())


def test_a_refitted_norm_draws_the_line_of_least_squares() -> None:
    draw = torch.Generator().manual_seed(0)
    given = 2 + 3 * torch.randn(64, 2, 5, 5, generator=draw)
    wanted = -0.7 * given + 4 + torch.randn(given.shape, generator=draw)
    given[:, 1] = 5.0  # a constant channel keeps its scale
    norm = nn.BatchNorm2d(2, eps=0.0).eval()
    norm.eps = 1e-5
    rows, target = sampled(given, True, (1, 1)), sampled(wanted, True, (1, 1))
    with torch.no_grad():
        assert refit_norm(norm, given, rows, target)
        made = sampled(norm(given), True, (1, 1))
    line = torch.linalg.lstsq(torch.stack([rows[:, 0], torch.ones(len(rows))], 1), target[:, :1]).solution
    torch.testing.assert_close(made[:, 0], rows[:, 0] * line[0] + line[1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(norm.running_mean, given.mean((0, 2, 3)))
    assert norm.weight[1].item() == 1.0
    assert float(made[:, 1].mean()) == pytest.approx(float(target[:, 1].mean()), abs=1e-4)


def test_the_grid_leaves_twenty_rows_to_each_input() -> None:
    assert grid_for((512, 64, 8, 8), True, 250) == (2, 2)
    assert grid_for((512, 64, 8, 8), True, 500) == (2, 1)
    assert grid_for((32, 64, 8, 8), True, 576) == (1, 1)  # not even all do
    assert grid_for((32, 64, 8, 8), True, 576, batches=12) == (2, 1)
    assert grid_for((8, 16, 32, 32), True, 1000) == (2, 2)  # a wide map, always
    assert grid_for((512, 4, 2, 300), True, 12) == (1, 64)  # the wide dimension first
    assert grid_for((64, 50, 128), False, 32) == (3,)  # five would meet the same tokens each time
    assert grid_for((512, 10), False, 4) == (6,)


def test_grids_of_many_examples_see_every_position_alike() -> None:
    positions = torch.arange(24.0).reshape(1, 1, 4, 6).expand(16, 2, 4, 6)
    seen = sampled(positions, True, (4, 2))[:, 0]
    assert len(seen) == 16 * 24 // 8
    assert seen.int().bincount().tolist() == [2] * 24
    few = sampled(positions[:2], True, (4, 4))[:, 0].int()  # two examples of sixteen grids
    assert len(set(few.tolist())) == len(few)


class Two(nn.Module):
    """Read two layers one after the other, with and without a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.second(self.first(x).relu())).relu().mean((2, 3)))


def test_the_closed_form_of_one_cut_layer_is_what_the_pass_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "COARSEST", 1)  # both see all positions
    torch.manual_seed(0)
    network, examples = Two(), torch.randn(400, 3, 8, 8)
    network(examples)  # running statistics
    network.eval()
    answers = dense_answers(network, Inputs.of(examples))
    stay = (0, 2, 3, 7)
    cut = {"first": KeptChannels({"out": stay}), "second": KeptChannels({"in": stay})}
    by_pass, by_form = shrink(network, cut), shrink(network, cut)
    compensate(by_pass, answers, cut)
    twin = plain_twin(network)
    readers, _ = readers_of(twin)
    moments = second_moments(twin, readers, [Inputs.of(examples[:200]), Inputs.of(examples[200:])])
    assert refit_closed_form(by_form, DenseMoments(network, twin, readers, answers.flow.behind, moments), cut) == (
        "second",
    )
    torch.testing.assert_close(by_form.second.weight, by_pass.second.weight, rtol=0.02, atol=2e-3)
    torch.testing.assert_close(by_form.norm.weight, by_pass.norm.weight, rtol=0.05, atol=0.01)
    assert by_form.head.weight.equal(network.head.weight)  # its inputs are taken for the dense ones
    with torch.no_grad():
        dense, sliced = network(examples), shrink(network, cut)(examples)
        assert (by_form(examples) - dense).square().mean() < (sliced - dense).square().mean() / 2
