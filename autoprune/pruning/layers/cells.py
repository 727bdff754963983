"""Recurrent cells as kinds of layers: a hidden unit can be cut, wherever its first state comes from.

Code that unrolls a cell often makes the first state itself, ``zeros(n, 64)``. A cell that was cut therefore takes
states of the dense size too, and reads those of the units that are left.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.channel_groups import Side
from autoprune.pruning.layers.axes import Axis, LayerKind, SideSizes

_GATES = {nn.LSTMCell: 4, nn.GRUCell: 3, nn.RNNCell: 1}


class _SlimCell(nn.Module):
    """What the slim forms of all cells share: which of the dense units are left."""

    hidden_size: int
    input_size: int
    weight_ih: Tensor
    weight_hh: Tensor

    def __init__(self, dense: nn.RNNCellBase) -> None:
        nn.Module.__init__(self)
        for name, value in vars(dense).items():
            # containers are copied, so that a tensor replaced here is not replaced there
            vars(self)[name] = copy.copy(value) if isinstance(value, dict) else value
        self.dense_units, self.unit_ids = dense.hidden_size, tuple(range(dense.hidden_size))

    def of_kept(self, state: Tensor) -> Tensor:
        """Return a state of the units that are left; one of all dense units loses those that are gone."""
        if state.shape[-1] != self.dense_units or self.hidden_size == self.dense_units:
            return state
        return state.index_select(-1, torch.tensor(self.unit_ids, device=state.device))


class SlimLSTMCell(_SlimCell, nn.LSTMCell):
    """The same as :class:`torch.nn.LSTMCell`, with fewer units and states of the dense size."""

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Return the new states, each ``(N, hidden)`` or ``(hidden,)``."""
        return super().forward(input, None if hx is None else (self.of_kept(hx[0]), self.of_kept(hx[1])))


class SlimGRUCell(_SlimCell, nn.GRUCell):
    """The same as :class:`torch.nn.GRUCell`, with fewer units and states of the dense size."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Return the new state, ``(N, hidden)`` or ``(hidden,)``."""
        return super().forward(input, None if hx is None else self.of_kept(hx))


class SlimRNNCell(_SlimCell, nn.RNNCell):
    """The same as :class:`torch.nn.RNNCell`, with fewer units and states of the dense size."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Return the new state, ``(N, hidden)`` or ``(hidden,)``."""
        return super().forward(input, None if hx is None else self.of_kept(hx))


_SLIM: Mapping[type[nn.RNNCellBase], type[_SlimCell]] = {
    nn.LSTMCell: SlimLSTMCell,
    nn.GRUCell: SlimGRUCell,
    nn.RNNCell: SlimRNNCell,
}


def _dense_type(module: nn.Module) -> type[nn.RNNCellBase]:
    return next(dense for dense in _GATES if isinstance(module, dense))


def _sizes(module: nn.RNNCellBase) -> SideSizes:
    return {"out": module.hidden_size, "in": module.input_size}


def _axes(module: nn.RNNCellBase) -> tuple[Axis, ...]:
    hidden = module.hidden_size
    gates = tuple(gate * hidden for gate in range(_GATES[_dense_type(module)]))
    rows = (Axis(name, 0, "out", offsets=gates) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    return (
        *rows,
        Axis("weight_hh", 1, "out", produces=False),
        Axis("weight_ih", 1, "in", produces=False),
    )


def _resize(module: Any, kept: Mapping[Side, tuple[int, ...]]) -> None:
    if "out" in kept:
        module.unit_ids = tuple(module.unit_ids[unit] for unit in kept["out"])
    module.hidden_size, module.input_size = module.weight_hh.shape[1], module.weight_ih.shape[1]


def _slim(module: Any) -> nn.Module:
    slim = _SLIM[_dense_type(module)]
    return module if type(module) is slim else slim(module)


CELL_KINDS: list[LayerKind] = [
    LayerKind(
        "recurrent cell",
        lambda module: type(module) in _GATES or isinstance(module, _SlimCell),
        _sizes,
        _axes,
        _resize,
        slim=_slim,
    )
]
"""PyTorch's three cells."""
