"""The specimen that groups are proved on: a copy of a network in which no channel is silent, and what it answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.models.calling.answers import answer_of
from autoprune.models.calling.inputs import Inputs
from autoprune.models.copying.copy_network import copy_network
from autoprune.pruning.faults import where
from autoprune.pruning.prove_groups import Specimen, training_answers


def specimen_of(network: nn.Module, example: Inputs) -> Specimen:
    """Return a copy in which no channel is silent, its input, and its outputs.

    Tensors of one value, such as a scale of zero before training, are drawn anew: a cut behind them would change
    nothing and prove nothing. In float64, if the network runs in it, rounding does not hide small changes either.
    """
    probe, example = copy_network(network).cpu().float().eval(), example.on("cpu").at_least_two()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in probe.parameters():
            if parameter.is_floating_point() and parameter.numel() > 1 and parameter.min() == parameter.max():
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
    example = example.real_as(torch.float32)
    expected = answer_of(probe, example)
    try:
        wide, same = copy_network(probe).double(), example.real_as(torch.float64)
        probe, example, expected = wide, same, answer_of(wide, same)
    except ModelError:  # it makes float32 tensors of its own
        pass
    return Specimen(probe, example, expected, *_in_training(probe, example))


def _in_training(network: nn.Module, example: Inputs) -> tuple[list[Tensor], bool]:
    """Return what a network answers in training mode, and whether it draws random numbers there.

    Raises:
        ModelError: if it does not run.
    """
    try:
        return training_answers(copy_network(network), example, 0)
    except Exception as error:  # the user's own network may raise anything
        raise ModelError(
            f"the network runs in evaluation mode, and not in training mode, on {example}: "
            f"{type(error).__name__}: {where(error)}"
        ) from error
