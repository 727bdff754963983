"""Weights that a layer computes before it uses them: standardised, normalised, divided by their largest gain.

The parameters that such a weight is made of are not followed element by element. The result stands for the layer's
own weight, and the trial cut shows whether that was right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from autoprune.pruning.layers.kinds import kind_of
from autoprune.pruning.tracing.tensor_names import holder_of

_TURNS = {"t", "transpose", "permute", "numpy_T", "matrix_H", "mT", "swapaxes"}  # of a matrix
# what leaves no weight as it was once some of the numbers it looks at are gone
_STATISTICS = {"mean", "var", "std", "var_mean", "std_mean", "batch_norm", "group_norm", "instance_norm", "layer_norm"}


@dataclass(frozen=True)
class _Derived:
    """Where a computed weight comes from.

    Attributes:
        layer: whose parameters it was computed from.
        statistic: on the way to it; empty for none.
        is_turned: whether it is transposed.
    """

    layer: str
    statistic: str
    is_turned: bool


class DerivedWeights:
    """Which tensors were computed from the parameters of one layer alone.

    Args:
        network: whose layers.
        paths: identity → path of its parameters and buffers.
    """

    def __init__(self, network: nn.Module, paths: dict[int, str]) -> None:
        self._sources: dict[int, str] = {}
        for identity, path in paths.items():
            layer = holder_of(path)
            kind = kind_of(network.get_submodule(layer))
            if kind is not None and {"in", "out"} <= kind.sizes(network.get_submodule(layer)).keys():
                self._sources[identity] = layer
        self._derived: Any = WeakIdKeyDictionary()

    def layer_of(self, tensor: Any) -> str | None:
        """Return the layer from whose parameters a tensor was computed, ``None`` if it was not."""
        found = self._of(tensor)
        return found.layer if found else None

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

    def note(self, name: str, tensors: Sequence[Tensor], results: Sequence[Tensor]) -> bool:
        """Record the results of an operation if all it reads belongs to one layer; return whether it does.

        Args:
            name: of the operation.
            tensors: what it reads, none of it an activation.
            results: what it makes.
        """
        layers = {self.layer_of(tensor) or self._sources.get(id(tensor)) for tensor in tensors if tensor.numel() > 1}
        if len(layers) != 1 or None in layers:
            return False
        statistic = next(filter(None, map(self.statistic_in, tensors)), name if name in _STATISTICS else "")
        for result in results:
            carried = any(self.is_turned(tensor) for tensor in tensors if tensor.numel() == result.numel())
            is_turned = carried != (name in _TURNS and result.dim() == 2)
            self._derived[result] = _Derived(str(next(iter(layers))), statistic, is_turned)
        return True
