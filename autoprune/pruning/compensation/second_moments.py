"""Second moments of what the layers of the dense network read, from one forward pass.

They serve the closed form (``closed_form.py``) and the criterion ``obs``. Layers are visited in the order of the
network, and those whose matrices would go beyond the limit of memory are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from autoprune.models.calling.answers import answer_of
from autoprune.models.calling.inputs import Inputs
from autoprune.models.calling.tensors import tensors_in
from autoprune.pruning.compensation.dense_answers import exact_products
from autoprune.pruning.compensation.moments import MomentSums
from autoprune.pruning.compensation.readers import Reader, inputs_of
from autoprune.pruning.compensation.rows import grid_for, unfolded
from autoprune.pruning.input_moments import InputMoments
from autoprune.pruning.layers.attention import SlimMultiheadAttention
from autoprune.pruning.tracing.safe_forward import plain_attention

MATRIX_BYTES = 1 << 30  # of all matrices together


def second_moments(
    twin: nn.Module, readers: Mapping[str, Reader], batches: Sequence[Inputs]
) -> dict[str, InputMoments]:
    """Return path → moments of what each layer reads; layers that are not called or not affordable are missing.

    Args:
        twin: the dense network, as ``plain_twin`` makes it.
        readers: of it.
        batches: calibration examples on its device; those of one batch are in memory at a time.

    Raises:
        ModelError: if the network does not run.
    """
    sums = {path: MomentSums() for path in _affordable(twin, readers)}

    def add(path: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given = tensors_in(args, kwargs)[0]
        shape = tuple(next(iter(tensors_in(output))).shape)
        is_image = isinstance(module, _ConvNd) and len(shape) > 2
        for rows in unfolded(module, given, grid_for(shape, is_image, inputs_of(module), len(batches))):
            sums[path].add(rows, rows.new_zeros((*rows.shape[:2], 0)))

    with ExitStack() as stack:
        for path in sums:
            hook = _bound(add, path)
            stack.callback(twin.get_submodule(path).register_forward_hook(hook, with_kwargs=True).remove)
        for context in (plain_attention(), exact_products(), torch.no_grad()):
            stack.enter_context(context)
        for batch in batches:
            answer_of(twin, batch)
    return {path: _moments(found) for path, found in sums.items() if found.rows}


def _bound(add: Any, path: str) -> Any:
    return lambda module, args, kwargs, output: add(path, module, args, kwargs, output)


def _affordable(twin: nn.Module, readers: Mapping[str, Reader]) -> list[str]:
    found, total = list[str](), 0
    for path in readers:
        module = twin.get_submodule(path)
        size = 4 * getattr(module, "groups", 1) * inputs_of(module) ** 2
        if total + size <= MATRIX_BYTES and not isinstance(module, SlimMultiheadAttention):
            found.append(path)
            total += size
    return found


def _moments(sums: MomentSums) -> InputMoments:
    found = sums.moments(centred=True)
    return InputMoments(found.mean_input, found.inputs.float(), found.rows)
