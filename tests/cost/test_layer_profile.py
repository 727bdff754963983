"""What layers do, store and take adds up to the network; what has no formula is named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoprune.cost.cost_model import measure_network
from autoprune.cost.layer_profile import layer_seconds, profile_layers, uncounted_operations
from autoprune.models.cifar_resnet import resnet20
from autoprune.testing import ExampleNetwork


class FakeClock:
    """A clock that moves only when it is moved."""

    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now


class Takes(nn.Module):
    """A module that takes seconds before and after an inner module, if there is one."""

    def __init__(self, clock: FakeClock, seconds: list[float], inner: nn.Module | None = None) -> None:
        super().__init__()
        self.clock, self.seconds, self.inner, self.calls = clock, seconds, inner, 0

    def forward(self, x: Tensor) -> Tensor:
        seconds = self.seconds[min(self.calls, len(self.seconds) - 1)]
        self.calls += 1
        self.clock.now += seconds
        if self.inner is not None:
            x = self.inner(self.inner(x))
        self.clock.now += seconds
        return x


def test_a_module_takes_what_its_submodules_do_not() -> None:
    clock = FakeClock()
    network = Takes(clock, [0.5], inner=Takes(clock, [0.125]))
    assert layer_seconds(network, torch.zeros(1), 4, clock) == {"": 1.0, "inner": 0.5}
    assert not network._forward_hooks
    assert not network.inner._forward_pre_hooks  # type: ignore[union-attr]


def test_passes_that_were_disturbed_do_not_count_and_layers_still_add_up_to_a_whole_one() -> None:
    clock = FakeClock()
    inner = Takes(clock, [*[4] * 10, 50, 50])
    network = Takes(clock, [1, 1, 1, 1, 90, 3], inner)
    assert layer_seconds(network, torch.zeros(1), 3, clock) == pytest.approx({"": 6 * s, "inner": 16 * s})


s = 196 / 22  # passes take 18, 196 and 206 seconds; the medians of 2, 180, 6 and of 16, 16, 200 add up to 22


def test_hooks_are_removed_when_the_network_breaks() -> None:
    network = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(RuntimeError):
        layer_seconds(network, torch.zeros(1, 5), 1)
    assert not network._forward_hooks
    assert not network[0]._forward_hooks


@pytest.mark.parametrize(("network", "shape"), [(resnet20(), (3, 32, 32)), (ExampleNetwork(), (1, 8, 8))])
def test_layers_add_up_to_the_network(network: nn.Module, shape: tuple[int, ...]) -> None:
    example = torch.zeros(2, *shape)
    layers = profile_layers(network.eval(), example, passes=2)
    whole = measure_network(network, example)
    assert sum(layer.macs for layer in layers) == whole["mflops"] * 1e6
    assert sum(layer.params for layer in layers) == whole["mparams"] * 1e6
    assert sum(layer.stored_bytes for layer in layers) == whole["size_mb"] * 1e6
    assert all(layer.seconds > 0 for layer in layers if layer.macs)
    names = [name for name, _ in network.named_modules()]
    assert [layer.name for layer in layers] == [name for name in names if name in {each.name for each in layers}]


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.two(self.one(x)), -1).view(-1, 4).exp()


def test_shared_weights_are_stored_once_and_multiplied_twice() -> None:
    layers = {layer.name: layer for layer in profile_layers(Shared().eval(), torch.zeros(3, 4), passes=1)}
    assert (layers["one"].macs, layers["two"].macs) == (16, 16)
    assert (layers["one"].params, layers["two"].params) == (20, 4)


def test_what_has_no_formula_is_named_and_views_are_not() -> None:
    found = {one.operation: (one.calls, one.outputs) for one in uncounted_operations(Shared(), torch.zeros(3, 4))}
    assert found == {"_softmax": (1, 4), "exp": (1, 4)}
