"""Importance scores: what a criterion is, and the one pass in which all criteria score all groups.

A criterion is a function ``(group, network, calibration) -> scores`` with one score per channel, larger = keep. Marks
declare what else it needs: :func:`uses_data`, :func:`uses_gradients`, :func:`uses_seed`. One that is cheaper for all
groups at once is marked with :func:`scores_jointly`. A criterion that makes no sense for a group raises
:class:`NotApplicable`. The criteria themselves live in ``criteria/``; ``autoprune/testing.py`` checks your own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.core.builtin_names import IMPORTANCES
from autoprune.core.channel_groups import PruningGroup
from autoprune.core.user_code import in_user_code
from autoprune.errors import AutopruneError, ModelError
from autoprune.models.calling.inputs import Inputs
from autoprune.models.copying.copy_network import copy_network
from autoprune.pruning.input_moments import InputMoments


@dataclass(frozen=True)
class Calibration:
    """What a criterion may look at besides the weights.

    Attributes:
        batches: (inputs, labels) of the training split, on the network's device; never of validation. Inputs are what
            :meth:`Inputs.of` takes: a tensor, a tuple of arguments, a dictionary of them by name; labels are what the
            loss takes.
        seed: for criteria that draw random numbers.
        input_shape: shape of one input without the batch, for criteria that need a shape and no data; ``None`` to
            take it from the first batch.
        loss: (what the network returns, labels) → mean loss over a batch, a scalar.
        loss_on: (network, labels) → the same, in the place of ``loss``, where the labels say all that the network gets.
        moments: layer → second moments of what it reads, where they are known from other training examples.
    """

    batches: Sequence[tuple[Any, Any]] = ()
    seed: int = 0
    input_shape: tuple[int, ...] | None = None
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy
    loss_on: Callable[[nn.Module, Any], Tensor] | None = None
    moments: Mapping[str, InputMoments] = field(default_factory=dict)

    @property
    def is_double(self) -> bool:
        """Return whether the batches are of a network that computes in float64."""
        first = Inputs.of(self.batches[0][0]).tensors if self.batches else []
        return any(tensor.dtype == torch.float64 for tensor in first)

    def loss_of(self, network: nn.Module, inputs: Any, labels: Any) -> Tensor:
        """Return the loss of a network on one batch."""
        if self.loss_on is not None:
            return self.loss_on(network, labels)
        return self.loss(Inputs.of(inputs).run(network), labels)


def examples_in(inputs: Any) -> int:
    """Return the number of examples of a batch; one where they cannot be told apart."""
    return Inputs.of(inputs).size or 1


class GroupCriterion(Protocol):
    """A criterion that scores the channels of one group."""

    def __call__(self, group: PruningGroup, network: nn.Module, calibration: Calibration, /) -> Tensor:
        """Return scores of shape ``(num_channels,)``, finite, larger = keep.

        Raises:
            NotApplicable: if the criterion makes no sense for this group.
        """
        ...  # pragma: no cover


class JointCriterion(Protocol):
    """A criterion that scores the channels of all groups in one go; marked with :func:`scores_jointly`."""

    def __call__(
        self, groups: Sequence[PruningGroup], network: nn.Module, calibration: Calibration, /
    ) -> Mapping[str, Tensor]:
        """Return group name → scores as :class:`GroupCriterion` does, without groups for which it makes no sense."""
        ...  # pragma: no cover


Criterion: TypeAlias = GroupCriterion | JointCriterion
ImportanceScores: TypeAlias = Mapping[str, Mapping[str, Tensor]]
"""Criterion → group → scores of shape ``(num_channels,)``, larger = keep."""


class NotApplicable(AutopruneError):
    """A criterion makes no sense for a group; the message holds the reason."""


_F = TypeVar("_F", bound=Callable[..., Any])


def uses_gradients(criterion: _F) -> _F:
    """Mark a criterion that reads ``parameter.grad`` of the loss; called once per batch, its scores are averaged."""
    return _marked(criterion, "uses_gradients")


def uses_data(criterion: _F) -> _F:
    """Mark a criterion that looks at the calibration batches itself; called once, with all of them."""
    return _marked(criterion, "uses_data")


def uses_seed(criterion: _F) -> _F:
    """Mark a criterion that draws random numbers from ``calibration.seed``, whatever the weights are."""
    return _marked(criterion, "uses_seed")


def uses_moments(criterion: _F) -> _F:
    """Mark a criterion that needs second moments of what layers read, and takes those of the calibration."""
    return _marked(criterion, "uses_moments")


def scores_jointly(criterion: _F) -> _F:
    """Mark a criterion of the form :class:`JointCriterion`."""
    return _marked(criterion, "scores_jointly")


def _marked(criterion: _F, mark: str) -> _F:
    setattr(criterion, mark, True)
    return criterion


def has_mark(criterion: Criterion, mark: str) -> bool:
    """Return whether a criterion carries one of the marks above, by name."""
    return bool(getattr(criterion, mark, False))


def score_groups(
    network: nn.Module, groups: Sequence[PruningGroup], names: Iterable[str], calibration: Calibration
) -> dict[str, dict[str, Tensor]]:
    """Score every group by every criterion, once; the network is not touched.

    Args:
        network: the dense network; scored in eval mode, and in float32 unless the batches are float64.
        groups: what to score.
        names: criteria, as the registry knows them.
        calibration: batches for the criteria that need data.

    Returns:
        criterion → group name → float32 scores of shape ``(num_channels,)`` on the CPU; a group that a
        criterion does not apply to is missing from it.

    Raises:
        UnknownNameError: if a criterion is unknown.
        ModelError: if a criterion needs data and there is none, fails, or returns scores of a wrong shape or that
            are not finite.
    """
    return score_by({name: IMPORTANCES.get(name) for name in names}, network, groups, calibration)


def score_by(
    criteria: Mapping[str, Criterion], network: nn.Module, groups: Sequence[PruningGroup], calibration: Calibration
) -> dict[str, dict[str, Tensor]]:
    """Score as :func:`score_groups` does, by the criteria themselves: name → criterion."""
    need_data = [name for name, c in criteria.items() if has_mark(c, "uses_data") or has_mark(c, "uses_gradients")]
    if need_data and not calibration.batches:
        raise ModelError(
            f"the importance criteria {', '.join(need_data)} need data, and there is no calibration batch; raise "
            f"space.calibration_images (in Python: give batches), or choose criteria that read the weights alone, as l2"
        )
    twin = copy_network(network).eval()
    if not calibration.is_double:
        twin.float()
    for parameter in twin.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    by_gradient = {name: c for name, c in criteria.items() if has_mark(c, "uses_gradients")}
    scores = {
        name: _scores_of(name, c, twin, groups, calibration) for name, c in criteria.items() if name not in by_gradient
    }
    if by_gradient:
        scores |= _average_by_gradient(by_gradient, twin, groups, calibration)
    return {name: scores[name] for name in criteria}


def _average_by_gradient(
    criteria: Mapping[str, Criterion], twin: nn.Module, groups: Sequence[PruningGroup], calibration: Calibration
) -> dict[str, dict[str, Tensor]]:
    """Average the scores over the batches, each with its own gradient."""
    total: dict[str, dict[str, Tensor]] = {name: {} for name in criteria}
    for inputs, labels in calibration.batches:
        twin.zero_grad(set_to_none=True)
        try:
            with backward_in_eval(twin):
                torch.autograd.backward(calibration.loss_of(twin, inputs, labels))
        except AutopruneError:
            raise
        except Exception as error:  # the user's own loss may raise anything
            raise ModelError(
                f"the loss that the importance criteria {', '.join(criteria)} need fails on a calibration batch: "
                f"{in_user_code(error)}; give loss=lambda output, labels: …"
            ) from error
        batch = replace(calibration, batches=[(inputs, labels)])
        for name, criterion in criteria.items():
            for group, values in _scores_of(name, criterion, twin, groups, batch).items():
                mine = total[name].get(group, torch.zeros_like(values))
                total[name][group] = mine + values / len(calibration.batches)
    return total


@contextmanager
def backward_in_eval(network: nn.Module) -> Iterator[None]:
    """Make gradients possible in eval mode: cuDNN refuses them there for recurrent layers, PyTorch's own do not."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in network.modules())
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled and not recurrent):
        yield


def _scores_of(
    name: str, criterion: Criterion, twin: nn.Module, groups: Sequence[PruningGroup], calibration: Calibration
) -> dict[str, Tensor]:
    """Return group → checked scores by one criterion, without the groups it does not apply to."""
    if not has_mark(criterion, "scores_jointly"):
        answers = {g.name: _call(name, f" on group {g.name!r}", criterion, g, twin, calibration) for g in groups}
        return {g.name: _checked(name, g, answers[g.name]) for g in groups if answers[g.name] is not _NOTHING}
    found = _call(name, "", criterion, groups, twin, calibration)
    if found is _NOTHING:
        return {}
    if not isinstance(found, Mapping):
        raise ModelError(
            f"importance criterion {name!r} returned {type(found).__name__}; it scores jointly, so it has to return "
            f"a mapping from group names to scores"
        )
    return {g.name: _checked(name, g, found[g.name]) for g in groups if g.name in found}


_NOTHING = object()


def _call(name: str, where: str, criterion: Callable[..., Any], *arguments: object) -> Any:
    try:
        return criterion(*arguments)
    except NotApplicable:
        return _NOTHING
    except AutopruneError:
        raise
    except Exception as error:  # a third party's criterion may raise anything
        raise ModelError(f"importance criterion {name!r} failed{where} with {type(error).__name__}: {error}") from error


def _checked(name: str, group: PruningGroup, scores: Any) -> Tensor:
    if not isinstance(scores, Tensor) or scores.shape != (group.num_channels,):
        given = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ModelError(
            f"importance criterion {name!r} returned {given} for group {group.name!r}; "
            f"expected one score per channel: a tensor of shape ({group.num_channels},)"
        )
    plain: Tensor = scores.detach().float().cpu()
    if not torch.isfinite(plain).all():
        raise ModelError(f"importance criterion {name!r} returned NaN or infinite scores for group {group.name!r}")
    return plain
