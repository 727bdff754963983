"""Weights that are computed before they are used: standardised, normalised, transposed, divided by their largest gain.

What a layer computes from its parameters is not followed element by element: the result stands for the layer's own
weight, and the trial cut shows whether that was right. What is computed from one matrix that no layer owns stands for
that matrix where it is multiplied; elsewhere its elements are followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from autoprune.pruning.layers.kinds import kind_of
from autoprune.pruning.tracing.statistics import REDUCTIONS
from autoprune.pruning.tracing.tensor_names import holder_of, named_parts

_TURNS = {"t", "transpose", "permute", "numpy_T", "matrix_H", "mT", "swapaxes"}  # of a matrix
# what leaves no weight as it was once some of the numbers it looks at are gone
_STATISTICS = {"mean", "var", "std", "var_mean", "std_mean", "batch_norm", "group_norm", "instance_norm", "layer_norm"}


@dataclass(frozen=True)
class _Source:
    """What a weight comes from.

    Attributes:
        path: of the layer whose parameters it was computed from, or of the one matrix.
        shape: of that matrix; ``None`` for a layer.
    """

    path: str
    shape: torch.Size | None = None


@dataclass(frozen=True)
class _Derived:
    """How a weight was computed.

    Attributes:
        source: where it comes from.
        statistic: on the way to it; empty for none.
        is_turned: whether it is transposed.
    """

    source: _Source
    statistic: str
    is_turned: bool


class DerivedWeights:
    """Which tensors were computed from the parameters of one layer, or from one matrix, alone.

    Args:
        network: whose layers.
        paths: identity → path of its parameters and buffers.
    """

    def __init__(self, network: nn.Module, paths: dict[int, str]) -> None:
        self._sources: dict[int, _Source] = {}
        for _, tensor in named_parts(network):
            if not isinstance(tensor, Tensor) or id(tensor) not in paths:
                continue
            layer = holder_of(paths[id(tensor)])
            kind = kind_of(network.get_submodule(layer))
            if kind is not None and {"in", "out"} <= kind.sizes(network.get_submodule(layer)).keys():
                self._sources[id(tensor)] = _Source(layer)
            elif kind is None and sum(size > 1 for size in tensor.shape) > 1:
                self._sources[id(tensor)] = _Source(paths[id(tensor)], tensor.shape)
        self._derived: Any = WeakIdKeyDictionary()

    def knows(self, tensor: Tensor) -> bool:
        """Return whether a tensor was computed from one source alone."""
        return self._of(tensor) is not None

    def origin_of(self, tensor: Tensor) -> str | None:
        """Return the matrix from which a tensor of any form was computed, ``None`` if it was not."""
        found = self._of(tensor)
        return found.source.path if found and found.source.shape is not None else None

    def layer_of(self, tensor: Any) -> str | None:
        """Return the layer from whose parameters a tensor was computed, ``None`` if it was not."""
        found = self._of(tensor)
        return found.source.path if found and found.source.shape is None else None

    def matrix_of(self, tensor: Any) -> str | None:
        """Return the matrix from which one of its form was computed, ``None`` if a tensor was not."""
        found = self._of(tensor)
        if found is None or found.source.shape is None:
            return None
        shape = found.source.shape[::-1] if found.is_turned else found.source.shape
        return found.source.path if tensor.shape == shape else None

    def statistic_in(self, tensor: Any) -> str:
        """Return the first operation on the way to a weight that looks at many of its numbers; empty if none does."""
        found = self._of(tensor)
        return found.statistic if found else ""

    def is_turned(self, tensor: Any) -> bool:
        """Return whether a weight was transposed on its way, as the decoder of an autoencoder does."""
        found = self._of(tensor)
        return found is not None and found.is_turned

    def _of(self, tensor: Any) -> _Derived | None:
        found: _Derived | None = self._derived.get(tensor) if isinstance(tensor, Tensor) else None
        return found

    def _source_of(self, tensor: Tensor) -> _Source | None:
        found = self._of(tensor)
        return found.source if found else self._sources.get(id(tensor))

    def note(self, name: str, tensors: Sequence[Tensor], results: Sequence[Tensor]) -> bool:
        """Record the results of an operation if all it reads has one source; return whether that says all of them.

        Args:
            name: of the operation.
            tensors: what it reads, none of it an activation.
            results: what it makes.
        """
        sources = {self._source_of(tensor) for tensor in tensors if tensor.numel() > 1}
        source = next(iter(sources), None)
        if len(sources) != 1 or source is None:
            return False
        statistic = next(filter(None, map(self.statistic_in, tensors)), name if name in _STATISTICS else "")
        for result in results:
            carried = any(self.is_turned(tensor) for tensor in tensors if tensor.numel() == result.numel())
            is_turned = carried != (name in _TURNS and result.dim() == 2)
            self._derived[result] = _Derived(source, statistic, is_turned)
        return source.shape is None or name in REDUCTIONS  # norms of a matrix are not those of channels
