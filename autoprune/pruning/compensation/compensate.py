"""The refit of a cut network to the dense one's outputs: one forward pass, layer by layer, without training.

Each layer is refitted when the pass reaches it, so what it reads is what it will read: everything before it is refitted
already. The batch norm behind it follows at once. A layer whose outputs are what they should be is not touched, so only
what the cut has changed changes.

Source: the reconstruction of ThiNet, Luo et al. 2017, arXiv:1707.06342, section 3.2, with inputs of the pruned network
as in AMC, He et al. 2018, arXiv:1802.03494, section 3.4; the targets of sums and the refitted norms are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.models.calling.answers import answer_of
from autoprune.models.calling.tensors import tensors_in
from autoprune.pruning.compensation.dense_answers import (
    DenseAnswers,
    Target,
    exact_products,
    on_place,
    queries_keys_values,
)
from autoprune.pruning.compensation.kept_rows import Lost, kept_along, lost_positions
from autoprune.pruning.compensation.layer_fit import OTHER_POSITIONS, LayerFit, is_rounding
from autoprune.pruning.compensation.norm_behind import refit_norm, scale_and_offset
from autoprune.pruning.compensation.readers import Reader, is_counting_norm, plain_twin
from autoprune.pruning.compensation.ridge import RIDGE
from autoprune.pruning.compensation.rows import sampled
from autoprune.pruning.cut_plan import CutPlan
from autoprune.pruning.layers.attention import SlimMultiheadAttention
from autoprune.pruning.tracing.safe_forward import plain_attention


@dataclass(frozen=True)
class Compensation:
    """What a refit did.

    Attributes:
        refitted: paths of the layers that got other weights, in the order of the pass.
        norms: paths of the batch norms that got other statistics.
        left: path → why a layer was left as it is, though what it reads has changed.
        examples: that were looked at; 0 if they cannot be told apart.
    """

    refitted: tuple[str, ...]
    norms: tuple[str, ...]
    left: Mapping[str, str]
    examples: int


def compensate(
    pruned: nn.Module, answers: DenseAnswers, cut: CutPlan, seed: int = 0, ridge: float = RIDGE
) -> Compensation:
    """Refit what stays of a network so that each layer's output is as near the dense one's as it can be, in place.

    For every layer whose input has changed, with ``A`` the second moments of what it reads now and ``C`` those of that
    with what its output lacks, the weights change by ``(A + λ · mean(diag A) · I)⁻¹ C``. The last layer of a residual
    branch is refitted to what the dense sum was, less what the other summand is now.

    Args:
        pruned: what a cut of the dense network left, on its device; only its weights and batch norms change.
        answers: of the dense network.
        cut: by which it was cut.
        seed: for networks that draw random numbers in eval mode.
        ridge: λ > 0.

    Raises:
        ModelError: if the network does not run, or the cut was made for another one.
    """
    twin = plain_twin(pruned)
    work = _Pass(twin, answers, lost_positions(answers.network, cut), ridge)
    devices = [answers.inputs.device] if answers.inputs.device.type == "cuda" else []
    with plain_attention(), exact_products(), torch.no_grad(), torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed devices that are not put back
        if devices:
            torch.cuda.manual_seed(seed)
        work.run()
        _write_back(twin, pruned, (*work.refitted, *work.norms))
    return Compensation(tuple(work.refitted), tuple(work.norms), work.left, answers.inputs.size or 0)


def _write_back(twin: nn.Module, pruned: nn.Module, paths: tuple[str, ...]) -> None:
    """Copy the tensors of these modules, in the precision that the network has."""
    changed = dict(twin.named_parameters()) | dict(twin.named_buffers())
    for name, tensor in (*pruned.named_parameters(), *pruned.named_buffers()):
        if name.rpartition(".")[0] in paths and tensor.is_floating_point():
            tensor.copy_(changed[name])


@dataclass(eq=False)
class _Pass:
    """One pass over a twin of the pruned network."""

    twin: nn.Module
    answers: DenseAnswers
    lost: Lost
    ridge: float
    refitted: list[str] = field(default_factory=list)
    norms: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    summands: dict[str, Tensor] = field(default_factory=dict)

    def run(self) -> None:
        """Let the pass go through the network, refitting each layer just before it is called."""
        modules = dict(self.twin.named_modules())
        with ExitStack() as hooks:
            for path in self.answers.flow.order:
                if path not in modules or not self._is_wanted(path):
                    continue
                before = partial(self._before, path)
                hooks.callback(modules[path].register_forward_pre_hook(before, with_kwargs=True).remove)
            for path, target in self.answers.targets.items():
                place = next((each for each in target.other if each.module in modules), None)
                if place is not None and path in modules:
                    hooks.callback(on_place(self.twin, place, partial(self._keep_summand, path, target)))
            answer_of(self.twin, self.answers.inputs)

    def _is_wanted(self, path: str) -> bool:
        known = self.answers
        return known.target_of(path) is not None and (path in known.targets or path in known.readers)

    def _keep_summand(self, path: str, target: Target, value: Tensor) -> None:
        self.summands[path] = sampled(value, target.images, target.grid)

    def _before(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        if isinstance(module, SlimMultiheadAttention):
            given = queries_keys_values(args, kwargs)[0]
        else:
            given = tensors_in(args, kwargs)[0]
        if is_counting_norm(module):
            self._refit_norm(path, cast(_BatchNorm, module), given)
        elif path in self.answers.readers:
            self._refit_layer(self.answers.readers[path], module, given)

    def _wanted(self, path: str) -> Tensor | None:
        """Return what the results of a layer or norm should be now: ``(rows, kept channels)``."""
        target = self.answers.targets[path]
        if target.other and path not in self.summands:
            return None
        dense = self.answers.twin.get_submodule(path)
        reader = self.answers.readers.get(path)
        tensor = "running_mean" if is_counting_norm(dense) else reader.weight if reader else "weight"
        kept = kept_along(self.lost, f"{path}.{tensor}".removeprefix("."), 0, target.rows.shape[1])
        rows = target.rows[:, kept.to(target.rows.device)]
        if not target.other:
            return rows
        other = self.summands[path]
        return rows - other if other.shape == rows.shape else None

    def _refit_layer(self, reader: Reader, module: nn.Module, given: Tensor) -> None:
        norm = self.answers.flow.behind.get(reader.path)
        target, wanted = self.answers.target_of(reader.path), self._wanted(norm or reader.path)
        if target is None or wanted is None:
            self.left[reader.path] = "the other summand of its sum is not there any more"
            return
        behind = cast(_BatchNorm, self.twin.get_submodule(norm)) if norm else None
        layer = LayerFit(module, reader.tensor(self.twin), reader.offset(self.twin), behind)
        reason = layer.refit(given, wanted, target.grid, self.ridge)
        if reason:
            self.left[reader.path] = reason
        elif layer.is_changed:
            self.refitted.append(reader.path)

    def _refit_norm(self, path: str, norm: _BatchNorm, given: Tensor) -> None:
        wanted, target = self._wanted(path), self.answers.targets[path]
        rows = sampled(given, target.images, target.grid)
        if wanted is None or wanted.shape != rows.shape:
            self.left[path] = OTHER_POSITIONS
            return
        scale, offset = scale_and_offset(norm)
        errors = (rows * scale + offset - wanted).square().mean(0)
        if not is_rounding(errors, wanted) and refit_norm(norm, given, rows, wanted):
            self.norms.append(path)
