"""Where heads lie in an attention module, and the frame of the slim modules that can lose some of them.

Every attention module known here packs queries, keys and values into one matrix, so one :class:`Packing`, which only
names tensors, gives the channels of all of them. Their own forward passes divide the embedding by the number of heads
and break once the two are cut apart; a :class:`SlimAttention` computes the same from a head size that never changes.
The kinds are in ``attention.py`` and ``window_attention.py``.

Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.2 (heads); Michel, Levy and Neubig 2019, "Are
Sixteen Heads Really Better than One?" (cutting them).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from autoprune.core.channel_groups import Side
from autoprune.errors import ModelError
from autoprune.pruning.layers.axes import Axis, LayerKind, SideSizes, tensor_of


@dataclass(frozen=True)
class Packing:
    """The tensors of an attention module that makes queries, keys and values by one matrix, by name.

    The matrix has shape ``(3 · heads · head size, in)``: all queries, then all keys, then all values, head by head.

    Attributes:
        weight: the matrix.
        bias: its bias, of shape ``(3 · heads · head size,)``.
        out: the linear layer that joins the heads; its weight has shape ``(out, heads · head size)``.
        heads: the module's attribute that holds the number of heads.
        per_head: ``(tensor, dimension)`` of what else has one entry per head.
    """

    weight: str
    bias: str
    out: str
    heads: str = "num_heads"
    per_head: tuple[tuple[str, int], ...] = ()

    def head_size(self, module: nn.Module) -> int:
        """Return the channels of one head's query, key or value."""
        heads: int = getattr(module, self.heads)
        return self._shape(module, self.weight)[0] // (3 * heads)

    def sizes(self, module: nn.Module) -> SideSizes:
        """Return the heads, and the embedding channels read and produced."""
        return {
            "heads": getattr(module, self.heads),
            "in": self._shape(module, self.weight)[1],
            "out": self._shape(module, f"{self.out}.weight")[0],
        }

    def axes(self, module: nn.Module) -> tuple[Axis, ...]:
        """Return where heads and embedding channels lie; a head owns a block in each of queries, keys and values."""
        size, rows = self.head_size(module), self._shape(module, self.weight)[0]
        thirds = (0, rows // 3, 2 * rows // 3)
        return (
            Axis(self.weight, 0, "heads", offsets=thirds, block=size),
            Axis(self.bias, 0, "heads", offsets=thirds, block=size),
            *(Axis(tensor, dim, "heads") for tensor, dim in self.per_head),
            Axis(f"{self.out}.weight", 1, "heads", block=size, produces=False),
            Axis(self.weight, 1, "in", produces=False),
            Axis(f"{self.out}.weight", 0, "out"),
            Axis(f"{self.out}.bias", 0, "out"),
        )

    @staticmethod
    def _shape(module: nn.Module, name: str) -> tuple[int, ...]:
        tensor = tensor_of(module, name)
        if tensor is None:
            raise ModelError(f"{type(module).__name__} has no tensor {name!r}, where its heads were expected")
        return tuple(tensor.shape)


class SlimAttention(nn.Module):
    """A replacement for an attention module that computes the same with any number of heads and channels.

    It takes over everything that the dense module holds, tensors, children, hooks and attributes, under the same
    names; the dense module must not be used any more. Subclasses define the forward pass.

    Attributes:
        packing: where heads lie.
        head_dim: channels of one head, as in the dense module.

    Args:
        dense: the module to replace.
    """

    packing: ClassVar[Packing]
    head_dim: int

    def __init__(self, dense: nn.Module) -> None:
        super().__init__()
        for name, value in vars(dense).items():
            # containers are copied, so that a tensor replaced here is not replaced there
            vars(self)[name] = copy.copy(value) if isinstance(value, (dict, set, list)) else value
        self.head_dim = self.packing.head_size(dense)

    def resize(self, kept: Mapping[Side, tuple[int, ...]]) -> None:
        """Update the sizes after the tensors were cut.

        Args:
            kept: side → the channels that stay.
        """
        if "heads" in kept:
            setattr(self, self.packing.heads, len(kept["heads"]))
        for child in self.modules():
            if isinstance(child, nn.Linear):
                child.out_features, child.in_features = child.weight.shape


def class_name(module: nn.Module) -> str:
    """Return the full name of a module's class, by which classes of libraries are known without importing them."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def attention_kind(name: str, slim: type[SlimAttention], is_dense: Callable[[Any], bool]) -> LayerKind:
    """Return the kind of an attention module and of its slim form, which can be cut again.

    Args:
        name: for messages.
        slim: the slim form.
        is_dense: whether a module is a dense one of this kind.
    """
    return LayerKind(
        name,
        lambda module: type(module) is slim or is_dense(module),
        slim.packing.sizes,
        slim.packing.axes,
        slim.resize,
        slim=lambda module: module if type(module) is slim else slim(module),
    )
