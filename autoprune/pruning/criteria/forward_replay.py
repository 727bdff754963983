"""Repeated forward passes on the same input, with a change at one place: only what comes after it is computed.

Everything a network computes before the change is the same every time, so the layers there answer from a recording.
Only layers of a known kind that return one tensor are recorded: none of those changes its input in place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from torch import Tensor, nn

from autoprune.pruning.layers.kinds import kind_of

LayerCall: TypeAlias = tuple[nn.Module, int]
"""A layer, and how many times it was called before."""


class Recording:
    """What the layers of a network returned, call by call.

    Args:
        network: called on the same input and in eval mode, while recording and replaying.
    """

    def __init__(self, network: nn.Module) -> None:
        self._layers = [module for module in network.modules() if kind_of(module) is not None]
        self._order: dict[LayerCall, int] = {}
        self._outputs: dict[LayerCall, Tensor] = {}

    @contextmanager
    def record(self) -> Iterator[None]:
        """Record one call of the network."""

        def answer(call: LayerCall, forward: Callable[[], Any]) -> Any:
            self._order[call] = len(self._order)
            output = forward()
            if isinstance(output, Tensor):
                self._outputs[call] = output.clone()  # because what comes next may change it in place
            return output

        with self._answering(answer):
            yield

    @contextmanager
    def replay(self, changed: Iterable[nn.Module]) -> Iterator[None]:
        """Answer from the recording in one call of the network, up to the first of the layers that see a change."""
        until = min(self._order.get((module, 0), 0) for module in changed)

        def answer(call: LayerCall, forward: Callable[[], Any]) -> Any:
            known = self._order.get(call, until) < until and call in self._outputs
            return self._outputs[call].clone() if known else forward()

        with self._answering(answer):
            yield

    @contextmanager
    def _answering(self, answer: Callable[[LayerCall, Callable[[], Any]], Any]) -> Iterator[None]:
        calls: Counter[nn.Module] = Counter()
        own = [vars(module).get("forward") for module in self._layers]

        def put(module: nn.Module) -> None:
            forward = module.forward

            def counted(*args: Any, **kwargs: Any) -> Any:
                calls[module] += 1
                return answer((module, calls[module] - 1), lambda: forward(*args, **kwargs))

            module.forward = counted

        for module in self._layers:
            put(module)
        try:
            yield
        finally:
            for module, former in zip(self._layers, own, strict=True):
                del module.forward
                if former is not None:
                    module.forward = former
