""":func:`build_model`, the one way from a name to a network: built-in, plug-in, torchvision's or the user's own.

Combined with ``load_weights``, which reads files, and ``torchvision_zoo``, which fits torchvision's classifiers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from autoprune.core.builtin_names import MODELS
from autoprune.core.live_objects import is_live
from autoprune.core.notify import Notify
from autoprune.core.shapes import Shape, channels_of, image_of
from autoprune.core.user_code import as_its_owner_runs_it, call_with_accepted
from autoprune.errors import ModelError
from autoprune.models.calling.inputs import Inputs
from autoprune.models.load_weights import load_weights
from autoprune.models.own_network import former_names, own_network
from autoprune.models.torchvision_zoo import PREFIX, build_torchvision

_EXAMPLES = 2
_log = logging.getLogger(__name__)


def build_model(
    source: str,
    *,
    num_classes: int,
    in_channels: int | None = None,
    input_shape: Shape | None = None,
    seed: int,
    weights: str = "",
    notify: Notify = _log.warning,
    remark: Notify = _log.warning,
) -> nn.Module:
    """Build a network on the CPU, in training mode, load its weights, and leave the global random state as it was.

    What the user's own function returns is copied, so that its object stays as it is. Wrappers such as ``DataParallel``
    are left out of the copy, and lazy layers get their weights.

    Args:
        source: a built-in or plug-in (``resnet56``), ``torchvision:NAME``, or the user's own ``pkg.mod:fn`` or
            ``file.py:fn``, called with those of ``num_classes``, ``in_channels`` and ``input_shape`` that it accepts.
        num_classes: outputs that the data needs.
        in_channels: channels of an image, or features of a row; needed only without ``input_shape``.
        input_shape: of one example: ``(C, H, W)``, ``(F,)`` or ``(T, F)``; ``None`` for images of any size.
        seed: for the initial weights; the same arguments give the same bits.
        weights: empty for fresh ones, a file, or the name of torchvision's (``DEFAULT``), downloaded once.
        notify: called with one sentence if a classifier is replaced because it has another number of outputs.
        remark: called with one sentence if a file of weights holds more than these, and a choice was made.

    Raises:
        UnknownNameError: if the source or the name of the torchvision weights is unknown.
        ModelError: if the network cannot be built, or its weights cannot be loaded.
    """
    offers = {"num_classes": num_classes, **_input_offers(source, in_channels, input_shape)}
    if source.startswith(PREFIX):
        with _drawing_by(seed):
            return build_torchvision(source, num_classes, offers["in_channels"], weights, notify, remark)

    def inputs(made: nn.Module) -> Inputs | None:
        return None if input_shape is None else Inputs.of(torch.rand(_EXAMPLES, *input_shape))

    return _built(source, offers, inputs, seed, weights, remark)


def build_for_inputs(
    source: str,
    inputs: Inputs | Callable[[nn.Module], Inputs] | None,
    num_classes: int | None,
    seed: int,
    weights: str = "",
    remark: Notify = _log.warning,
    offers: Mapping[str, int] | None = None,
) -> nn.Module:
    """Build a network whose inputs are of any structure; otherwise as :func:`build_model` does.

    Args:
        source: as there; the function is called with ``num_classes``, and ``input_shape`` if inputs are one tensor.
        inputs: one batch; what gives one for the network that the source makes; ``None`` if there is none to run it on.
        num_classes: ``None`` if the network knows it.
        seed: for the initial weights.
        weights: empty for fresh ones, or a file.
        remark: as there.
        offers: further numbers that the function is given if it accepts them.

    Raises:
        UnknownNameError, ModelError: as :func:`build_model`.
    """
    known = inputs if isinstance(inputs, Inputs) else None
    shape = known.shape if known is not None else ()
    if source.startswith(PREFIX):
        return build_model(source, num_classes=num_classes or 1000, input_shape=shape, seed=seed, weights=weights)
    classes = {} if num_classes is None else {"num_classes": num_classes}
    on_offer = {**classes, **(offers or {}), **(_input_offers(source, None, shape) if shape else {})}
    call = inputs
    return _built(source, on_offer, lambda made: call(made) if callable(call) else call, seed, weights, remark)


def _built(
    source: str,
    offers: Mapping[str, object],
    inputs: Callable[[nn.Module], Inputs | None],
    seed: int,
    weights: str,
    remark: Notify,
) -> nn.Module:
    """Return what a built-in or the user's function makes, with its weights, in training mode."""
    with _drawing_by(seed):
        made = call_with_accepted(MODELS.get(source), source, ModelError, **offers)
        network = _network_of(made, source, inputs)  # drawn after it is made, or its weights would change
    if weights:
        load_weights(network, weights, remark, former_names=former_names(made))
    return network.train()


@contextmanager
def _drawing_by(seed: int) -> Iterator[None]:
    """Draw random numbers on the CPU by a seed, and put the global random state back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _network_of(made: object, source: str, inputs: Callable[[nn.Module], Inputs | None]) -> nn.Module:
    """Return a built-in network as it is, and a copy of what another function returned."""
    if not isinstance(made, nn.Module):
        if is_live(source):
            given = f"the class {made.__name__}" if isinstance(made, type) else type(made).__name__
            raise ModelError(f"the model is {given}; expected a torch.nn.Module, or a name, as 'mine.py:network'")
        raise ModelError(f"model {source!r} returned {type(made).__name__}; expected a torch.nn.Module")
    if source in MODELS.builtins:
        return made
    with as_its_owner_runs_it(source):
        return own_network(made, source, inputs(made))


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters, shared ones once; buffers are not counted.

    >>> count_parameters(nn.Linear(3, 2))
    8
    """
    return sum(parameter.numel() for parameter in network.parameters())


def _input_offers(source: str, in_channels: int | None, input_shape: Shape | None) -> dict[str, Any]:
    """Return the arguments about the input that a network may accept; the shape, if known, decides the channels."""
    if input_shape is not None:
        if source.startswith(PREFIX):
            image_of(input_shape, source)
        return {"in_channels": channels_of(input_shape), "input_shape": input_shape}
    if in_channels is None:
        raise ModelError(f"model {source!r} was given without in_channels and input_shape; give one of them")
    return {"in_channels": in_channels}
