"""Copies of networks as people write them: equal, independent, and of nothing but themselves."""

from __future__ import annotations

import functools
import io
import threading
import types
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from autoprune.errors import ModelError
from autoprune.models.copying.copy_network import copy_network
from autoprune.training.device.seeding import seeded

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning", "ignore:.*jit.*:DeprecationWarning")
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def initial_weights() -> Iterator[None]:
    with seeded(0):
        yield


class KeepsMap(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.log = nn.Conv2d(3, 4, 3), list[dict[str, Tensor]]()

    def forward(self, x: Tensor) -> Tensor:
        self.map = self.conv(x)
        self.log.append({"map": self.map})
        return self.map.sum((2, 3))


class KeepsFunctions(nn.Module):
    """Keeps every kind of function that leads to its own layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.by_cell = lambda x: self.conv(x)
        self.by_partial = functools.partial(self.scaled, 2)
        self.table = {"cell": lambda x: self.conv(x), "default": [lambda x, conv=self.conv: conv(x)]}
        self.by_weakref = weakref.ref(self)
        self.by_method = types.MethodType(lambda own, x: own.conv(x), self)
        layers = {"all": [self.conv]}
        self.by_container = lambda x: layers["all"][0](x)
        self.with_itself = self.recursive(3)

    def scaled(self, factor: int, x: Tensor) -> Tensor:
        return factor * self.conv(x)

    def recursive(self, depth: int) -> Callable[[Tensor], Tensor]:
        def again(x: Tensor, left: int = depth) -> Tensor:
            return again(x, left - 1) if left else self.conv(x)

        return again

    def forward(self, x: Tensor) -> Tensor:
        default = self.table["default"][0]  # type: ignore[index]
        own = self.by_weakref()
        assert own is not None
        parts = [self.by_cell, self.by_partial, self.table["cell"], default, own.conv, self.by_method]
        return sum(part(x) for part in (*parts, self.by_container, self.with_itself))  # type: ignore[return-value, operator]


def wrapped_forward() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    former = network.forward

    def forward(x: Tensor) -> Tensor:
        return 2 * former(x)

    network.forward = forward  # type: ignore[method-assign]
    return network


def hooked() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    network[1].register_forward_hook(lambda module, args, output: output + network[0](IMAGES))
    return network


class Held(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.DataParallel(nn.Sequential(nn.Conv2d(3, 4, 3)))
        self.again = [self.body]

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.again[0](x)  # type: ignore[no-any-return]


def answers(network: nn.Module) -> Tensor:
    with torch.no_grad():
        return network.eval()(IMAGES)  # type: ignore[no-any-return]


@pytest.mark.parametrize("make", [KeepsFunctions, KeepsMap, wrapped_forward, hooked, Held])
def test_a_copy_answers_alike_and_shares_nothing(make: Callable[[], nn.Module]) -> None:
    network = make()
    network(IMAGES)
    copied = copy_network(network)
    before = answers(network)
    assert torch.equal(answers(copied), before)
    for parameter in copied.parameters():
        parameter.data.zero_()
    assert answers(copied).abs().max() == 0
    assert torch.equal(answers(network), before)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_tensors_that_forward_keeps_lose_their_history_in_the_copy_only(mode: Callable[[], object]) -> None:
    network = KeepsMap()
    with mode():  # type: ignore[attr-defined]
        network(IMAGES)
    had_history = network.map.grad_fn is not None
    copied = copy_network(network)
    assert copied.map.is_leaf
    assert not copied.map.is_inference()
    assert copied.log[0]["map"] is copied.map
    assert torch.equal(copied.map, network.map)
    assert (network.map.grad_fn is not None) == had_history
    copied(IMAGES).sum().backward()


@pytest.mark.parametrize(
    "normed",
    [
        torch.nn.utils.weight_norm,
        torch.nn.utils.spectral_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
    ],
)
def test_computed_weights_are_computed_from_the_copys_own(normed: Callable[[nn.Module], nn.Module]) -> None:
    network = nn.Sequential(normed(nn.Conv2d(3, 4, 3)))
    network(IMAGES).sum().backward()
    copied = copy_network(copy_network(network))
    assert torch.equal(answers(copied), answers(network))
    assert list(copied.state_dict()) == list(network.state_dict())
    for parameter in copied.parameters():
        parameter.data.mul_(-1)
    assert not torch.equal(answers(copied), answers(network))


def test_a_network_built_under_inference_mode_has_a_copy_that_can_be_trained() -> None:
    with torch.inference_mode():
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    copied = copy_network(network)
    copied.train()(IMAGES).sum().backward()
    assert list(copied.state_dict()) == list(network.state_dict())


def test_wrappers_are_left_out_wherever_they_are() -> None:
    inner = nn.Sequential(nn.Conv2d(3, 4, 3))
    assert list(copy_network(nn.DataParallel(nn.DataParallel(inner))).state_dict()) == ["0.weight", "0.bias"]
    copied = copy_network(Held())
    assert list(copied.state_dict()) == ["body.0.weight", "body.0.bias"]
    assert copied.again[0] is copied.body


def test_what_torch_compile_returns_is_left_out() -> None:
    inner = Held()
    copied = copy_network(torch.compile(inner))
    assert type(copied) is Held
    assert copied is not inner
    compiled_inside = nn.Sequential(torch.compile(nn.Conv2d(3, 4, 3)))
    assert list(copy_network(compiled_inside).state_dict()) == ["0.weight", "0.bias"]
    inner.compile()
    assert torch.equal(answers(copy_network(inner)), answers(copied))


def test_a_module_of_the_users_own_that_is_called_module_is_no_wrapper() -> None:
    network = nn.Module()
    network.module = nn.Linear(2, 2)
    assert list(copy_network(network).state_dict()) == ["module.weight", "module.bias"]


def holding(value: object) -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU()))
    network[1][0].held = {"deep": [value]}  # type: ignore[index]
    return network


def masked() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    prune.l1_unstructured(network[0], "bias", 0.5)
    return network


class Stubborn(nn.Module):
    def __deepcopy__(self, memo: object) -> nn.Module:
        raise ValueError("there is one of me")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: holding(threading.Lock()), ("'held' of its module '1.0'", "lock", "__getstate__")),
        (lambda: holding(i for i in range(3)), ("'held' of its module '1.0'", "generator")),
        (lambda: holding(io.TextIOWrapper(io.BytesIO())), ("'held'", "TextIOWrapper")),
        (lambda: torch.jit.script(nn.Linear(2, 2)), ("a ScriptModule's layers", "Python module")),
        (lambda: nn.Sequential(torch.jit.script(nn.Linear(2, 2))), ("its module '0' is a ScriptModule", "Python")),
        (lambda: nn.Sequential(exported()), ("its module '0' was made by torch.export", "Python module")),
        (masked, ("'bias' of its module '0'", "torch.nn.utils.prune.remove(module, 'bias')")),
        (lambda: nn.Sequential(Stubborn()), ("ValueError", "there is one of me", "__deepcopy__")),
    ],
    ids=["lock", "generator", "file", "scripted", "scripted inside", "exported inside", "masks", "refuses"],
)
def test_what_cannot_be_copied_is_named_with_what_to_do(make: Callable[[], nn.Module], said: tuple[str, ...]) -> None:
    network = make()
    with pytest.raises(ModelError) as raised:
        copy_network(network)
    assert "\n" not in str(raised.value)
    assert [words for words in said if words not in str(raised.value)] == []


def exported() -> nn.Module:
    return torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)).module()


GLOBAL = nn.Sequential(nn.Conv2d(3, 4, 3))


def test_a_hook_that_finds_the_network_by_a_global_name_is_refused() -> None:
    handle = GLOBAL[0].register_forward_hook(lambda module, args, output: output * GLOBAL[0].weight.mean())
    with pytest.raises(ModelError, match=r"'<lambda>' \(test_copy_network.py:\d+\).*global name 'GLOBAL'"):
        copy_network(GLOBAL)
    handle.remove()
    assert torch.equal(answers(copy_network(GLOBAL)), answers(GLOBAL))
