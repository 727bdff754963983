"""Regularisation: the penalties by hand, channels that go to zero, and how they are described."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training_toys import Toy, make_task, make_toy, same_state, state_of

from autoprune.errors import ModelError
from autoprune.tasks.in_memory import ArrayTask
from autoprune.training.device.runtime import Runtime
from autoprune.training.learning_rate import learning_rate
from autoprune.training.loop import TrainingRun
from autoprune.training.regularisation import (
    Penalty,
    channel_strengths,
    describe_regularisation,
    norm_scales,
    train_regularised,
)
from autoprune.training.scoring import score
from autoprune.training.settings import FinetuneSettings
from autoprune.training.train_dense import train_dense

RECIPE = FinetuneSettings(epochs=1, batch_size=16, lr=0.05, weight_decay=1e-3)
EACH = torch.arange(8).view(8, 1)
CHANNELS = {"conv": [("conv.weight", 0, EACH), ("conv.bias", 0, EACH), ("bn.weight", 0, EACH), ("bn.bias", 0, EACH)]}


def vectors(network: Toy) -> Tensor:
    """Return all numbers that produce each channel, ``(8, 30)``."""
    parts = (
        network.conv.weight.flatten(1),
        *(x.view(8, 1) for x in (network.conv.bias, network.bn.weight, network.bn.bias)),
    )
    return torch.cat([part.detach() for part in parts], 1)


def by_hand(network: Toy, task: ArrayTask, runtime: Runtime, penalty: Penalty) -> None:
    """Train as the papers say, in the slowest way."""
    decayed = [p for p in network.parameters() if p.dim() > 1]
    plain = [p for p in network.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": RECIPE.weight_decay}, {"params": plain}]
    optimizer = torch.optim.SGD(groups, lr=RECIPE.lr, momentum=0.9, nesterov=True)
    for step, batch in enumerate(task.train_stream(16, 0, 0, runtime)):
        rate = learning_rate(step, 5, RECIPE.lr)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        F.cross_entropy(network(batch.images), batch.labels, label_smoothing=0.1).backward()
        if penalty.method == "bn_l1":
            assert network.bn.weight.grad is not None
            network.bn.weight.grad += penalty.strength * network.bn.weight.detach().sign()
        optimizer.step()
        if penalty.method == "group_lasso":
            norms = vectors(network).norm(dim=1)
            factor = (1 - rate * penalty.strength / norms).clamp(min=0)
            with torch.no_grad():
                network.conv.weight *= factor.view(8, 1, 1, 1)
                for vector in (network.conv.bias, network.bn.weight, network.bn.bias):
                    vector *= factor


@pytest.mark.parametrize("penalty", [Penalty("bn_l1", 0.05), Penalty("group_lasso", 2.0)], ids=lambda p: p.method)
def test_equals_the_papers_step_by_step(task: ArrayTask, runtime: Runtime, penalty: Penalty) -> None:
    ours, theirs = make_toy(), make_toy()
    report = train_regularised(ours, TrainingRun(task, RECIPE, runtime, 0), penalty, CHANNELS)
    by_hand(theirs, task, runtime, penalty)
    assert report.steps == 5
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("method", ["bn_l1", "group_lasso"])
def test_repeats_to_the_last_bit(task: ArrayTask, runtime: Runtime, method: str) -> None:
    networks = [make_toy(dropout=0.3), make_toy(dropout=0.3)]
    for network in networks:
        train_regularised(network, TrainingRun(task, RECIPE, runtime, 0), Penalty(method, 0.1), CHANNELS)  # type: ignore[arg-type]
    assert same_state(state_of(networks[0]), state_of(networks[1]))


def test_needless_channels_go_to_exactly_zero_and_the_network_still_works(task: ArrayTask, runtime: Runtime) -> None:
    network = make_toy()
    train_dense(network, TrainingRun(task, FinetuneSettings(15, 16, 0.1, 1e-4), runtime, 0))
    before = channel_strengths(network, "group_lasso", CHANNELS)
    train_regularised(
        network,
        TrainingRun(task, FinetuneSettings(20, 16, 0.1, 0.0), runtime, 0),
        Penalty("group_lasso", 0.5),
        CHANNELS,
    )
    after = channel_strengths(network, "group_lasso", CHANNELS)
    gone = after == 0
    assert 0 < int(gone.sum()) < 8
    assert not vectors(network)[gone].any()
    assert score(network, task, "val", runtime).measurement["accuracy"] > 0.9
    told = describe_regularisation(before, after)
    assert told["channels"] == 8
    assert told["near_zero"] >= float(gone.double().mean())
    assert told["after"] == sorted(told["after"])


def test_a_stronger_penalty_leaves_smaller_scales(task: ArrayTask, runtime: Runtime) -> None:
    sums = []
    for strength in (1e-9, 0.05, 0.5):
        network = make_toy()
        train_regularised(
            network, TrainingRun(task, FinetuneSettings(3, 16, 0.05, 0.0), runtime, 0), Penalty("bn_l1", strength), {}
        )
        sums.append(float(channel_strengths(network, "bn_l1", {}).sum()))
    assert sums == sorted(sums, reverse=True)


def test_norms_run_over_all_that_produces_a_channel() -> None:
    network = make_toy()
    assert torch.allclose(channel_strengths(network, "group_lasso", CHANNELS), vectors(network).norm(dim=1), atol=1e-6)
    halves = {"a": [("fc.weight", 1, EACH[:4])], "b": [("fc.weight", 1, torch.tensor([[4, 5], [6, 7]]))]}
    columns = network.fc.weight.detach().norm(dim=0)
    expected = torch.cat([columns[:4], columns[4:].view(2, 2).norm(dim=1)])
    assert torch.allclose(channel_strengths(network, "group_lasso", halves), expected, atol=1e-6)


def test_channels_of_other_groups_are_left_alone(task: ArrayTask, runtime: Runtime) -> None:
    free, drawn = make_toy(), make_toy()
    train_dense(free, TrainingRun(task, FinetuneSettings(0.2, 16, 0.05, 0.0), runtime, 0))
    some = {"conv": [("conv.weight", 0, EACH[:2]), ("bn.weight", 0, EACH[:2])]}
    train_regularised(
        drawn, TrainingRun(task, FinetuneSettings(0.2, 16, 0.05, 0.0), runtime, 0), Penalty("group_lasso", 1.0), some
    )
    assert torch.equal(free.conv.weight[2:], drawn.conv.weight[2:])
    assert (drawn.conv.weight[:2].abs().sum((1, 2, 3)) < free.conv.weight[:2].abs().sum((1, 2, 3))).all()


@pytest.mark.parametrize(
    ("penalty", "channels", "words"),
    [
        (Penalty("bn_l1", 1.0), CHANNELS, "no norm of this network has scales.*use group_lasso"),
        (Penalty("group_lasso", 1.0), {}, "no group of channels.*use bn_l1"),
        (Penalty("group_lasso", 1.0), {"x": [("9.weight", 0, EACH)]}, r"no parameter '9\.weight'"),
    ],
)
def test_nothing_to_penalise(runtime: Runtime, penalty: Penalty, channels: dict, words: str) -> None:  # type: ignore[type-arg]
    with torch.random.fork_rng():
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    with pytest.raises(ModelError, match=words):
        train_regularised(network, TrainingRun(make_task(), RECIPE, runtime, 0), penalty, channels)


def test_scales_are_those_of_all_kinds_of_norms() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2), nn.LayerNorm(3), nn.GroupNorm(1, 4), nn.BatchNorm1d(5, affine=False))
    assert [scale.numel() for scale in norm_scales(network)] == [2, 3, 4]
