"""The optimal brain surgeon for channels: what their readers could not make up for, when they go one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.channel_groups import PruningGroup
from autoprune.models.calling.inputs import Inputs
from autoprune.models.calling.tensors import map_tensors
from autoprune.pruning.channel_positions import part_at
from autoprune.pruning.compensation.readers import Reader, plain_twin, readers_of
from autoprune.pruning.compensation.second_moments import second_moments
from autoprune.pruning.importance import (
    Calibration,
    backward_in_eval,
    examples_in,
    scores_jointly,
    uses_data,
    uses_moments,
)
from autoprune.pruning.input_moments import InputMoments
from autoprune.pruning.layers.kinds import axes_of

_DAMPING = 0.01  # of the second moments, as a share of their mean
_TIE = 1e-6  # by which a channel that goes later scores higher than one of the same rise


@scores_jointly
@uses_data
@uses_moments
def obs(groups: Sequence[PruningGroup], network: nn.Module, calibration: Calibration) -> Mapping[str, Tensor]:
    """Estimate the rise of the loss when a channel goes and the layers that read it are refitted by least squares.

    With ``W`` a reader's weight, ``H`` the damped second moments of its inputs and ``s`` the mean squared slope of the
    loss at each output, a channel ``c`` costs ``½ Σ_readers Σ_outputs s (W_c (H⁻¹_cc)⁻¹ W_cᵀ)``. The cheapest goes,
    ``W`` and ``H⁻¹`` are updated for the others, and so on: the score is the cost of a channel when its turn comes, and
    at least that of those before it. It says which channels of a group go, and never how many. Groups with a reader
    whose weights cannot be refitted, such as a recurrent layer, are left out.

    Source: Hassibi et al. 1993, Optimal Brain Surgeon and General Network Pruning, eqs. 5 and 6; layer by layer and in
        blocks as in Frantar et al. 2022, Optimal Brain Compression, arXiv:2208.11580, section 4.
    """
    twin = plain_twin(network)
    calibration = replace(calibration, batches=[(map_tensors(given, _single), y) for given, y in calibration.batches])
    readers, _ = readers_of(twin)
    columns = {group.name: found for group in groups if (found := _columns(group, network, readers))}
    wanted = {path: readers[path] for found in columns.values() for path in found}
    if not wanted:
        return {}
    unknown = {path: reader for path, reader in wanted.items() if path not in calibration.moments}
    seen = [Inputs.of(inputs) for inputs, _ in calibration.batches]
    moments = {**calibration.moments, **(second_moments(twin, unknown, seen) if unknown else {})}
    slopes = _squared_slopes(twin, wanted, calibration)
    parts = {path: _Part.of(readers[path], twin, moments[path], slopes[path]) for path in wanted if path in moments}
    return {
        name: _order([parts[path].restricted(places) for path, places in found.items()])
        for name, found in columns.items()
        if found.keys() <= parts.keys()
    }


def _single(tensor: Tensor) -> Tensor:
    """Return real numbers in float32, as the twin computes, and others as they are."""
    return tensor.float() if tensor.is_floating_point() else tensor


def _columns(group: PruningGroup, network: nn.Module, readers: Mapping[str, Reader]) -> dict[str, Tensor]:
    """Return reader → which of its input channels each channel of a group is; nothing if a reader is not known.

    The tensors have shape ``(num_channels, width)``.
    """
    found = dict[str, Tensor]()
    for member in group.members:
        module = part_at(network, member.module)
        for axis in axes_of(module, member.side) if isinstance(module, nn.Module) else ():
            if axis.produces:
                continue
            path, _, leaf = f"{member.module}.{axis.tensor}".removeprefix(".").rpartition(".")
            is_known = path in readers and leaf == readers[path].weight == "weight" and axis.dim == 1
            if not is_known or axis.period is not None or path in found:
                return {}
            found[path] = torch.tensor([axis.positions(member.of(channel)) for channel in range(group.num_channels)])
    return found


def _squared_slopes(twin: nn.Module, readers: Mapping[str, Reader], calibration: Calibration) -> dict[str, Tensor]:
    """Return reader → the squared slopes of an example's loss at each output, summed over positions: ``(outputs,)``."""
    totals = {path: torch.zeros(len(reader.tensor(twin)), dtype=torch.float64) for path, reader in readers.items()}
    outputs: list[tuple[str, Tensor]] = []
    examples = 0
    for parameter in twin.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    with ExitStack() as hooks:
        for path in readers:
            hook = _kept(outputs, path)
            hooks.callback(twin.get_submodule(path).register_forward_hook(hook).remove)
        for inputs, labels in calibration.batches:
            outputs.clear()
            count = examples_in(inputs)
            examples += count
            with backward_in_eval(twin):
                loss = calibration.loss_of(twin, inputs, labels)
                made = [each for _, each in outputs]
                slopes = torch.autograd.grad(loss, made, allow_unused=True) if made else ()
            for (path, _), slope in zip(outputs, slopes, strict=True):
                if slope is not None:  # the loss is a mean: an example's own slope is N times as large
                    rows = slope.movedim(_channel_dim(twin, path, slope), -1).reshape(-1, len(totals[path]))
                    totals[path] += rows.double().square().sum(0).cpu() * count**2
    return {path: total / max(1, examples) for path, total in totals.items()}


def _kept(outputs: list[tuple[str, Tensor]], path: str) -> Callable[[nn.Module, Any, Any], Tensor]:
    def hook(module: nn.Module, args: Any, output: Any) -> Tensor:
        outputs.append((path, output.clone()))  # what comes next may write into it
        return outputs[-1][1]

    return hook


def _channel_dim(twin: nn.Module, path: str, slope: Tensor) -> int:
    return -1 if isinstance(twin.get_submodule(path), nn.Linear) or slope.dim() < 3 else 1


@dataclass
class _Part:
    """One reader: its weight ``(outputs, inputs)``, the inverse of its second moments, and its slopes, in float64."""

    weight: Tensor
    inverse: Tensor
    slopes: Tensor
    places: Tensor  # (channels, positions of each)

    @classmethod
    def of(cls, reader: Reader, twin: nn.Module, moments: InputMoments, slopes: Tensor) -> _Part:
        weight = reader.tensor(twin).detach().cpu().double()
        second = moments.covariance[0].double()
        damping = _DAMPING * second.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
        inverse = torch.linalg.inv(second + damping * torch.eye(len(second), dtype=torch.float64))
        each = weight[0, 0].numel()  # positions of one input channel
        places = torch.arange(weight.shape[1] * each).reshape(weight.shape[1], each)
        return cls(weight.flatten(1), inverse, slopes, places)

    def restricted(self, channels: Tensor) -> _Part:
        """Return a part of its own for the channels of one group."""
        return _Part(self.weight.clone(), self.inverse.clone(), self.slopes, self.places[channels].flatten(1))

    def costs(self) -> Tensor:
        """Return what it costs when each channel goes: ``(channels,)``."""
        blocks = self.inverse[self.places.unsqueeze(2), self.places.unsqueeze(1)]  # (C, b, b)
        weight = self.weight[:, self.places].permute(1, 2, 0)  # (C, b, outputs)
        solved = torch.linalg.solve(blocks, weight)
        costs: Tensor = ((weight * solved).sum(1) * self.slopes).sum(1) / 2
        return costs

    def remove(self, channel: int) -> None:
        """Take a channel away, and update what is left for it."""
        gone = self.places[channel]
        rows = self.inverse[gone]
        solved = torch.linalg.solve(self.inverse[gone][:, gone], rows)
        self.weight -= self.weight[:, gone] @ solved
        self.inverse -= rows.T @ solved
        self.weight[:, gone] = 0
        self.inverse[gone] = 0
        self.inverse[:, gone] = 0
        self.inverse[gone, gone] = 1


def _order(parts: Sequence[_Part]) -> Tensor:
    """Return the cost of each channel when its turn comes, no less than before: ``(channels,)``."""
    count = len(parts[0].places)
    scores, left, highest = torch.zeros(count, dtype=torch.float64), set(range(count)), 0.0
    for turn in range(count):
        costs = torch.stack([part.costs() for part in parts]).sum(0)
        channel = min(left, key=lambda each: (float(costs[each]), each))
        highest = max(highest, float(costs[channel]))
        scores[channel] = highest * (1 + _TIE * turn) + torch.finfo(torch.float32).tiny * turn
        left.remove(channel)
        for part in parts:
            part.remove(channel)
    return scores
