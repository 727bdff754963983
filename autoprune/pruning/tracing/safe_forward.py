"""Forward passes of a user's network that fail with a clear message, and show attention operation by operation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from autoprune.errors import ModelError


def answer_of(network: nn.Module, example: Tensor) -> Tensor:
    """Return a network's output on an example.

    Raises:
        ModelError: if it does not run, or returns anything but one tensor.
    """
    try:
        with torch.no_grad():
            output = network(example)
    except Exception as error:  # the user's own network may raise anything
        raise ModelError(
            f"the network does not run on an input of shape {tuple(example.shape)}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(output, Tensor):
        raise ModelError(
            f"the network returns a {type(output).__name__} in eval mode; expected one tensor of class scores "
            f"(N, num_classes): wrap it in a module that returns only that"
        )
    return output


@contextmanager
def plain_attention() -> Iterator[None]:
    """Run transformer layers operation by operation; one fused kernel would hide what happens in them."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
