""":func:`copy_network`, the one way in which a network is copied; what cannot be copied is named with what to do.

``copy.deepcopy`` does most of it. Around it, what networks hold beside their weights is met: tensors with a history
(``kept_tensors.py``), wrappers (``wrappers.py``), and functions that refer to the first instance
(``rebind_functions.py``).
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.nn.utils.prune import BasePruningMethod

from autoprune.errors import ModelError
from autoprune.models.copying.kept_tensors import kept_tensors, plain_values
from autoprune.models.copying.rebind_functions import rebind_functions
from autoprune.models.copying.wrappers import inner_name, unwrapped

_Module = TypeVar("_Module", bound=nn.Module)
_NOT_HELD = ("_modules", "_parameters", "_buffers")


def copy_network(network: _Module) -> _Module:
    """Return a copy of a network that shares nothing with it that is changed by running, training or cutting the copy.

    Wrappers that run another module (``DataParallel``, ``DistributedDataParallel``, what ``torch.compile`` returns) are
    left out: what they run stands in their place. Tensors with a history lose it.

    Args:
        network: in any mode, on any device; not touched.

    Raises:
        ModelError: if it cannot be copied, or its copies could not be cut; says what in it, where, and what to do.
    """
    inner = unwrapped(network)
    check_plain(inner)
    memo = _memo_of(inner)
    try:
        for wrapper in (module for module in inner.modules() if inner_name(module)):
            memo[id(wrapper)] = copy.deepcopy(unwrapped(wrapper), memo)
        copied = copy.deepcopy(inner, memo)
    except Exception as error:  # what a network holds may raise anything
        raise _uncopyable(inner, error) from error
    rebind_functions(copied, memo)
    return cast(_Module, copied)


def check_plain(network: nn.Module) -> None:
    """Raise if a network holds a module whose weights are not its own to cut: scripted, exported, or masked.

    Raises:
        ModelError: naming the module, and what to do.
    """
    for path, module in network.named_modules():
        where = f"its module {path!r}" if path else "it"
        if isinstance(module, torch.jit.ScriptModule):
            what = "is a ScriptModule, whose" if path else "a ScriptModule's"
            begin = f"the network cannot be copied and cut: {where} {what}" if path else what
            raise ModelError(f"{begin} layers cannot be cut; give the Python module that it was made from")
        if any(kind.__module__.startswith("torch.export") for kind in type(module).__mro__):
            raise ModelError(
                f"the network cannot be copied and cut: {where} was made by torch.export, whose layers cannot be cut; "
                f"give the Python module that it was made from"
            )
        masks = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, BasePruningMethod)]
        if masks:
            tensor = getattr(masks[0], "_tensor_name", "weight")
            raise ModelError(
                f"the network cannot be copied and cut: torch.nn.utils.prune has left a mask on {tensor!r} of "
                f"{f'its module {path!r}' if path else 'the network itself'}; make it permanent with "
                f"torch.nn.utils.prune.remove(module, {tensor!r}) before you hand over the network"
            )


def _memo_of(network: nn.Module) -> dict[int, Any]:
    """Return what ``deepcopy`` is told beforehand: the plain values of tensors that it refuses."""
    return {id(tensor): plain_values(tensor) for tensor in kept_tensors(network)}


def _uncopyable(network: nn.Module, error: Exception) -> ModelError:
    """Return an error that names the attribute which cannot be copied, the innermost one."""
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    for path, module in reversed(list(network.named_modules())):
        for name, value in vars(module).items():
            if name not in _NOT_HELD and not _can_be_copied(network, value):
                owner = f"its module {path!r}" if path else "the network itself"
                return ModelError(
                    f"the network cannot be copied, and only copies are cut: {name!r} of {owner} holds what cannot be "
                    f"copied ({reason}). Make that where it is used, keep it outside of the network, or give "
                    f"{type(module).__name__} a __getstate__ that leaves it out"
                )
    return ModelError(
        f"the network cannot be copied, and only copies are cut: {type(error).__name__}: {reason}; give "
        f"{type(network).__name__} a __deepcopy__ that works"
    )


def _can_be_copied(network: nn.Module, value: object) -> bool:
    try:
        copy.deepcopy(value, _memo_of(network))
    except Exception:  # of any kind
        return False
    return True
