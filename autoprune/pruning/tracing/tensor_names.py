"""The paths of a network's tensors: which layer a parameter belongs to, and which parameters several layers share."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

PARAMETRIZED = ".parametrizations."


def tensor_paths(network: nn.Module) -> dict[int, str]:
    """Return identity → path of every parameter and buffer; the first path of one that has several."""
    paths: dict[int, str] = {}
    for path, tensor in (*network.named_parameters(), *network.named_buffers()):
        paths.setdefault(id(tensor), path)
    return paths


def holder_of(path: str) -> str:
    """Return the path of the layer that a tensor serves: that of what computes a weight counts as the layer's own.

    >>> holder_of("stem.weight"), holder_of("stem.parametrizations.weight.original0")
    ('stem', 'stem')
    """
    before, found, _ = f".{path}".rpartition(PARAMETRIZED)
    return (before if found else f".{path}".rpartition(".")[0]).removeprefix(".")


def shared_tensors(network: nn.Module) -> dict[str, str]:
    """Return the paths of parameters that several modules hold, and of these modules → who shares them."""
    shared = {}
    for holders in parameter_holders(network).values():
        for holder in holders if len(holders) > 1 else ():
            other = next(each for each in holders if each != holder)
            shared[".".join(filter(None, holder))] = ".".join(filter(None, other))
            shared[holder[0]] = other[0]
    return shared


def parameter_holders(network: nn.Module) -> dict[int, list[tuple[str, str]]]:
    """Return identity of a parameter → every module that holds it, by its path, and the name it has there."""
    holders: dict[int, list[tuple[str, str]]] = {}
    for path, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            holders.setdefault(id(parameter), []).append((path, name))
    return holders


def named_parts(network: nn.Module) -> Iterator[tuple[str, nn.Module | Tensor]]:
    """Yield every module, parameter and buffer with its path, each module before what it holds."""
    for path, module in network.named_modules():
        yield path, module
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            yield f"{path}.{name}".removeprefix("."), tensor
