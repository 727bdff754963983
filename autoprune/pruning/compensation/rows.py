"""The rows of a regression: the positions of a layer's output on a grid, and what each of them was computed from.

A convolution's output ``(N, C, …)`` is sampled on a grid of its positions; of any other output, ``(…, C)``, every
``step``-th row is taken. Inputs are unfolded at the same positions, chunk by chunk, so that memory stays bounded.

The grid lies elsewhere in every example, so that all positions are seen, borders as often as they are there. With one
grid for all, rows of twice as many examples made a worse fit, not a better one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import gcd, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

ROWS_PER_INPUT = 20
COARSEST = 64  # one position in so many is looked at, at least: one of an 8 × 8 square
WIDE = 32  # a map of so many positions along each dimension is sampled at every second one at least
_SHUFFLE = 37  # which grid is next: of few examples, those apart from each other; odd, so that all have their turn
_CHUNK = 4_000_000  # numbers that are unfolded at a time: 16 MB

Grid = tuple[int, ...]
"""Steps along each dimension behind the channels; for what has no such dimensions, one step along its rows."""


def along_images(module: nn.Module, output: Tensor) -> bool:
    """Return whether a layer's channels lie along dimension 1, with positions behind it."""
    return isinstance(module, (_ConvNd, nn.modules.batchnorm._NormBase)) and output.dim() > 2


def grid_for(
    shape: tuple[int, ...], images: bool, inputs: int, batches: int = 1, rows_per_input: int = ROWS_PER_INPUT
) -> Grid:
    """Return the coarsest grid that leaves enough rows to each input of a layer; the finest if not even that does.

    Args:
        shape: of the layer's output.
        images: whether it is ``(N, C, …)`` rather than ``(…, C)``.
        inputs: numbers that one output is computed from.
        batches: outputs of this shape there are.
        rows_per_input: what is enough.

    >>> grid_for((512, 16, 32, 32), True, 144), grid_for((512, 64, 8, 8), True, 576), grid_for((512, 10), False, 64)
    ((8, 8), (2, 1), (1,))
    """
    wanted = rows_per_input * inputs
    if not images:
        most = min(batches * prod(shape[:-1]) // wanted, COARSEST)
        # not a step that meets the same tokens in every example
        return (next((step for step in range(most, 1, -1) if gcd(step, prod(shape[1:-1])) == 1), 1),)
    sizes = shape[2:]
    grid = (2,) * len(sizes) if min(sizes) >= WIDE else (1,) * len(sizes)
    while prod(grid) < COARSEST:
        left = [size / step for size, step in zip(sizes, grid, strict=True)]
        widest = left.index(max(left))
        coarser = tuple(2 * step if dim == widest else step for dim, step in enumerate(grid))
        if coarser[widest] > sizes[widest] or batches * rows_on(shape, coarser) < wanted:
            break
        grid = coarser
    return grid


def rows_on(shape: tuple[int, ...], grid: Grid) -> int:
    """Return how many rows an output ``(N, C, …)`` has on a grid, about."""
    return shape[0] * prod(shape[2:]) // prod(grid)


def _parts(count: int, grid: Grid) -> Iterator[tuple[slice, tuple[slice, ...]]]:
    """Yield examples whose grids lie alike, and their positions along each dimension."""
    starts = list(product(*map(range, grid)))
    for first in range(min(count, len(starts))):
        start = starts[_SHUFFLE * first % len(starts)]
        yield (
            slice(first, None, len(starts)),
            tuple(slice(at, None, step) for at, step in zip(start, grid, strict=True)),
        )


def sampled(values: Tensor, images: bool, grid: Grid) -> Tensor:
    """Return the rows of an output on the grid: ``(rows, channels)``, a copy in float32."""
    if not images:
        return values.reshape(-1, values.shape[-1])[:: grid[0]].float().clone()
    parts = [
        values[(examples, slice(None), *places)].movedim(1, -1).reshape(-1, values.shape[1]).float()
        for examples, places in _parts(len(values), grid)
    ]
    return torch.cat(parts)


def unfolded(module: nn.Module, x: Tensor, grid: Grid) -> Iterator[Tensor]:
    """Yield what a layer's outputs on the grid are computed from: ``(groups, rows, inputs)``, chunk by chunk.

    Args:
        module: a convolution, or anything that multiplies the last dimension of its input by a matrix.
        x: its input.
        grid: of the positions of its output.
    """
    if not isinstance(module, _ConvNd):
        rows = x.reshape(-1, x.shape[-1])[:: grid[0]]
        yield from (chunk.float()[None] for chunk in torch.split(rows, max(1, _CHUNK // rows.shape[1])))
        return
    if x.dim() == len(module.kernel_size) + 1:
        x = x[None]
    padded = _padded(module, x)
    most = max(1, _CHUNK // (padded.shape[1] * prod(module.kernel_size)))  # rows
    taken, count = list[Tensor](), 0
    for examples, places in _parts(len(padded), grid):
        windows = _windows(module, padded[examples], places)
        for part in torch.split(windows, max(1, most // prod(windows.shape[2 : 2 + len(grid)]))):
            taken.append(_as_rows(module, part))
            count += taken[-1].shape[1]
            if count >= most:
                yield torch.cat(taken, 1)
                taken, count = [], 0
    if taken:
        yield torch.cat(taken, 1)


def _as_rows(module: _ConvNd, windows: Tensor) -> Tensor:
    """Return windows ``(n, C, positions …, kernel …)`` as ``(groups, rows, inputs)``."""
    count = len(module.kernel_size)
    moved = windows.movedim(1, count + 1).float()  # (n, positions …, C, kernel …)
    return moved.reshape(prod(moved.shape[: count + 1]), module.groups, -1).transpose(0, 1)


def _padded(module: _ConvNd, x: Tensor) -> Tensor:
    around: Any = module._reversed_padding_repeated_twice
    if not any(around):
        return x
    return F.pad(x, around) if module.padding_mode == "zeros" else F.pad(x, around, mode=module.padding_mode)


def _windows(module: _ConvNd, x: Tensor, places: Sequence[slice]) -> Tensor:
    """Return a view of all windows at some positions: ``(N, C, positions …, kernel …)``."""
    sizes, strides, start = [], [], x.storage_offset()
    kinds = zip(module.kernel_size, module.stride, module.dilation, places, strict=True)
    for dim, (kernel, stride, dilation, place) in enumerate(kinds, 2):
        positions = (x.shape[dim] - dilation * (kernel - 1) - 1) // stride + 1
        sizes.append(len(range(*place.indices(positions))))
        strides.append(x.stride(dim) * stride * place.step)
        start += x.stride(dim) * stride * place.start
    inner = [x.stride(dim) * dilation for dim, dilation in enumerate(module.dilation, 2)]
    return torch.as_strided(x, (*x.shape[:2], *sizes, *module.kernel_size), (*x.stride()[:2], *strides, *inner), start)
