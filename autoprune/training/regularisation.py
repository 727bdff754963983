"""Regularisation before pruning: :func:`train_regularised` trains the dense network further, under a penalty.

The penalty draws channels to zero while the loss protects those that matter, so that little is lost when the weak ones
go. The loop is that of ``loop.py``. Which weights make a channel comes in as plain data, :data:`ChannelTensors`,
because this package does not know how channels are coupled.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.tasks.task import Batch, DataTask
from autoprune.training.learning_rate import learning_rate
from autoprune.training.loop import TrainingRun, TrainReport, train
from autoprune.training.loss import LossFunction, dense_loss
from autoprune.training.trainable import NORMS

Method: TypeAlias = Literal["bn_l1", "group_lasso"]

ChannelTensors: TypeAlias = Mapping[str, Sequence[tuple[str, int, Tensor]]]
"""Group → where its channels are produced: (path of a parameter, dimension, index along it), the index an int64
tensor of shape ``(num_channels, positions)``. No two groups share a number."""

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_NEAR_ZERO = 0.01  # of the median before; such a weak channel is as good as gone


@dataclass(frozen=True)
class Penalty:
    """What draws channels to zero, and how strongly.

    Attributes:
        method: ``"bn_l1"``, the scales of norms, or ``"group_lasso"``, all weights that produce a channel.
        strength: λ > 0.
    """

    method: Method
    strength: float


def train_regularised(network: nn.Module, run: TrainingRun, penalty: Penalty, tensors: ChannelTensors) -> TrainReport:
    """Train a network under a penalty, in place.

    ``bn_l1`` adds λ Σ|γ| over the scales γ of all norms to the loss and follows its subgradient, sign(γ), as network
    slimming does. ``group_lasso`` adds λ Σ‖w_c‖₂ over the channels c of all groups, w_c being all numbers that produce
    channel c; see :func:`shrink_channels`.

    Args:
        network: changed in place, and left in training mode.
        run: data, settings, runtime and seed.
        penalty: what is added to the loss.
        tensors: where the channels are produced; ``bn_l1`` does not look at them.

    Raises:
        ModelError: if there is nothing to penalise.
        NonFiniteError: if the loss becomes NaN or infinite; names the step.

    Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017,
    arXiv:1708.06519, eq. 1; Wen et al., "Learning Structured Sparsity in Deep Neural Networks", NeurIPS 2016,
    arXiv:1608.03665, eq. 3, over coupled layers as Fang et al., "DepGraph", CVPR 2023, arXiv:2301.12900, section 3.3.
    """
    run.runtime.place(network)
    if penalty.method == "bn_l1":
        return train(network, run, _loss_with_scales(run.task, norm_scales(network), penalty.strength))
    places = _places(network, tensors)

    def shrink(step: int, total: int) -> None:
        shrink_channels(places, learning_rate(step - 1, total, run.settings.lr) * penalty.strength)

    return train(network, run, dense_loss(run.task), on_step=shrink)


def _loss_with_scales(task: DataTask, scales: Sequence[Tensor], strength: float) -> LossFunction:
    """Return the dense loss plus λ Σ|γ|."""

    def loss(output: Any, batch: Batch, answers: Any) -> Tensor:
        return task.dense_loss(output, batch) + strength * _flat(scales).abs().sum()  # eq. 1

    return loss


def norm_scales(network: nn.Module) -> list[nn.Parameter]:
    """Return the scales γ of all norms.

    Raises:
        ModelError: if there are none.
    """
    weights = (getattr(module, "weight", None) for module in network.modules() if isinstance(module, NORMS))
    scales = [weight for weight in weights if isinstance(weight, nn.Parameter)]
    if not scales:
        raise ModelError("no norm of this network has scales, so bn_l1 has nothing to penalise; use group_lasso")
    return scales


def _flat(scales: Sequence[Tensor]) -> Tensor:
    return torch.cat([scale.flatten() for scale in scales])


@dataclass(frozen=True)
class _Place:
    """Where one parameter produces channels of one group; the index has shape ``(num_channels, positions)``."""

    parameter: nn.Parameter
    dim: int
    index: Tensor


_Places: TypeAlias = Mapping[str, Sequence[_Place]]


def _places(network: nn.Module, tensors: ChannelTensors) -> dict[str, list[_Place]]:
    """Return group → the parameters themselves, each with its index on its device.

    Raises:
        ModelError: if a parameter is missing, or there is no group.
    """
    parameters = dict(network.named_parameters(remove_duplicate=False))
    missing = [path for where in tensors.values() for path, _, _ in where if path not in parameters]
    if missing or not any(tensors.values()):
        what = f"the network has no parameter {missing[0]!r}" if missing else "the network has no group of channels"
        raise ModelError(f"{what}, so group_lasso has nothing to penalise; use bn_l1, or none")
    return {
        group: [_Place(parameters[path], dim, index.to(parameters[path].device)) for path, dim, index in where]
        for group, where in tensors.items()
        if where
    }


@torch.no_grad()
def shrink_channels(places: _Places, threshold: float) -> None:
    """Subtract ``threshold`` from the norm of every channel, in place; shorter channels become exactly zero.

    The group lasso is not differentiable where it matters, at zero. So after each step of the loss with rate η comes
    its proximal step, w_c ← w_c · max(0, 1 − η λ / ‖w_c‖₂). As no two channels share a number, this is the penalty's
    exact proximal operator.

    Args:
        places: group → where its channels are produced.
        threshold: η λ.

    Source: Parikh and Boyd, "Proximal Algorithms", 2014, section 6.5.4 (block soft thresholding).
    """
    for where in places.values():
        factors = (1 - threshold / _norms(where).clamp(min=torch.finfo(torch.float32).tiny)).clamp(min=0)
        for place in where:
            size = place.parameter.shape[place.dim]
            rows = torch.ones(size, dtype=place.parameter.dtype, device=place.parameter.device)
            rows[place.index] = factors.to(rows.dtype).unsqueeze(1).expand(place.index.shape)
            place.parameter.mul_(rows.view([-1 if d == place.dim else 1 for d in range(place.parameter.dim())]))


def _norms(where: Sequence[_Place]) -> Tensor:
    """Return ‖w_c‖₂ of every channel, float32, ``(num_channels,)``."""
    squares = []
    for place in where:
        rest = [d for d in range(place.parameter.dim()) if d != place.dim]
        rows = place.parameter.detach().float().square()
        squares.append((rows.sum(rest) if rest else rows)[place.index].sum(1))
    return functools.reduce(torch.add, squares).sqrt()


@torch.no_grad()
def channel_strengths(network: nn.Module, method: Method, tensors: ChannelTensors) -> Tensor:
    """Return the sizes that a method draws to zero, float32 on the CPU: |γ| of all norms, or ‖w_c‖₂ of all channels.

    Raises:
        ModelError: if there is nothing to penalise.
    """
    if method == "bn_l1":
        return _flat(norm_scales(network)).abs().float().cpu()
    return torch.cat([_norms(where).cpu() for where in _places(network, tensors).values()])


def describe_regularisation(before: Tensor, after: Tensor) -> dict[str, object]:
    """Return how the strengths of all channels changed, as plain data.

    Args:
        before: of the dense network, as :func:`channel_strengths` returns them.
        after: the same of the regularised network.

    Returns:
        ``channels``: how many; ``quantiles``: which; ``before`` and ``after``: the strengths at these; ``near_zero``:
        the share of channels that are now below a hundredth of the median before.

    >>> describe_regularisation(torch.ones(4), torch.tensor([0.0, 0.5, 1.0, 1.0]))["near_zero"]
    0.25
    """
    return {
        "channels": after.numel(),
        "quantiles": list(QUANTILES),
        "before": _quantiles(before),
        "after": _quantiles(after),
        "near_zero": round(float((after < _NEAR_ZERO * before.median()).double().mean()), 6),
    }


def _quantiles(values: Tensor) -> list[float]:
    """Return the quantiles of values, with linear interpolation, to six digits."""
    levels = torch.tensor(QUANTILES, dtype=torch.float64)
    return [float(f"{value:.6g}") for value in torch.quantile(values.double(), levels).tolist()]
