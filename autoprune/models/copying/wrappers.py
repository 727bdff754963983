"""Modules that only run another one, on several devices or compiled: a copy has what they wrap in their place."""

from __future__ import annotations

from torch import nn

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_COMPILED = "_orig_mod"  # where what torch.compile returns keeps the module; asking for its class would load Dynamo


def inner_name(module: nn.Module) -> str:
    """Return the name under which a wrapper holds the module that it runs; empty if it is none.

    A module of the user's own that holds another one as ``self.module`` is no wrapper.

    >>> inner_name(nn.DataParallel(nn.Linear(1, 1))), inner_name(nn.Linear(1, 1))
    ('module', '')
    """
    if _COMPILED in module._modules:
        return _COMPILED
    return "module" if isinstance(module, _PARALLEL) else ""


def unwrapped(network: nn.Module) -> nn.Module:
    """Return what the outermost wrappers run; the network itself if there is none.

    >>> unwrapped(nn.DataParallel(nn.DataParallel(nn.Linear(1, 2))))
    Linear(in_features=1, out_features=2, bias=True)
    """
    while name := inner_name(network):
        network = network.get_submodule(name)
    return network


def unwrapped_name(network: nn.Module, name: str) -> str:
    """Return what a tensor of a network is called in a copy, whose wrappers are gone.

    >>> net = nn.Sequential(nn.DataParallel(nn.Linear(1, 2)))
    >>> unwrapped_name(net, "0.module.weight"), unwrapped_name(net, "0.weight")
    ('0.weight', '0.weight')
    """
    kept, module = list[str](), network
    for part in name.split("."):
        if part != inner_name(module):
            kept.append(part)
        module = module._modules.get(part) or nn.Identity()
    return ".".join(kept)
