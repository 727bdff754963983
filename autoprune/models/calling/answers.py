"""What a network answers: the tensors of it, and whether two answers are the same but for roundings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.models.calling.inputs import Inputs
from autoprune.models.calling.tensors import tensors_in


def answer_of(network: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Return the tensors that a network answers with, whatever holds them, without gradients.

    Raises:
        ModelError: if it does not run, or returns no tensor.
    """
    try:
        with torch.no_grad():
            output: Any = inputs.run(network)
    except Exception as error:  # the user's own network may raise anything
        raise ModelError(f"the network does not run on {inputs}: {type(error).__name__}: {error}") from error
    answers = tensors_in(output)
    if not answers:
        raise ModelError(
            f"the network returns a {type(output).__name__} without a tensor in eval mode; expected a tensor, or "
            f"tensors in tuples, lists, dictionaries or dataclasses"
        )
    return answers


def are_of_one_shape(answers: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Return whether two answers have as many tensors, of the same shapes."""
    return [each.shape for each in answers] == [each.shape for each in others]


def difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference between two tensors of one shape; what is the same infinity or NaN in both is 0.

    Tensors that are not of real numbers differ by 0 or infinitely.
    """
    if one.is_complex():
        one, other = torch.view_as_real(one), torch.view_as_real(other)
    if not one.is_floating_point():
        return 0.0 if torch.equal(one, other) else float("inf")
    same = (one == other) | (one.isnan() & other.isnan())
    apart = torch.where(same, torch.zeros_like(one), (one - other).abs())
    return float(apart.max()) if apart.numel() else 0.0


def magnitude(tensor: Tensor) -> float:
    """Return the largest finite absolute value; 0 of what is empty or holds no real numbers."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if not tensor.is_floating_point():
        return 0.0
    finite = tensor[tensor.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0
