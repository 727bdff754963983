"""Means, norms and maxima over channels: what a cut network computes over fewer, its masked twin must as well.

A network without some channels takes such a statistic over those that stay. To compare it with the dense network with
the same channels zeroed, the statistics of the latter must leave the removed ones out; :class:`WithoutRemoved` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from autoprune.pruning.tracing.operation import operation

_REDUCTIONS = (
    "mean sum amax amin max min var std prod logsumexp norm linalg_vector_norm var_mean std_mean nanmean median"
)
REDUCTIONS = frozenset(_REDUCTIONS.split())


@dataclass(frozen=True)
class Statistic:
    """One statistic over channels.

    Attributes:
        module: path of the innermost module that takes it.
        number: which of the reductions of that module it is in a forward pass, from 0.
        dim: the dimension along which channels lie.
        atoms: the channel at each position, int64 ``(size,)``; 0 for none that can be cut.
    """

    module: str
    number: int
    dim: int
    atoms: Tensor


class WithoutRemoved(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode in which statistics leave removed channels out.

    Args:
        network: that runs meanwhile.
        statistics: those that were seen in the trace.
        is_removed: whether the channel of an atom is removed.
    """

    def __init__(self, network: nn.Module, statistics: Sequence[Statistic], is_removed: Callable[[int], bool]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._places = {(statistic.module, statistic.number): statistic for statistic in statistics}
        self._is_removed = is_removed
        self._network = network
        self._running, self._counts, self._hooks = [""], Counter[str](), ExitStack()

    def __enter__(self) -> WithoutRemoved:
        """Follow which module runs innermost, from now on.

        Inference mode shows a pooling as one operation, as the trace saw it; else it is a mean, which would be counted.
        """
        self._hooks.enter_context(torch.inference_mode())
        for path, module in self._network.named_modules():
            self._hooks.callback(module.register_forward_pre_hook(partial(self._begin, path)).remove)
            self._hooks.callback(module.register_forward_hook(self._end).remove)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """Leave the modules as they were."""
        self._hooks.close()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, a statistic on what stays."""
        if operation(func) in REDUCTIONS:
            module = self._running[-1]
            statistic = self._places.get((module, self._counts[module]))
            self._counts[module] += 1
            if statistic is not None and _runs_over(args[0], statistic):
                stays = [not self._is_removed(atom) for atom in statistic.atoms.tolist()]
                index = torch.tensor(stays).nonzero().flatten().to(args[0].device)
                args = (args[0].index_select(statistic.dim, index), *args[1:])
        return func(*args, **(kwargs or {}))

    def _begin(self, path: str, *_: object) -> None:
        self._running.append(path)

    def _end(self, *_: object) -> None:
        self._running.pop()


def _runs_over(tensor: Tensor, statistic: Statistic) -> bool:
    """Return whether a tensor has as many channels where a statistic saw them."""
    return tensor.dim() > statistic.dim and tensor.shape[statistic.dim] == len(statistic.atoms)
