"""Masks: single weights set to zero and kept there, on the network that channel pruning left; shapes stay dense.

``build_masks.py`` makes them for a policy. :meth:`Masks.enforce` holds a network to its zeros during training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from autoprune.errors import ModelError


@dataclass(frozen=True, eq=False)
class Masks:
    """Which weights of a network stay, and which are held at zero.

    Attributes:
        tensors: parameter path → bool tensor of the parameter's shape on the CPU, ``True`` for weights that stay.
        left_dense: layer path → why the mask of the policy could not be put on it.
    """

    tensors: Mapping[str, Tensor]
    left_dense: Mapping[str, str] = field(default_factory=dict)

    def apply(self, network: nn.Module) -> None:
        """Set the masked weights of a network to zero, in place.

        Raises:
            ModelError: if the network has no such weights, or of other shapes.
        """
        _zero(self._removed(network))

    def enforce(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> RemovableHandle:
        """Set the masked weights to zero now and after every step of an optimizer.

        Momentum and weight decay are not restrained: what they write is zero again before the next forward pass.
        Call it once the network is on its device.

        Returns:
            a handle; its ``remove()`` ends the enforcement and leaves the zeros.

        Raises:
            ModelError: as :meth:`apply`.
        """
        removed = self._removed(network)
        _zero(removed)
        return optimizer.register_step_post_hook(lambda *_: _zero(removed))

    def zeros(self) -> dict[str, int]:
        """Return parameter path → how many of its weights are zero."""
        return {path: int((~stays).sum()) for path, stays in self.tensors.items()}

    def nonzero(self, network: nn.Module) -> int:
        """Return how many parameters a network has besides the masked ones."""
        return sum(parameter.numel() for parameter in network.parameters()) - sum(self.zeros().values())

    def to_state(self) -> dict[str, Tensor]:
        """Return parameter path → bool tensor, contiguous, as safetensors takes it; :meth:`from_state` reads it."""
        return {path: stays.contiguous().clone() for path, stays in self.tensors.items()}

    @classmethod
    def of_zeros(cls, network: nn.Module, layers: Iterable[str]) -> Masks:
        """Return the masks under which zero weights of some layers stay zero; layers the network lacks are skipped."""
        parameters = dict(network.named_parameters())
        paths = [path for path in (f"{layer}.weight" for layer in layers) if path in parameters]
        return cls({path: (parameters[path].detach() != 0).cpu() for path in paths})

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], left_dense: Mapping[str, str] | None = None) -> Masks:
        """Return the masks that :meth:`to_state` wrote, as bool or as bytes of 0 and 1.

        Raises:
            ModelError: if a tensor is no mask.
        """
        for path, stays in state.items():
            if stays.dtype not in (torch.bool, torch.uint8):
                raise ModelError(f"the mask of {path!r} is {stays.dtype}; expected bool or uint8 of 0 and 1")
        return cls({path: stays.bool().cpu() for path, stays in state.items()}, dict(left_dense or {}))

    def _removed(self, network: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        """Return the parameters, each with a bool tensor of what has to be zero in it, on its device."""
        parameters = dict(network.named_parameters())
        for path, stays in self.tensors.items():
            if path not in parameters or parameters[path].shape != stays.shape:
                given = tuple(parameters[path].shape) if path in parameters else "no such parameter"
                raise ModelError(
                    f"the mask of {path!r} has shape {tuple(stays.shape)} and the network {given}; "
                    f"masks belong to the network they were built on: build them again after pruning channels"
                )
        return [(parameters[path], ~stays.to(parameters[path].device)) for path, stays in self.tensors.items()]


@torch.no_grad()
def _zero(removed: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
    for parameter, gone in removed:
        parameter.masked_fill_(gone, 0)  # not a product: that keeps NaN, and makes negative zeros
