"""Run a network many times on the same input, with a change at one place: compute only what comes after it.

Everything a network computes before the change is the same every time, so the layers there answer from a recording.
Only layers of a known kind that return one tensor are recorded: none of those changes its input in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from autoprune.pruning.layers import kind_of


class Recording:
    """Hold what the layers of a network returned, call by call.

    Args:
        network: called in the same way, on the same input, and in eval mode, while recording and replaying.
    """

    def __init__(self, network: nn.Module) -> None:
        self._layers = [module for module in network.modules() if kind_of(module) is not None]
        self._outputs: list[Tensor | None] = []
        self._first: dict[nn.Module, int] = {}

    @contextmanager
    def record(self) -> Iterator[None]:
        """Record one call of the network."""

        def answer(call: int, module: nn.Module, forward: Callable[[], Any]) -> Any:
            self._first.setdefault(module, call)
            output = forward()
            # a copy, because what comes next may change it in place
            self._outputs.append(output.clone() if isinstance(output, Tensor) else None)
            return output

        with self._answering(answer):
            yield

    @contextmanager
    def replay(self, changed: Iterable[nn.Module]) -> Iterator[None]:
        """Answer from the recording in one call of the network, up to the first layer whose input or output changes."""
        until = min(self._first.get(module, 0) for module in changed)

        def answer(call: int, module: nn.Module, forward: Callable[[], Any]) -> Any:
            recorded = self._outputs[call] if call < until else None
            return forward() if recorded is None else recorded.clone()

        with self._answering(answer):
            yield

    @contextmanager
    def _answering(self, answer: Callable[[int, nn.Module, Callable[[], Any]], Any]) -> Iterator[None]:
        calls = 0
        own = [vars(module).get("forward") for module in self._layers]

        def put(module: nn.Module) -> None:
            forward = module.forward

            def numbered(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                return answer(calls - 1, module, lambda: forward(*args, **kwargs))

            module.forward = numbered

        for module in self._layers:
            put(module)
        try:
            yield
        finally:
            for module, former in zip(self._layers, own, strict=True):
                del module.forward
                if former is not None:
                    module.forward = former
