"""Compensation without any forward pass: from the second moments of what the dense network's layers read.

It takes what a layer reads for what is left of the dense input, as if nothing before the layer had changed. That holds
for a cut of one group, and is near enough to compare cuts by; ``compensate.py`` does it exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.models.calling.inputs import Inputs
from autoprune.pruning.compensation.kept_rows import Lost, kept_along, lost_positions
from autoprune.pruning.compensation.layer_flow import watch_flow
from autoprune.pruning.compensation.norm_behind import scale_and_offset
from autoprune.pruning.compensation.readers import Reader, plain_twin, readers_of
from autoprune.pruning.compensation.ridge import RIDGE
from autoprune.pruning.compensation.second_moments import second_moments
from autoprune.pruning.cut_plan import CutPlan
from autoprune.pruning.input_moments import InputMoments
from autoprune.pruning.tracing.safe_forward import plain_attention


@dataclass(frozen=True)
class DenseMoments:
    """What the closed form needs of one dense network.

    Attributes:
        network: the dense network.
        twin: of it, in float32.
        readers: path → layer.
        behind: layer → batch norm right behind it.
        moments: path → what the layer reads.
    """

    network: nn.Module
    twin: nn.Module
    readers: Mapping[str, Reader]
    behind: Mapping[str, str]
    moments: Mapping[str, InputMoments]


@torch.no_grad()
def refit_closed_form(pruned: nn.Module, dense: DenseMoments, cut: CutPlan, ridge: float = RIDGE) -> tuple[str, ...]:
    """Refit every layer that lost inputs, and the norm behind it, in place; return the paths of these layers.

    With ``G`` the covariance of the dense inputs and ``k`` those that stay, the weights change by
    ``(G_kk + λ · mean(diag G_kk) · I)⁻¹ G_kg W_g``, for the inputs ``g`` that go. A layer whose solution is not finite
    is left as it is.

    Args:
        pruned: what a cut left of the dense network; of the same module paths, on any device.
        dense: of the network that was cut.
        cut: by which it was cut.
        ridge: λ > 0.
    """
    lost, present = lost_positions(dense.network, cut), dict(pruned.named_modules())
    refitted = []
    for path, moments in dense.moments.items():
        reader = dense.readers[path]
        if path in present and (f"{path}.{reader.weight}", 1) in lost:
            fit = _fit(dense, reader, moments, lost, ridge)
            if fit is not None and _write(present, dense, reader, fit):
                refitted.append(path)
    return tuple(refitted)


@dataclass(frozen=True)
class _Fit:
    """A solution, in float64: the weight as ``(G, K, O)``, and what comes of it."""

    weight: Tensor
    mean: Tensor  # of the output without its bias, (outputs,)
    variance: Tensor
    dense_mean: Tensor
    shared: Tensor  # covariance with the dense output
    kept: Tensor


def _fit(dense: DenseMoments, reader: Reader, moments: InputMoments, lost: Lost, ridge: float) -> _Fit | None:
    whole = reader.tensor(dense.twin).cpu()
    groups = moments.mean.shape[0]
    rows = kept_along(lost, f"{reader.path}.{reader.weight}", 0, len(whole))
    columns = kept_along(lost, f"{reader.path}.{reader.weight}", 1, whole.shape[1])
    if len(rows) % groups or (groups > 1 and len(rows) != len(whole)):
        return None  # whole groups went
    weight = whole[rows].double().reshape(groups, len(rows) // groups, -1).transpose(1, 2)  # (G, K, O)
    inside = torch.arange(weight.shape[1]).reshape(whole.shape[1], -1)
    kept = inside[columns].flatten()
    gone = torch.ones(weight.shape[1], dtype=torch.bool)
    gone[kept] = False
    among = moments.covariance[:, kept]
    inner, others = among[:, :, kept].double(), among[:, :, gone].double()
    if not reader.bias and reader.path not in dense.behind:  # nothing takes up a shift of the mean
        mean = moments.mean
        inner = inner + mean[:, kept].unsqueeze(2) * mean[:, kept].unsqueeze(1)
        others = others + mean[:, kept].unsqueeze(2) * mean[:, gone].unsqueeze(1)
    cross = others @ weight[:, gone]
    scale = inner.diagonal(dim1=1, dim2=2).mean(1)
    factor, failed = torch.linalg.cholesky_ex(inner + ridge * scale[:, None, None] * torch.eye(len(kept)).double())
    change = torch.cholesky_solve(cross, factor)
    if bool(failed.any()) or not bool(torch.isfinite(change).all()):
        return None
    fitted = weight[:, kept] + change
    seen = inner @ weight[:, kept] + cross  # of the kept inputs with the dense outputs
    return _Fit(
        weight=fitted,
        mean=(moments.mean[:, kept].unsqueeze(1) @ fitted).flatten(),
        variance=(fitted * (inner @ fitted)).sum(1).flatten(),
        dense_mean=(moments.mean.unsqueeze(1) @ weight).flatten(),
        shared=(fitted * seen).sum(1).flatten(),
        kept=rows,
    )


def _write(present: Mapping[str, nn.Module], dense: DenseMoments, reader: Reader, fit: _Fit) -> bool:
    """Write a solution into the pruned network, and return whether it fits."""
    module = present[reader.path]
    weight = cast(Tensor, module.get_parameter(reader.weight))
    if weight.numel() != fit.weight.numel() or len(weight) != len(fit.kept):
        return False
    weight.copy_(fit.weight.transpose(1, 2).reshape(weight.shape))
    shift = fit.dense_mean - fit.mean
    if reader.bias:
        module.get_parameter(reader.bias).add_(shift.to(module.get_parameter(reader.bias)))
        shift = torch.zeros_like(shift)
    norm = dense.behind.get(reader.path)
    if norm is not None and norm in present:
        _write_norm(cast(_BatchNorm, present[norm]), cast(_BatchNorm, dense.twin.get_submodule(norm)), fit, shift)
    return True


def _write_norm(norm: _BatchNorm, whole: _BatchNorm, fit: _Fit, shift: Tensor) -> None:
    """Give the norm behind a layer the statistics of its outputs, and the line nearest to what the dense one returns.

    The mean of the outputs is what the dense running mean is, less what the refit has shifted; so the dense network's
    own mismatch between its statistics and its inputs stays what it was.
    """
    if norm.running_mean is None or norm.running_var is None or whole.running_mean is None:
        return
    scale, _ = scale_and_offset(whole)
    scale = scale.cpu().double()[fit.kept]
    deviation = (fit.variance + norm.eps).sqrt()
    norm.running_mean.sub_(shift.to(norm.running_mean))
    norm.running_var.copy_(fit.variance)
    if norm.affine:
        norm.weight.copy_(scale * fit.shared / deviation)


def dense_moments(
    network: nn.Module, batches: Sequence[Inputs], known: Mapping[str, InputMoments] | None = None
) -> DenseMoments:
    """Return what the closed form needs of a network, from one forward pass over calibration examples.

    Args:
        network: the dense network, in any mode; not touched.
        batches: at least one, on its device; where the moments are known, the first one does.
        known: path → moments of the same network, if they were measured before.

    Raises:
        ModelError: if the network does not run.
    """
    twin, batches = plain_twin(network), [batch.real_as(torch.float32) for batch in batches]
    readers, left = readers_of(twin)
    packed = [path for path in readers if readers[path].weight != "weight"]
    layers = [path for path in (*readers, *left) if path not in packed]
    with plain_attention():
        flow = watch_flow(twin, layers, packed, batches[0].first(2))
    once = {path: reader for path, reader in readers.items() if path in flow.order}
    return DenseMoments(network, twin, once, flow.behind, known or second_moments(twin, once, batches))
