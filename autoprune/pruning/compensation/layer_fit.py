"""The refit of one layer: rows are gathered, the ridge regression is solved, and weight and bias are written."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.pruning.compensation.moments import Moments, MomentSums
from autoprune.pruning.compensation.norm_behind import scale_and_offset
from autoprune.pruning.compensation.ridge import ridge_change
from autoprune.pruning.compensation.rows import Grid, unfolded

UNCHANGED = 1e-9  # a squared error that is this share of the target's variance, or less, is rounding
OTHER_POSITIONS = "its outputs are not those of the dense network, position by position"
_SILENT = 1e-6  # a norm's scale that is this share of its largest passes nothing on


@dataclass(eq=False)
class LayerFit:
    """One layer that is refitted in place.

    Attributes:
        module: as it is called.
        weight: ``(outputs, inputs of a group, …)``.
        bias: ``(outputs,)``, or ``None``.
        behind: the batch norm that reads its output, or ``None``.
        is_changed: whether the weight was written.
    """

    module: nn.Module
    weight: Tensor
    bias: Tensor | None
    behind: _BatchNorm | None
    is_changed: bool = False

    def refit(self, given: Tensor, wanted: Tensor, grid: Grid, ridge: float) -> str:
        """Refit the layer; return why it was left as it is, empty if it was refitted or nothing had changed.

        Args:
            given: what the layer reads.
            wanted: what it, or the norm behind it, should return: ``(rows, outputs)``.
            grid: on which the rows lie.
            ridge: λ of :func:`ridge_change`.
        """
        wanted, passes = self._in_front(wanted)
        moments = self._moments(given, wanted, passes, grid)
        if moments is None:
            return OTHER_POSITIONS
        if is_rounding(moments.errors.flatten(), wanted):
            return ""
        inputs = moments.inputs.shape[1]
        if moments.rows < inputs:
            return f"{moments.rows} rows for the {inputs} inputs of each output; give more images"
        change = ridge_change(moments, ridge)
        if not bool(change.any()):
            return "its second moments are singular or not finite, or no change lessens its error"
        self._write(change, moments)
        return ""

    @property
    def _groups(self) -> int:
        return int(getattr(self.module, "groups", 1))

    def _present(self) -> Tensor:
        """Return the weight as ``(groups, inputs, outputs)``."""
        return self.weight.reshape(self._groups, len(self.weight) // self._groups, -1).transpose(1, 2)

    def _in_front(self, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the layer should return, and for which outputs that is known."""
        if self.behind is None:
            return wanted, wanted.new_ones(wanted.shape[1], dtype=torch.bool)
        scale, offset = scale_and_offset(self.behind)
        passes = scale.abs() > _SILENT * scale.abs().max()
        return (wanted - offset) / torch.where(passes, scale, torch.ones_like(scale)), passes

    def _moments(self, given: Tensor, wanted: Tensor, passes: Tensor, grid: Grid) -> Moments | None:
        """Return the second moments; ``None`` if the rows do not fit."""
        sums, present, done = MomentSums(), self._present(), 0
        targets = wanted.reshape(len(wanted), self._groups, -1).transpose(0, 1)
        known = passes.reshape(self._groups, 1, -1)
        if wanted.shape[1] != len(self.weight):
            return None
        for inputs in unfolded(self.module, given, grid):
            rows = targets[:, done : done + inputs.shape[1]]
            if inputs.shape[1] != rows.shape[1] or inputs.shape[2] != present.shape[1]:
                return None
            outputs = inputs @ present
            if self.bias is not None:
                outputs = outputs + self.bias.reshape(self._groups, 1, -1)
            sums.add(inputs, torch.where(known, rows - outputs, torch.zeros_like(rows)))
            done += inputs.shape[1]
        is_centred = self.bias is not None or self.behind is not None
        return sums.moments(is_centred) if done == len(wanted) else None

    def _write(self, change: Tensor, moments: Moments) -> None:
        present = self._present()
        self.weight.copy_((present + change.to(present)).transpose(1, 2).reshape(self.weight.shape))
        if self.bias is not None:
            shift = moments.mean_error - (moments.mean_input.unsqueeze(1) @ change).squeeze(1)
            self.bias.add_(torch.nan_to_num(shift, posinf=0, neginf=0).flatten().to(self.bias))
        self.is_changed = True


def is_rounding(errors: Tensor, wanted: Tensor) -> bool:
    """Return whether errors are no more than what rounding leaves.

    Args:
        errors: mean squared error of each output, ``(outputs,)``.
        wanted: the target, ``(rows, outputs)``.
    """
    variance = (wanted - wanted.mean(0)).square().mean(0).sum()
    return bool(errors.sum().cpu() <= UNCHANGED * variance.cpu())
