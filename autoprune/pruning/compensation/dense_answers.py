"""What the dense network computes on the calibration examples: the targets of every refit, made once for all cuts.

Outputs are kept at the positions of a grid only (``rows.py``). How many examples are looked at follows from two
limits, of the activations that one pass holds at a time and of what is kept; fewer than were asked for is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.models.calling.answers import answer_of
from autoprune.models.calling.inputs import Inputs
from autoprune.models.calling.tensors import tensors_in
from autoprune.pruning.compensation.layer_flow import Flow, TensorPlace, watch_flow
from autoprune.pruning.compensation.readers import Reader, inputs_of, plain_twin, readers_of
from autoprune.pruning.compensation.rows import ROWS_PER_INPUT, Grid, along_images, grid_for, rows_on, sampled
from autoprune.pruning.layers.attention import SlimMultiheadAttention
from autoprune.pruning.tracing.safe_forward import plain_attention

ACTIVATION_BYTES = 2 << 30  # that one pass may hold
TARGET_BYTES = 1 << 30  # that are kept
_HELD = 4  # activations of the largest size that are alive at a time, about


@dataclass(frozen=True)
class Target:
    """What the results of one layer should be, or those of the norm behind it.

    Attributes:
        rows: on the grid, ``(rows, channels)``; the whole sum, if there is one.
        grid: where the rows lie.
        images: whether the channels lie along dimension 1.
        other: where the other summand is seen, which is subtracted from the rows; empty if there is no sum.
    """

    rows: Tensor
    grid: Grid
    images: bool
    other: tuple[TensorPlace, ...] = ()


@dataclass(frozen=True, eq=False)
class DenseAnswers:
    """The targets of one dense network.

    Attributes:
        network: the dense network itself.
        twin: of it, in float32.
        inputs: the calibration examples, on the network's device.
        readers: path → layer that can be refitted.
        flow: in which order layers are called, and what is behind them.
        targets: path of a layer without a batch norm behind it, or of a batch norm → its target.
        left: path → why a layer is left as it is.
    """

    network: nn.Module
    twin: nn.Module
    inputs: Inputs
    readers: Mapping[str, Reader]
    flow: Flow
    targets: Mapping[str, Target]
    left: Mapping[str, str]

    def target_of(self, path: str) -> Target | None:
        """Return the target of a layer: that of the norm behind it, if there is one."""
        return self.targets.get(self.flow.behind.get(path, path))


def dense_answers(
    network: nn.Module, inputs: Inputs, rows_per_input: int = ROWS_PER_INPUT, enough: int | None = None
) -> DenseAnswers:
    """Run the dense network on the calibration examples, and keep what its layers return.

    Args:
        network: in any mode and precision; not touched.
        inputs: calibration examples, on the network's device; fewer are used if memory would not do.
        rows_per_input: rows of a layer's regression for each of its inputs, at least, as far as there are so many.
        enough: so many examples are enough, but for a layer that returns one row for each example and has more inputs;
            ``None``: all are looked at.

    Raises:
        ModelError: if the network does not run.
    """
    twin, inputs = plain_twin(network), inputs.real_as(torch.float32)
    readers, left = readers_of(twin)
    with plain_attention(), exact_products(), torch.no_grad():
        packed = [path for path in readers if isinstance(twin.get_submodule(path), SlimMultiheadAttention)]
        layers = [path for path in (*readers, *left) if path not in packed]
        flow = watch_flow(twin, layers, packed, inputs.first(2))
        if enough is not None:
            inputs = inputs.first(max(enough, _widest(twin, readers, flow)))
        inputs = inputs.first(_affordable(twin, inputs, flow, rows_per_input))
        targets = _targets(twin, inputs, flow, readers, rows_per_input)
    return DenseAnswers(network, twin, inputs, readers, flow, targets, {**left, **flow.left})


@contextmanager
def exact_products() -> Iterator[None]:
    """Forbid convolutions of less than float32 precision, as TF32, for a stretch of code."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _widest(twin: nn.Module, readers: Mapping[str, Reader], flow: Flow) -> int:
    """Return the most inputs of a layer that returns one row for each example, as a classifier does; 0 if none does."""
    alone = [path for path in readers if len(flow.shapes.get(path, ())) == 2]
    return max((inputs_of(twin.get_submodule(path)) for path in alone), default=0)


def _affordable(twin: nn.Module, inputs: Inputs, flow: Flow, rows: int) -> int:
    """Return how many examples keep within the limits of memory: all, if they cannot be told apart."""
    size, few = inputs.size, min(inputs.size or 1, 2)
    largest = 1

    def measure(_: nn.Module, args: Any, output: Any) -> None:
        nonlocal largest
        largest = max(largest, *(tensor.numel() for tensor in tensors_in(args, output)), 1)

    with ExitStack() as hooks:
        for module in twin.modules():
            hooks.callback(module.register_forward_hook(measure).remove)
        answer_of(twin, inputs.first(few))
    if not size:
        return 0
    count = max(1, min(size, ACTIVATION_BYTES * few // (4 * _HELD * largest)))
    while (
        count > 1 and 4 * sum(_kept_numbers(twin, path, flow, count, few, rows) for path in flow.order) > TARGET_BYTES
    ):
        count //= 2  # not in proportion, since the grid is finer for fewer
    return count


def _kept_numbers(twin: nn.Module, path: str, flow: Flow, size: int, few: int, rows: int) -> int:
    """Return how many numbers a target of all examples holds."""
    if path in flow.behind:
        return 0
    shape = (flow.shapes[path][0] * size // few, *flow.shapes[path][1:])
    images = len(shape) > 2 and along_images(twin.get_submodule(path), torch.empty(flow.shapes[path], device="meta"))
    grid = grid_for(shape, images, _inputs_of(twin, path, flow), rows_per_input=rows)
    positions = rows_on(shape, grid) if images else prod(shape[:-1]) // grid[0]
    return positions * (shape[1] if images else shape[-1])


def _inputs_of(twin: nn.Module, path: str, flow: Flow) -> int:
    """Return the inputs of a layer, or of the layer that a norm is behind."""
    layer = next((layer for layer, norm in flow.behind.items() if norm == path), path)
    return inputs_of(twin.get_submodule(layer))


def _targets(
    twin: nn.Module, inputs: Inputs, flow: Flow, readers: Mapping[str, Reader], rows: int
) -> dict[str, Target]:
    found: dict[str, Target] = {}
    summands: dict[str, Tensor] = {}

    def rows_of(path: str, output: Tensor) -> Target:
        images = along_images(twin.get_submodule(path), output)
        grid = grid_for(tuple(output.shape), images, _inputs_of(twin, path, flow), rows_per_input=rows)
        return Target(sampled(output, images, grid), grid, images)

    def keep(path: str, output: Tensor) -> None:
        found[path] = rows_of(path, output)

    def keep_summand(path: str, value: Tensor) -> None:
        summands[path] = rows_of(path, value).rows

    def keep_projection(path: str, args: Any, kwargs: Any) -> None:
        query, key, value = queries_keys_values(args, kwargs)
        if query is key and key is value and not query.is_nested:
            reader = readers[path]
            found[path] = rows_of(path, F.linear(query, reader.tensor(twin), reader.offset(twin)))

    with ExitStack() as hooks:
        for path in flow.order:
            module = twin.get_submodule(path)
            if isinstance(module, SlimMultiheadAttention):
                before = partial(_before, partial(keep_projection, path))
                hooks.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            elif path not in flow.behind:
                hooks.callback(on_place(twin, TensorPlace(path, False), partial(keep, path)))
        for path, places in flow.sums.items():
            hooks.callback(on_place(twin, places[0], partial(keep_summand, path)))
        answer_of(twin, inputs)
    for path in summands.keys() & found.keys():
        mine = found[path]
        found[path] = replace(mine, rows=mine.rows + summands[path], other=flow.sums[path])
    return found


def on_place(network: nn.Module, place: TensorPlace, use: Callable[[Tensor], None]) -> Callable[[], None]:
    """Call ``use`` with the tensor that is seen in a place; return what takes the hook off again."""
    module = network.get_submodule(place.module)
    if place.is_input:
        return module.register_forward_pre_hook(
            lambda _, args, kwargs: use(tensors_in(args, kwargs)[0]), with_kwargs=True
        ).remove
    return module.register_forward_hook(lambda _, args, output: use(tensors_in(output)[0])).remove


def _before(use: Callable[[Any, Any], None], module: nn.Module, args: Any, kwargs: Any) -> None:
    use(args, kwargs)


def queries_keys_values(args: Any, kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return what attention is called with."""
    given = {**dict(zip(("query", "key", "value"), args, strict=False)), **kwargs}
    return given["query"], given["key"], given["value"]
