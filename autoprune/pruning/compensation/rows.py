"""The rows of a regression: the positions of a layer's output on a grid, and what each of them was computed from.

A convolution's output ``(N, C, …)`` is sampled at every ``step``-th position along each dimension; any other output,
``(…, C)``, at every ``step``-th of its rows. Inputs are unfolded at the same positions, chunk by chunk, so that memory
stays bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

ROWS_PER_INPUT = 10
LARGEST_STEP = 4
WIDE = 32  # a map of so many positions along each dimension is sampled at every second one at least
_CHUNK = 4_000_000  # numbers that are unfolded at a time: 16 MB


def along_images(module: nn.Module, output: Tensor) -> bool:
    """Return whether a layer's channels lie along dimension 1, with positions behind it."""
    return isinstance(module, (_ConvNd, nn.modules.batchnorm._NormBase)) and output.dim() > 2


def step_for(shape: tuple[int, ...], images: bool, inputs: int) -> int:
    """Return the coarsest grid that leaves ten rows to each input of a layer; 1 if not even all positions do.

    Args:
        shape: of the layer's output.
        images: whether it is ``(N, C, …)`` rather than ``(…, C)``.
        inputs: numbers that one output is computed from.

    >>> step_for((512, 16, 32, 32), True, 144), step_for((512, 64, 8, 8), True, 576), step_for((512, 10), False, 64)
    (4, 2, 1)
    """
    wanted = ROWS_PER_INPUT * inputs
    if not images:
        return max(1, min(prod(shape[:-1]) // wanted, LARGEST_STEP**2))
    return next(
        (step for step in range(LARGEST_STEP, 1, -1) if shape[0] * prod(ceil(n / step) for n in shape[2:]) >= wanted),
        2 if min(shape[2:]) >= WIDE else 1,
    )


def sampled(values: Tensor, images: bool, step: int) -> Tensor:
    """Return the rows of an output on the grid: ``(rows, channels)``, a copy in float32."""
    if not images:
        return values.reshape(-1, values.shape[-1])[::step].float().clone()
    grid = values[(slice(None), slice(None), *[slice(None, None, step)] * (values.dim() - 2))]
    return grid.movedim(1, -1).reshape(-1, values.shape[1]).float().clone()


def unfolded(module: nn.Module, x: Tensor, step: int) -> Iterator[Tensor]:
    """Yield what a layer's outputs on the grid are computed from: ``(groups, rows, inputs)``, chunk by chunk.

    Args:
        module: a convolution, or anything that multiplies the last dimension of its input by a matrix.
        x: its input.
        step: of the grid.
    """
    if not isinstance(module, _ConvNd):
        rows = x.reshape(-1, x.shape[-1])[::step]
        yield from (chunk.float()[None] for chunk in torch.split(rows, max(1, _CHUNK // rows.shape[1])))
        return
    if x.dim() == len(module.kernel_size) + 1:
        x = x[None]
    padded = _padded(module, x)
    windows = _windows(module, padded, step)
    groups = module.groups
    each = max(1, _CHUNK // windows[0].numel())
    for chunk in torch.split(windows, each):  # (n, C, positions …, kernel …)
        count = len(module.kernel_size)
        moved = chunk.movedim(1, count + 1).float()  # (n, positions …, C, kernel …)
        yield moved.reshape(prod(moved.shape[: count + 1]), groups, -1).transpose(0, 1)


def _padded(module: _ConvNd, x: Tensor) -> Tensor:
    around: Any = module._reversed_padding_repeated_twice
    if not any(around):
        return x
    return F.pad(x, around) if module.padding_mode == "zeros" else F.pad(x, around, mode=module.padding_mode)


def _windows(module: _ConvNd, x: Tensor, step: int) -> Tensor:
    """Return a view of all windows on the grid: ``(N, C, positions …, kernel …)``."""
    sizes, strides = [], []
    for dim, (kernel, stride, dilation) in enumerate(
        zip(module.kernel_size, module.stride, module.dilation, strict=True), 2
    ):
        positions = (x.shape[dim] - dilation * (kernel - 1) - 1) // stride + 1
        sizes.append(ceil(positions / step))
        strides.append(x.stride(dim) * stride * step)
    inner = [x.stride(dim) * dilation for dim, dilation in enumerate(module.dilation, 2)]
    return torch.as_strided(
        x, (*x.shape[:2], *sizes, *module.kernel_size), (*x.stride()[:2], *strides, *inner), x.storage_offset()
    )
