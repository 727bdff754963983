"""The memory layout in which a pruned network is trained: the usual one, by a rule, or the faster one, by the clock.

On one CPU with AMX, bf16 in channels last trains ResNet-18 on 224×224 images 1.4 times as fast as contiguous, but a
pruned ResNet-56 on 32×32 images, whose layers have odd and narrow widths, half as fast. On CPUs without AMX channels
last is faster for small images too: ten pruned networks took 0.6 to 1.03 of the time in float32, and nine took 0.70 to
1.02 of it in bf16. So the rule goes by the precision, the CPU and the size of the images: it is near the clock's answer
and, unlike it, the same on a busy machine, so that a seed fixes a study. Only convolutions of images have a choice: a
recurrent network or a perceptron stays contiguous.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from itertools import islice

from torch import nn

from autoprune.core.shapes import is_image
from autoprune.models.copying.copy_network import copy_network
from autoprune.tasks.task import Batch, DataTask
from autoprune.training.device.bf16_on_cpu import has_amx
from autoprune.training.device.runtime import Runtime
from autoprune.training.device.seeding import seeded

ROUNDS = 4  # the first warms up
LARGE = 96 * 96  # pixels of an image from which on channels last is usually faster, whatever the precision


def has_layouts(network: nn.Module, input_shape: tuple[int, ...]) -> bool:
    """Return whether a network's layout is a choice: whether it convolves images.

    Args:
        network: any.
        input_shape: of one example, without the batch.
    """
    return is_image(input_shape) and any(parameter.dim() == 4 for parameter in network.parameters())


def usual_layout(network: nn.Module, input_shape: tuple[int, ...], runtime: Runtime) -> Runtime:
    """Return the runtime with the layout that is usually the faster one for such images; nothing is timed.

    Args:
        network: dense or pruned.
        input_shape: of one example, without the batch.
        runtime: device, precision and threads; the layout is what is chosen.
    """
    if runtime.device == "mps" or not has_layouts(network, input_shape):
        return replace(runtime, channels_last=False)  # which gain nothing from it
    any_size = runtime.device == "cpu" and (runtime.precision == "fp32" or not has_amx())
    return replace(runtime, channels_last=any_size or input_shape[-1] * input_shape[-2] >= LARGE)


def fastest_layout(network: nn.Module, task: DataTask, batch_size: int, runtime: Runtime, seed: int) -> Runtime:
    """Return the runtime with the layout, channels last or contiguous, in which a training step takes less time.

    Args:
        network: a pruned one, like those that will be trained; not touched.
        task: the data; one training batch is used.
        batch_size: images per step.
        runtime: device, precision and threads; the layout is what is chosen.
        seed: of the batch.
    """
    contiguous = replace(runtime, channels_last=False)
    if not has_layouts(network, task.example(network).shape) or not task.has_loss:
        return contiguous
    choices = [replace(runtime, channels_last=True), contiguous]
    (batch,) = islice(task.train_stream(batch_size, 0, seed, runtime), 1)
    twins = [choice.place(copy_network(network)).train() for choice in choices]
    seconds: list[list[float]] = [[], []]
    with seeded(seed, runtime.device):
        for _ in range(ROUNDS):
            for times, choice, twin in zip(seconds, choices, twins, strict=True):
                times.append(_step(twin, batch, choice, task))
    medians = [statistics.median(times[1:]) for times in seconds]
    return choices[medians.index(min(medians))]


def _step(network: nn.Module, batch: Batch, runtime: Runtime, task: DataTask) -> float:
    """Return the seconds of one forward and backward pass; waits until the device has finished."""
    batch = runtime.place_batch(batch)
    started = time.perf_counter()
    loss = task.loss(runtime.answer(task.forward, network, batch), batch)
    loss.backward()  # type: ignore[no-untyped-call]
    loss.item()
    return time.perf_counter() - started
