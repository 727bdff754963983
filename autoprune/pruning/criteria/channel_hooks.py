"""Where a group's channels can be seen in a forward pass, and hooks that read or change them there.

Channels are seen best where they are *read*: norms and activation functions between producer and reader are
accounted for. A group that nothing reads, such as queries that only meet keys, is seen where it is produced. Heads of
attention and what is hidden in a module cannot be seen at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from autoprune.core.channel_groups import Member, PruningGroup
from autoprune.pruning.layers.kinds import kind_of


@dataclass(frozen=True)
class ChannelPlace:
    """One tensor of the forward pass in which a group's channels lie.

    Attributes:
        group: the group's name.
        member: its module, and which of the module's channels are which of the group's.
        dim: the dimension along which they lie: 1 or -1.
        size: how many channels the module has there.
        is_input: whether it is what the module reads, rather than what it returns.
    """

    group: str
    member: Member
    dim: int
    size: int
    is_input: bool


Edit: TypeAlias = Callable[[ChannelPlace, Tensor], Tensor]


def places_of(group: PruningGroup, network: nn.Module) -> tuple[ChannelPlace, ...]:
    """Return where the group's channels are read; where they are produced if nothing reads them; else nothing."""
    readers = tuple(_place(group, member, network) for member in group.members if member.side == "in")
    return readers or tuple(_place(group, member, network) for member in group.members if member.side == "out")


def _place(group: PruningGroup, member: Member, network: nn.Module) -> ChannelPlace:
    module = network.get_submodule(member.module)
    kind = kind_of(module)
    size = kind.sizes(module).get(member.side, 0) if kind else 0
    return ChannelPlace(group.name, member, channel_dim(module), size, member.side == "in")


def channel_dim(module: nn.Module) -> int:
    """Return the dimension of a module's input and output along which its channels lie: 1 as in images, else -1."""
    is_own_layernorm = isinstance(module, nn.LayerNorm) and type(module).forward is not nn.LayerNorm.forward
    images = isinstance(module, (_ConvNd, _NormBase, nn.GroupNorm, nn.PReLU)) or is_own_layernorm
    return 1 if images else -1


@contextmanager
def edited(network: nn.Module, places: Iterable[ChannelPlace], edit: Edit) -> Iterator[None]:
    """Pass what lies in these places through ``edit`` whenever the network runs.

    Args:
        network: hooks are put on its modules, and taken off at the end.
        places: where.
        edit: returns the tensor to continue with, of the same shape; called once per place and call of its module.
    """
    with ExitStack() as hooks:
        for place in places:
            module = network.get_submodule(place.member.module)
            if place.is_input:
                handle = module.register_forward_pre_hook(_input_hook(place, edit), with_kwargs=True)
            else:
                handle = module.register_forward_hook(_output_hook(place, edit))
            hooks.callback(handle.remove)
        yield


def _input_hook(place: ChannelPlace, edit: Edit) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        keys = _data_keys(module)

        def change(key: str | int, value: Any) -> Any:
            return edit(place, value) if key in keys and _holds(place, value) else value

        return tuple(change(i, a) for i, a in enumerate(args)), {k: change(k, a) for k, a in kwargs.items()}

    return hook


def _output_hook(place: ChannelPlace, edit: Edit) -> Any:
    return lambda module, args, output: edit(place, output) if _holds(place, output) else output


def _data_keys(module: nn.Module) -> tuple[str | int, ...]:
    """Return which arguments are data: the first, or what attention compares; not states and masks."""
    if isinstance(module, (_ConvNd, nn.Linear, nn.RNNBase)):
        return 0, "input"
    return 0, 1, 2, "input", "x", "query", "key", "value", "hidden_states"


def _holds(place: ChannelPlace, value: Any) -> bool:
    is_data = isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1
    return is_data and value.shape[place.dim] == place.size


def per_channel(place: ChannelPlace, values: Tensor) -> Tensor:
    """Add up a module's values for the channels of the group: ``(…, module channels)`` → ``(…, num_channels)``."""
    chosen = values[..., list(place.member.indices)]
    return chosen.reshape(*values.shape[:-1], -1, place.member.width).sum(-1)
