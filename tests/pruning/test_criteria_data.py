"""Criteria that look at what flows through a network, against loops that take one channel and one image at a time."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from criteria_networks import BUILDERS, Case, Mlp, build, group, out, read
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.core.channel_groups import PruningGroup
from autoprune.models.calling.inputs import Inputs
from autoprune.pruning.compensation.readers import plain_twin, readers_of
from autoprune.pruning.compensation.second_moments import second_moments
from autoprune.pruning.criteria import ablation as ablation_file
from autoprune.pruning.criteria.channel_parameters import producing
from autoprune.pruning.criteria.forward_replay import Recording
from autoprune.pruning.importance import Calibration, score_groups


def score(name: str, case: Case) -> dict[str, Tensor]:
    return score_groups(case.network, case.groups, [name], case.calibration)[name]


def all_inputs(case: Case) -> Tensor:
    return torch.cat([inputs for inputs, _ in case.calibration.batches])


def test_activation_and_apoz_are_seen_where_the_channels_are_read() -> None:
    case = build("convolutional")
    network = copy.deepcopy(case.network).eval()
    with torch.no_grad():
        stream = network.stem_norm(network.stem(all_inputs(case))).relu()
        inside = network.inner_norm(network.inner(stream)).relu()
        last = (stream + network.outer_norm(network.outer(inside))).relu().mean((2, 3))
    found = score("activation", case)
    torch.testing.assert_close(found["inner"], inside.mean((0, 2, 3)))
    torch.testing.assert_close(found["stem"], (stream.mean((0, 2, 3)) + last.mean(0)) / 2)
    shares = score("apoz", case)
    torch.testing.assert_close(shares["inner"], 1 - (inside == 0).float().mean((0, 2, 3)))
    torch.testing.assert_close(
        shares["stem"], ((stream != 0).float().mean((0, 2, 3)) + (last != 0).float().mean(0)) / 2
    )
    assert 0 <= shares["inner"].min() < shares["inner"].max() <= 1


def test_a_channel_that_became_several_features_is_seen_in_all_of_them() -> None:
    case = build("upsampling")
    network = copy.deepcopy(case.network).eval()
    with torch.no_grad():
        x = network.norm(network.depthwise(network.conv(all_inputs(case)).relu())).relu()
        x = network.slope(network.up(x))
    torch.testing.assert_close(score("activation", case)["up"], x.abs().mean((0, 2, 3)))


def test_channels_that_no_layer_reads_are_seen_where_they_are_produced() -> None:
    case = build("attention")
    with torch.no_grad():
        means = [layer(all_inputs(case)).abs().mean((0, 1)) for layer in (case.network.q, case.network.k)]
    torch.testing.assert_close(score("activation", case)["q"], (means[0] + means[1]) / 2)


def test_units_of_a_recurrent_layer_are_seen_in_both_directions() -> None:
    case = build("gru_time_first")
    with torch.no_grad():
        hidden = case.network.lstm(case.network.embed(all_inputs(case)).transpose(0, 1))[0]
    expected = hidden.mean(0).abs().mean(0)
    torch.testing.assert_close(score("activation", case)["lstm"], (expected[:4] + expected[4:]) / 2)


def test_heads_are_not_seen_and_are_ablated_by_their_weights() -> None:
    case = build("transformer")
    for name in ("activation", "fisher"):
        assert list(score(name, case)) == ["layer.linear1"]
    assert set(score("ablation", case)) == {"layer.self_attn", "layer.linear1"}


class Hidden(Mlp):
    """A network that uses the weights of a layer without calling it, so that nothing can be seen at its input."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        return self.head(F.linear(x, self.second.weight, self.second.bias).relu())


def test_channels_that_cannot_be_seen_are_left_out_and_ablated_by_their_weights() -> None:
    case = build("mlp")
    network = Hidden()
    network.load_state_dict(case.network.state_dict())
    hidden = Case(network, case.groups, case.calibration)
    for name in ("activation", "apoz", "fisher"):
        assert list(score(name, hidden)) == ["second"]
        torch.testing.assert_close(score(name, hidden)["second"], score(name, case)["second"])
    torch.testing.assert_close(score("ablation", hidden), score("ablation", case))


@pytest.mark.parametrize("kind", ["convolutional", "mlp", "layer_norm", "gru_time_first", "upsampling"])
def test_fisher_is_the_mean_over_examples_of_half_the_squared_slope(kind: str) -> None:
    """One image and one channel at a time: the slope of the loss as a factor on all readers' inputs leaves 1."""
    case = build(kind)
    network = copy.deepcopy(case.network).eval()
    one, channel = case.groups[-1], 1
    factor = torch.ones((), requires_grad=True)

    def fade(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        member = next(m for m in one.members if m.side == "in" and network.get_submodule(m.module) is module)
        dim = 1 if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) else -1
        index = torch.tensor(member.of(channel))
        faded = args[0].index_select(dim, index) * factor
        return args[0].index_copy(dim, index, faded), *args[1:]

    for member in one.members:
        if member.side == "in":
            network.get_submodule(member.module).register_forward_pre_hook(fade)
    squares = []
    for inputs, labels in case.calibration.batches:
        for i in range(len(inputs)):
            loss = F.cross_entropy(network(inputs[i : i + 1]), labels[i : i + 1])
            squares.append(float(torch.autograd.grad(loss, factor)[0]) ** 2 / 2)
    assert float(score("fisher", case)[one.name][channel]) == pytest.approx(sum(squares) / len(squares), rel=1e-3)


def test_fisher_leaves_out_what_mixes_the_examples_of_a_batch() -> None:
    class Mixing(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            x = self.second(self.norm(self.first(x)).relu()).relu()
            return self.head(x[:-1]).mean(0).expand(len(x), 3)

    case = build("mlp")
    assert list(score("fisher", Case(Mixing(), case.groups, case.calibration))) == ["first"]


def test_obs_removes_one_after_another_what_least_squares_makes_up_for_best() -> None:
    """Direct: of every channel that is left, what the reader's best other weights lose, weighed by squared slopes."""
    case = build("mlp")
    network, one = copy.deepcopy(case.network).eval(), next(g for g in case.groups if g.name == "first")
    inputs, slopes, outputs = [], 0.0, []

    def keep(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        inputs.append(args[0])
        outputs.append(output)

    network.second.register_forward_hook(keep)
    for images, labels in case.calibration.batches:
        slope = torch.autograd.grad(F.cross_entropy(network(images), labels), outputs[-1])[0] * len(images)
        slopes = slopes + slope.double().square().sum(0)
    rows = torch.cat(inputs).detach().double()
    second = torch.cov(rows.T, correction=0)
    second += 0.01 * second.diagonal().mean() * torch.eye(len(second))
    weight = network.second.weight.detach().double()

    def cost(gone: list[int]) -> float:
        stay = [c for c in range(one.num_channels) if c not in gone]
        fitted = torch.zeros_like(weight)
        fitted[:, stay] = (torch.linalg.inv(second[stay][:, stay]) @ (second @ weight.T)[stay]).T
        lacking = weight - fitted
        return float((slopes / len(rows) * (lacking @ second * lacking).sum(1)).sum() / 2)

    order: list[int] = []
    while len(order) < one.num_channels:
        order.append(min((c for c in range(one.num_channels) if c not in order), key=lambda c: cost([*order, c])))
    found = score("obs", case)["first"]
    assert found.argsort().tolist() == order
    assert float(found.min()) == pytest.approx(cost(order[:1]), rel=1e-3)


def test_obs_takes_the_moments_that_are_known_and_measures_the_others() -> None:
    case = build("convolutional")
    twin = plain_twin(copy.deepcopy(case.network).eval())
    batches = [Inputs.of(inputs) for inputs, _ in case.calibration.batches]
    moments = second_moments(twin, readers_of(twin)[0], batches)
    measured = score("obs", case)
    for known in (moments, dict(list(moments.items())[1:])):
        found = score("obs", replace(case, calibration=replace(case.calibration, moments=known)))
        assert found.keys() == measured.keys()
        for name, values in measured.items():
            torch.testing.assert_close(found[name], values)
    others = {path: replace(one, covariance=one.covariance.flip(1, 2)) for path, one in moments.items()}
    turned = score("obs", replace(case, calibration=replace(case.calibration, moments=others)))
    assert any(not torch.allclose(turned[name], values) for name, values in measured.items())


def naive_ablation(case: Case, one: PruningGroup) -> Tensor:
    """Zero the weights that produce each channel and measure the loss over all images."""
    labels = torch.cat([labels for _, labels in case.calibration.batches])

    def loss(network: nn.Module) -> Tensor:
        return F.cross_entropy(network.eval()(all_inputs(case)), labels).detach()

    rises = []
    for channel in range(one.num_channels):
        twin = copy.deepcopy(case.network)
        for slices in producing(one, twin):
            slices.parameter.data.movedim(slices.dim, 0)[slices.positions[slices.channels == channel]] = 0
        rises.append(loss(twin) - loss(case.network))
    return torch.stack(rises)


# not layer_norm: zeroing what produces a channel is not zeroing what its norm, a producer itself, is given
@pytest.mark.parametrize("kind", [kind for kind in BUILDERS if kind != "layer_norm"])
def test_ablation_is_the_rise_of_the_loss_without_the_channel(kind: str) -> None:
    case = build(kind)
    found = score("ablation", case)
    for one in case.groups:
        torch.testing.assert_close(found[one.name], naive_ablation(case, one), rtol=1e-3, atol=1e-6)
        assert found[one.name].abs().max() > 1e-5


@pytest.mark.parametrize("kind", BUILDERS)
def test_what_is_replayed_is_what_would_be_computed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = build(kind)
    expected = score("ablation", case)
    monkeypatch.setattr(Recording, "replay", lambda self, changed: Recording(nn.Module()).record())
    for name, scores in score("ablation", case).items():
        assert torch.equal(scores, expected[name])


def test_replay_computes_only_what_comes_after_the_change() -> None:
    network = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)), nn.ReLU(inplace=True), nn.Linear(3, 3)).eval()
    inputs = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    recording = Recording(network)
    with torch.no_grad(), recording.record():
        expected = network(inputs)
    ran = []
    for place, layer in enumerate(network):
        own = layer.forward
        layer.forward = lambda x, place=place, own=own: (ran.append(place), own(x))[1]
    for _ in range(2):
        with torch.no_grad(), recording.replay([network[3], network[5]]):
            assert torch.equal(network(inputs), expected)
    assert ran == [3, 4, 5] * 2
    assert all("forward" in vars(layer) for layer in network)  # what was put there before is still there


def test_ablation_looks_at_as_many_images_as_the_channels_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    case = build("mlp")  # 13 channels, two batches of 9
    inputs, labels = (torch.cat(parts) for parts in zip(*case.calibration.batches, strict=True))

    def by(images: int) -> dict[str, Tensor]:
        return score("ablation", Case(case.network, case.groups, Calibration([(inputs[:images], labels[:images])])))

    everything = score("ablation", case)
    torch.testing.assert_close(everything, by(18))
    monkeypatch.setattr(ablation_file, "BATCH", 4)
    torch.testing.assert_close(score("ablation", case), everything)
    monkeypatch.setattr(ablation_file, "PASSES", 13 * 11)
    monkeypatch.setattr(ablation_file, "LEAST_IMAGES", 2)
    torch.testing.assert_close(score("ablation", case), by(11))
    monkeypatch.setattr(ablation_file, "PASSES", 1)
    torch.testing.assert_close(score("ablation", case), by(2))


def test_attention_of_pytorch_and_its_masks_are_left_alone() -> None:
    """Queries, keys and values are data, a mask of the same size is not."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.attend = nn.Linear(3, 6), nn.MultiheadAttention(6, 2, batch_first=True)
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            mask = torch.zeros(6, 6).fill_diagonal_(1.0)
            return self.head(self.attend(x, x, value=x, attn_mask=mask, need_weights=False)[0]).mean(1)

    network = Net()
    generator = torch.Generator().manual_seed(0)
    calibration = Calibration([(torch.randn(5, 6, 3, generator=generator), torch.arange(5) % 3)])
    one = group("embed", 6, out("embed", 6), read("attend", 6))
    with torch.no_grad():
        expected = network.embed(calibration.batches[0][0]).abs().mean((0, 1))
    case = Case(network, (one,), calibration)
    torch.testing.assert_close(score("activation", case)["embed"], expected)
    torch.testing.assert_close(score("ablation", case)["embed"], naive_ablation(case, one), rtol=1e-3, atol=1e-6)
