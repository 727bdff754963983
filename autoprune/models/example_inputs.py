"""From ``mine.py:batch`` to the inputs that it stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn

from autoprune.core.registry import Registry
from autoprune.core.user_code import call_with_accepted
from autoprune.errors import ModelError
from autoprune.models.calling.inputs import Inputs

_EXAMPLES = Registry("example", "autoprune.examples")


def example_inputs(source: str) -> Inputs:
    """Return the batch of inputs that the user's code gives.

    Args:
        source: ``pkg.mod:name`` or ``file.py:name`` of a batch, or of a function without arguments that returns one.

    Raises:
        UnknownNameError, UsageError: if there is nothing of that name.
        ModelError: if the function fails, or the batch holds no tensor.
    """
    found: Any = _EXAMPLES.get(source)
    if callable(found) and not isinstance(found, (Tensor, nn.Module)):
        found = call_with_accepted(cast(Callable[..., Any], found), source, ModelError)
    inputs = Inputs.of(found)
    if not inputs.tensors:
        raise ModelError(
            f"{source!r} gives a {type(found).__name__} without a tensor; expected what the network is called with: a "
            f"tensor, a tuple of arguments, or a dictionary of arguments by name"
        )
    return inputs
