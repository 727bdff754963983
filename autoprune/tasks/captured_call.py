"""What a user's own ``forward`` calls the network with, caught on the way in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autoprune.errors import DataError
from autoprune.models.calling.inputs import Inputs


class _Caught(Exception):
    """The end of a pass whose inputs are known."""


def captured_call(network: nn.Module, call: Callable[[], Any], task: str) -> Inputs:
    """Return what a network is called with first.

    Args:
        network: not run.
        call: that calls it.
        task: for messages.

    Raises:
        DataError: if it is not called.
    """
    caught = list[Inputs]()

    def catch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.append(Inputs(args, kwargs))
        raise _Caught

    handle = network.register_forward_pre_hook(catch, with_kwargs=True, prepend=True)
    try:
        with torch.no_grad():
            call()
    except _Caught:
        pass
    finally:
        handle.remove()
    if not caught:
        raise DataError(
            f"{task}: forward does not call the network, so that what it is called with is not known; call "
            "network(…) in it, or give example=…"
        )
    return caught[0]
