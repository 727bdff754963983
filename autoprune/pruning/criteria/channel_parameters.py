"""The numbers that produce each channel of a group, over all layers and tensors that hold some.

:func:`producing` finds them, whatever the layer: rows of a convolution, columns of an embedding, the gates of a
recurrent unit, the projections of a head, a bare parameter. :func:`filters` lays out the weights among them as one
matrix, :func:`channel_sums` adds something up per channel. Running statistics are no parameters and never count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoprune.core.channel_groups import Member, PruningGroup
from autoprune.pruning.importance import NotApplicable
from autoprune.pruning.layers.axes import tensor_of
from autoprune.pruning.layers.kinds import axes_of


@dataclass(frozen=True)
class Slices:
    """The slices of one parameter that produce channels of a group.

    Attributes:
        parameter: the parameter, of any shape.
        dim: the dimension that is sliced.
        channels: the group's channel that each slice belongs to, int64 ``(num_slices,)``.
        positions: where each slice lies along ``dim``, int64 ``(num_slices,)``.
        slots: the slice's number among those of its channel, int64 ``(num_slices,)``.
        is_filter: whether these are weights that combine inputs, rather than a bias, a slope or a norm's scale.
    """

    parameter: nn.Parameter
    dim: int
    channels: Tensor
    positions: Tensor
    slots: Tensor
    is_filter: bool

    def rows(self, values: Tensor) -> Tensor:
        """Return the slices of a tensor of the parameter's shape, flat: ``(num_slices, numbers per slice)``."""
        return values.detach().movedim(self.dim, 0)[self.positions].reshape(len(self.positions), -1)

    def matrix(self, num_channels: int) -> Tensor:
        """Return the parameter by channel, ``(num_channels, …)``; zeros where a channel has fewer slices."""
        rows = self.rows(self.parameter)
        found = rows.new_zeros(num_channels, int(self.slots.max()) + 1, rows.shape[1])
        found[self.channels, self.slots] = rows
        return found.flatten(1)


def producing(group: PruningGroup, network: nn.Module) -> Iterator[Slices]:
    """Yield every slice of every parameter that produces a channel of the group: weights, biases, norms.

    The weight of a grouped transposed convolution lies along what it reads and is not among them; the layers that
    feed it are in the same group and have filters of their own.
    """
    for member in group.producers():
        bare = tensor_of(network, member.module) if member.side.startswith("dim") else None
        if bare is not None:
            dim = int(member.side.removeprefix("dim"))
            yield from _slices(group, member, bare, dim, lambda c: (c,), bare.numel() > bare.shape[dim])
            continue
        module = network.get_submodule(member.module)
        for axis in axes_of(module, member.side):
            tensor = tensor_of(module, axis.tensor)
            if axis.produces and tensor is not None:
                yield from _slices(group, member, tensor, axis.dim, axis.of, tensor.dim() > 1)


def _slices(
    group: PruningGroup,
    member: Member,
    tensor: Tensor,
    dim: int,
    positions_of: Callable[[int], tuple[int, ...]],
    is_filter: bool,
) -> Iterator[Slices]:
    if not isinstance(tensor, nn.Parameter):
        return
    found = [
        (channel, position, slot)
        for channel in range(group.num_channels)
        for slot, position in enumerate(p for index in member.of(channel) for p in positions_of(index))
    ]
    if found:
        channels, positions, slots = torch.tensor(found, device=tensor.device).unbind(1)
        yield Slices(tensor, dim, channels, positions, slots, is_filter)


def filters(group: PruningGroup, network: nn.Module) -> Tensor:
    """Return the weights that produce each channel, side by side: float32 ``(num_channels, …)`` on the CPU.

    Raises:
        NotApplicable: if only norms, slopes or biases produce the channels.
    """
    found = [s.matrix(group.num_channels).float().cpu() for s in producing(group, network) if s.is_filter]
    if not found:
        raise NotApplicable("no weights produce its channels, only norms or biases do")
    return torch.cat(found, 1)


def channel_sums(group: PruningGroup, network: nn.Module, values_of: Callable[[nn.Parameter], Tensor | None]) -> Tensor:
    """Add up a value per number over all numbers that produce each channel: ``(num_channels,)`` on the CPU.

    Args:
        group: whose channels.
        network: where they are produced.
        values_of: returns a tensor of the parameter's shape, or ``None`` to leave the parameter out.
    """
    total = torch.zeros(group.num_channels, dtype=torch.float64)
    for slices in producing(group, network):
        values = values_of(slices.parameter)
        if values is not None:
            total.index_add_(0, slices.channels.cpu(), slices.rows(values).sum(1).cpu().double())
    return total
