"""The memory layout is chosen by rule, or by the clock where that is asked, and really is the one asked for."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn
from training_toys import make_task, make_toy, same_state, state_of

from autoprune.models.build import build_model
from autoprune.tasks.in_memory import Arrays, ArrayTask
from autoprune.training import memory_layout as layout
from autoprune.training.device.runtime import Precision, Runtime
from autoprune.training.memory_layout import fastest_layout, usual_layout


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch):
    """Make steps in one layout take ten times as long as in the other."""

    def make(slow_channels_last: bool) -> None:
        step = layout._step

        def timed(network: nn.Module, batch: object, runtime: Runtime, num_classes: int) -> float:
            step(network, batch, runtime, num_classes)
            return 10.0 if runtime.channels_last == slow_channels_last else 1.0

        monkeypatch.setattr(layout, "_step", timed)

    return make


@pytest.mark.parametrize("slow_channels_last", [True, False])
def test_the_faster_layout_is_chosen_and_the_rest_of_the_runtime_kept(pretend, slow_channels_last: bool) -> None:
    pretend(slow_channels_last)
    network = make_toy()
    before = state_of(network)
    found = fastest_layout(network, make_task(), 16, Runtime(threads=1), seed=0)
    assert found == Runtime(threads=1, channels_last=not slow_channels_last)
    assert same_state(before, state_of(network))


@pytest.mark.parametrize(("name", "shape"), [("mlp", (6,)), ("lstm", (5, 6)), ("lstm", (1, 8, 8))])
def test_what_has_no_convolution_of_images_is_not_measured(
    name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "_step", lambda *_: pytest.fail("a step was timed"))
    rows = torch.rand(8, *shape, generator=torch.Generator())
    task = ArrayTask("rows", Arrays(rows, torch.arange(8) % 2), Arrays(rows, torch.arange(8) % 2))
    network = build_model(name, num_classes=2, input_shape=shape, seed=0)
    assert fastest_layout(network, task, 4, Runtime(threads=1, channels_last=True), seed=0) == Runtime(threads=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_contiguous_runtime_runs_convolutions_contiguous(channels: int) -> None:
    """A convolution goes by the strides, and those of one channel are ambiguous."""
    runtime = Runtime(channels_last=False, threads=1)
    with torch.random.fork_rng():
        convolution = runtime.place(nn.Conv2d(channels, 5, 3))
        images = [torch.rand(4, channels, 6, 6), torch.rand(4, 6, 6, channels).permute(0, 3, 1, 2)]
    for one in itertools.chain(images, (i.to(memory_format=torch.channels_last) for i in images)):
        assert convolution(runtime.place_images(one)).is_contiguous()
        assert torch.equal(runtime.place_images(one), one)


@pytest.mark.parametrize(
    ("shape", "device", "precision", "amx", "channels_last"),
    [
        ((3, 224, 224), "cpu", "bf16", True, True),
        ((3, 96, 96), "cuda", "bf16", False, True),
        ((3, 32, 32), "cpu", "bf16", True, False),
        ((3, 32, 32), "cpu", "bf16", False, True),
        ((3, 32, 32), "cpu", "fp32", True, True),
        ((3, 32, 32), "cuda", "fp32", False, False),
        ((1, 8, 8), "cuda", "bf16", False, False),
        ((3, 224, 224), "mps", "fp32", False, False),
    ],
)
def test_the_usual_layout_goes_by_the_precision_and_the_size_of_the_images(
    shape: tuple[int, ...],
    device: str,
    precision: Precision,
    amx: bool,
    channels_last: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layout, "has_amx", lambda: amx)
    monkeypatch.setattr(layout, "_step", lambda *_: pytest.fail("a step was timed"))
    runtime = Runtime(device, precision, channels_last=not channels_last, threads=1)
    decided = replace(runtime, channels_last=channels_last)
    assert usual_layout(make_toy(), shape, runtime) == decided


@pytest.mark.parametrize(("name", "shape"), [("mlp", (6,)), ("lstm", (128, 128)), ("lstm", (1, 128, 128))])
def test_what_convolves_no_images_is_contiguous(name: str, shape: tuple[int, ...]) -> None:
    network = build_model(name, num_classes=2, input_shape=shape, seed=0)
    assert usual_layout(network, shape, Runtime(channels_last=True)) == Runtime(channels_last=False)
