"""Strided 1×1 convolutions of few channels: their gradients are right in channels last, and nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from autoprune.training.device import narrow_strides
from autoprune.training.device.runtime import Runtime

CHANNELS_LAST = Runtime(channels_last=True)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(before)


@pytest.fixture
def has_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrow_strides, "_has_the_kernel", lambda: True)


def shortcut(channels: int, groups: int = 1, stride: int = 2) -> nn.Sequential:
    torch.manual_seed(channels)
    first = nn.Conv2d(3, channels, 3, padding=1)
    return nn.Sequential(first, nn.Conv2d(channels, 20, 1, stride, groups=groups, bias=False))


def guarded(network: nn.Module) -> bool:
    return bool(network[1]._forward_pre_hooks)  # type: ignore[index, arg-type]


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 7, 8, 12])
def test_gradients_are_those_of_float64(channels: int) -> None:
    """Where the kernel is not kept from it, this ends the process on a CPU without AVX-512."""
    network = CHANNELS_LAST.place(shortcut(channels))
    images = CHANNELS_LAST.place_images(torch.randn(8, 3, 16, 16))
    for _ in range(10):
        network.zero_grad()
        network(images).square().mean().backward()
    exact = copy.deepcopy(network).double()
    exact.zero_grad()
    exact(images.double()).square().mean().backward()
    for mine, expected in zip(network.parameters(), exact.parameters(), strict=True):
        assert mine.grad is not None
        assert expected.grad is not None
        assert torch.allclose(mine.grad.double(), expected.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("has_the_kernel")
def test_only_what_is_narrow_and_strided_and_one_pixel_is_guarded_and_once() -> None:
    assert guarded(CHANNELS_LAST.place(shortcut(4)))
    assert guarded(CHANNELS_LAST.place(shortcut(20, groups=5)))
    assert not guarded(CHANNELS_LAST.place(shortcut(8)))
    assert not guarded(CHANNELS_LAST.place(shortcut(4, stride=1)))
    assert not guarded(Runtime().place(shortcut(4)))
    wide = nn.Sequential(nn.Identity(), nn.Conv2d(4, 8, 3, 2))
    assert not guarded(CHANNELS_LAST.place(wide))
    network = CHANNELS_LAST.place(CHANNELS_LAST.place(shortcut(4)))
    assert len(network[1]._forward_pre_hooks) == 1
    assert len(copy.deepcopy(network)[1]._forward_pre_hooks) == 1


@pytest.mark.usefixtures("has_the_kernel")
@pytest.mark.parametrize("channels", [1, 4])
def test_it_sees_contiguous_tensors_only_where_gradients_are_asked_for(channels: int) -> None:
    network, seen = CHANNELS_LAST.place(shortcut(channels)), list[tuple[int, ...]]()
    network[1].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].stride()))
    images = CHANNELS_LAST.place_images(torch.randn(2, 3, 8, 8))
    network(images)
    assert seen == [(64 * channels, 64, 8, 1)]
    assert network[1].weight.stride() == (channels, 1, 1, 1)
    with torch.no_grad():
        network(images)
    assert seen[1] == (64 * channels, 1, 8 * channels, channels)


@pytest.mark.usefixtures("has_the_kernel")
def test_an_export_holds_nothing_of_it() -> None:
    network = CHANNELS_LAST.place(shortcut(4)).eval()
    plain = shortcut(4).eval()
    images = torch.randn(2, 3, 8, 8)
    names = [
        [node.name for node in torch.export.export(each, (images,)).graph.nodes if node.op == "call_function"]
        for each in (network, plain)
    ]
    assert names[0] == names[1]


@pytest.mark.parametrize(
    ("capability", "limit", "expected"),
    [("AVX2", "", True), ("AVX512", "", False), ("AVX512", "AVX2", True), ("AVX512", "ALL", False)],
)
def test_avx_512_has_other_kernels(
    monkeypatch: pytest.MonkeyPatch, capability: str, limit: str, expected: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit) if limit else monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    assert narrow_strides._has_the_kernel() == expected
