"""From the module that a user's function returned to a network of our own, which is complete and independent.

The user's object stays as it is: the function may return the same one each time. Layers that make their weights at the
first forward pass get them here, before anything counts or copies them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

from autoprune.core.user_code import in_user_code
from autoprune.errors import ModelError
from autoprune.models.calling.answers import are_of_one_shape, difference, magnitude
from autoprune.models.calling.inputs import Inputs
from autoprune.models.calling.tensors import tensors_in
from autoprune.models.copying.copy_network import copy_network
from autoprune.models.copying.wrappers import unwrapped_name

_SAME = 1e-5  # of the largest answer; sums in another order differ by about 1e-6


def own_network(made: nn.Module, source: str, inputs: Inputs | None) -> nn.Module:
    """Return a copy of a network, with every weight made, that runs no module but its own.

    Args:
        made: what the user's function returned; not changed.
        source: its name, for messages.
        inputs: a batch of at least two; ``None`` if nothing is known of them, and then nothing is run.

    Raises:
        ModelError: if it cannot be copied, runs modules of the first instance, or has lazy layers that no pass makes.
    """
    network = copy_network(made)
    if inputs is not None:
        network = _run_once(network, made, source, inputs)
    unmade = [name for name, tensor in network.state_dict(keep_vars=True).items() if is_lazy(tensor)]
    if unmade:
        raise ModelError(
            f"model {source!r} has lazy layers whose weights no forward pass made ({', '.join(unmade[:4])}); build "
            f"them with their sizes instead, or leave out what never runs"
        )
    return network


def former_names(made: nn.Module) -> dict[str, str]:
    """Return what tensors are called in the user's object → in our copy, where a wrapper makes a difference.

    >>> sorted(former_names(nn.Sequential(nn.DataParallel(nn.Linear(1, 2)), nn.Linear(2, 2))).items())
    [('0.module.bias', '0.bias'), ('0.module.weight', '0.weight')]
    """
    both = {name: unwrapped_name(made, name) for name in made.state_dict(keep_vars=True)}
    return {former: name for former, name in both.items() if former != name}


def _run_once(network: nn.Module, made: nn.Module, source: str, inputs: Inputs) -> nn.Module:
    """Return a network after a forward pass if that made weights, else as it was; refuse what answers by chance."""
    tried = copy_network(network).eval()
    strangers = {id(module): path for path, module in made.named_modules()}
    had_lazy, names, fault, spread = _has_lazy(network), set(network.state_dict()), None, 0.0
    with _modules_run(strangers) as run:
        try:
            spread = _spread_of_answers(tried, inputs)
            if _has_lazy(tried):
                with torch.no_grad():
                    inputs.run(tried.train())  # what only training runs
        except Exception as error:  # the user's own forward may raise anything
            fault = error
    if run:
        raise ModelError(
            f"a copy of model {source!r} runs the module {run[0]!r} of the first instance, because a function or an "
            f"object outside of the network holds that instance; let it use the module that it is given"
        )
    if spread > _SAME:
        raise ModelError(
            f"model {source!r} answers at random: its answers to one input, given twice in eval mode, differ by "
            f"{spread:.2g} of the largest, so neither a cut nor a score could be checked. Let it draw nothing and "
            f"change nothing in eval mode, as by F.dropout(x, p, training=self.training)"
        )
    if fault is not None and had_lazy:
        raise ModelError(
            f"model {source!r} has lazy layers, and does not run on {inputs}, "
            f"which would make their weights: {in_user_code(fault)}"
        ) from fault
    return tried if fault is None and (had_lazy or set(tried.state_dict()) != names) else network


def _has_lazy(network: nn.Module) -> bool:
    return any(is_lazy(tensor) for tensor in network.state_dict(keep_vars=True).values())


def _spread_of_answers(network: nn.Module, inputs: Inputs) -> float:
    """Return how far two answers to one input differ, as a share of the largest number; 0 if they are no tensors."""
    with torch.no_grad():
        first, second = (tensors_in(inputs.map(torch.clone).run(network)) for _ in range(2))
    if not are_of_one_shape(first, second):
        return 0.0
    pairs = [(one, other) for one, other in zip(first, second, strict=True) if one.is_floating_point() and one.numel()]
    return max((difference(one, other) / max(magnitude(one), 1e-30) for one, other in pairs), default=0.0)


@contextmanager
def _modules_run(watched: dict[int, str]) -> Iterator[list[str]]:
    """Collect the paths of the watched modules that run meanwhile: id of a module → its path."""
    found: list[str] = []

    def note(module: nn.Module, _: object) -> None:
        if id(module) in watched:
            found.append(watched[id(module)] or type(module).__name__)

    hook = register_module_forward_pre_hook(note)
    try:
        yield found
    finally:
        hook.remove()
