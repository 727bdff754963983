"""Check an importance criterion, a logger, a task or an export format of your own against its contract.

:func:`check_importance` is one call in one test; it raises an ``AssertionError`` that says what is wrong. So does
:func:`check_logger`, whose steps are in ``docs/how-to/log-trials.md``, :func:`check_task` and :func:`check_export`.
The tests of this package check every criterion that ships in this way, on several kinds of networks.

Steps for adding a criterion:

1. Write a function ``(group, network, calibration) -> scores``: a tensor of shape ``(num_channels,)``, larger =
   keep. ``autoprune.pruning.criteria.channel_parameters`` finds the numbers that produce a channel, ``….channel_hooks``
   the tensors in which it can be seen. Raise ``NotApplicable`` for a group that it makes no sense for.
2. Mark what it needs (``autoprune.pruning.importance``): ``@uses_gradients`` to find the gradient of the loss in
   ``parameter.grad``, ``@uses_data`` for the calibration batches, ``@uses_seed`` if it draws random numbers.
3. Test it: ``check_importance(mine)``, and with ``network, groups, calibration`` for another kind of network.
4. Try it: ``autoprune search … --importances l2,path/to/file.py:mine``.
5. Make it permanent: an entry point of your package in the group ``autoprune.importances``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.builtin_names import IMPORTANCES
from autoprune.core.channel_groups import Member, PruningGroup
from autoprune.export.check_format import check_format
from autoprune.export.formats import ExportFormat
from autoprune.loggers.check_logger import check_logger
from autoprune.models.copying.copy_network import copy_network
from autoprune.pruning.importance import Calibration, Criterion, has_mark, score_by
from autoprune.pruning.layers.axes import tensor_of
from autoprune.pruning.layers.kinds import axes_of
from autoprune.tasks.check_task import check_task

__all__ = [
    "ExampleNetwork",
    "check_export",
    "check_importance",
    "check_logger",
    "check_task",
    "example_calibration",
    "example_groups",
    "permuted",
]


class ExampleNetwork(nn.Module):
    """A residual network of three convolutions for ``(N, 1, 8, 8)`` images of 3 classes, with random weights."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem, self.stem_norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
            self.inner, self.inner_norm = nn.Conv2d(6, 5, 3, padding=1), nn.BatchNorm2d(5)
            self.outer, self.outer_norm = nn.Conv2d(5, 6, 3, padding=1), nn.BatchNorm2d(6)
            self.head = nn.Linear(6, 3)
            for norm in (self.stem_norm, self.inner_norm, self.outer_norm):
                for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                    nn.init.uniform_(tensor, 0.2, 1.2)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(N, 3)``."""
        x = self.stem_norm(self.stem(x)).relu()
        x = x + self.outer_norm(self.outer(self.inner_norm(self.inner(x)).relu()))
        logits: Tensor = self.head(x.relu().mean((2, 3)))
        return logits


def check_export(
    form: ExportFormat | str, folder: Path, network: nn.Module | None = None, examples: object = None
) -> None:
    """Raise if an export format breaks its contract on a network.

    It writes the files that it names into the folder that it is given, twice the same way, and leaves the network as it
    was. What it opens answers as the network does, to any number of examples, on one thread and on two.

    Args:
        form: the format, or a name as for ``--export``.
        folder: an empty one.
        network: in eval mode, on the CPU; ``None`` for :class:`ExampleNetwork`.
        examples: a batch of at least 3 for it; needed with a network.

    Raises:
        AssertionError: if the contract is broken; the message says how.
        UsageError: if there is no such format.
        ValueError: if a network is given without examples.
    """
    if network is None:
        network, examples = ExampleNetwork().eval(), example_calibration().batches[0][0]
    if examples is None:
        raise ValueError("check_export: a network of your own needs examples")
    check_format(form, network, examples, folder)


def example_groups() -> tuple[PruningGroup, ...]:
    """Return the groups of :class:`ExampleNetwork`: the residual stream, and what lies inside the branch."""
    stream, inside = tuple(range(6)), tuple(range(5))
    makes = tuple(Member(name, "out", stream) for name in ("stem", "stem_norm", "outer", "outer_norm"))
    reads = tuple(Member(name, "in", stream) for name in ("inner", "head"))
    branch = (Member("inner", "out", inside), Member("inner_norm", "out", inside), Member("outer", "in", inside))
    return PruningGroup("stem", 6, (*makes, *reads), is_residual=True), PruningGroup("inner", 5, branch)


def example_calibration() -> Calibration:
    """Return two batches of 8 random images with random labels."""
    generator = torch.Generator().manual_seed(1)
    batches = [
        (torch.randn(8, 1, 8, 8, generator=generator), torch.randint(3, (8,), generator=generator)) for _ in range(2)
    ]
    return Calibration(batches, seed=0)


def check_importance(
    criterion: Criterion | str,
    network: nn.Module | None = None,
    groups: Sequence[PruningGroup] | None = None,
    calibration: Calibration | None = None,
    *,
    rtol: float = 1e-3,
) -> None:
    """Raise if a criterion breaks its contract on a network.

    A criterion gives one finite score per channel to at least one group, and the same scores when called again. It
    leaves the network, its hooks and PyTorch's random state as they were. Its scores follow the channels: when those of
    a group change places and the network computes the same, so do their scores (not checked with ``@uses_seed``). That
    larger means keep cannot be checked.

    Args:
        criterion: the function, or a name as for ``--importances``.
        network: a network; ``None`` for :class:`ExampleNetwork`.
        groups: groups of its channels; needed with a network (``autoprune.pruning.groups.find_groups`` finds them).
        calibration: batches that the network can read; needed with a network.
        rtol: how far scores may differ by rounding, relative to the largest one of the group.

    Raises:
        AssertionError: if the contract is broken; the message says how.
        ModelError: if the criterion raises, or returns no finite tensor of shape ``(num_channels,)``.
        ValueError: if a network is given without groups or calibration.
    """
    if network is None:
        network, groups = ExampleNetwork(), groups or example_groups()
        calibration = calibration or example_calibration()
    if groups is None or calibration is None:
        raise ValueError("check_importance: a network of your own needs its groups and a calibration")
    found: Criterion = IMPORTANCES.get(criterion) if isinstance(criterion, str) else criterion
    name = criterion if isinstance(criterion, str) else getattr(criterion, "__name__", type(criterion).__name__)
    case = _Case(name, found, network, tuple(groups), calibration)
    scores = case.scores_of_some()
    case.check_repeatable(scores)
    if not has_mark(found, "uses_seed"):
        case.check_permutations(scores, rtol)


@dataclass(frozen=True)
class _Case:
    """One criterion, with the network, groups and calibration it is checked on."""

    name: str
    criterion: Criterion
    network: nn.Module
    groups: tuple[PruningGroup, ...]
    calibration: Calibration

    def scores(self, network: nn.Module) -> dict[str, Tensor]:
        """Return group → scores; raise if the criterion leaves anything changed behind."""
        faults: list[str] = []
        scores = score_by({self.name: _guarded(self.criterion, faults)}, network, self.groups, self.calibration)
        if faults:
            raise AssertionError(f"{self.name} changes what it is given: {', '.join(dict.fromkeys(faults))}")
        return scores[self.name]

    def scores_of_some(self) -> dict[str, Tensor]:
        """Return group → scores; raise if the criterion applies to no group."""
        scores = self.scores(self.network)
        if not scores:
            names = ", ".join(group.name for group in self.groups)
            raise AssertionError(f"{self.name} applies to none of the groups {names}")
        return scores

    def check_repeatable(self, scores: dict[str, Tensor]) -> None:
        """Raise if a second call gives other scores."""
        fault = "gives other scores when called again; draw random numbers only from a generator with calibration.seed"
        self._compare(scores, self.scores(self.network), 0.0, fault)

    def check_permutations(self, scores: dict[str, Tensor], rtol: float) -> None:
        """Rotate the channels of each group in turn; its scores must rotate with them, and the others stay."""
        for group in self.groups:
            order = [*range(1, group.num_channels), 0]
            expected = {name: s[order] if name == group.name else s for name, s in scores.items()}
            fault = f"does not follow the channels: those of group {group.name!r} changed places and nothing else"
            self._compare(expected, self.scores(permuted(self.network, group, order)), rtol, fault)

    def _compare(self, expected: dict[str, Tensor], found: dict[str, Tensor], rtol: float, fault: str) -> None:
        for name in dict.fromkeys([*expected, *found]):
            a, b = expected.get(name), found.get(name)
            if a is None or b is None or float((a - b).abs().max()) > rtol * float(a.abs().max()):
                raise AssertionError(f"{self.name} {fault}. Group {name!r}: expected {_brief(a)}, got {_brief(b)}")


def _brief(scores: Tensor | None) -> str:
    return "not applicable" if scores is None else str([float(f"{value:.4g}") for value in scores.tolist()])


def _guarded(criterion: Any, faults: list[str]) -> Criterion:
    """Return the criterion, marks included; it adds what a call leaves changed to ``faults``."""

    def guarded(asked: Any, network: nn.Module, calibration: Calibration) -> Any:
        before = _circumstances(network)
        try:
            return criterion(asked, network, calibration)
        finally:
            now = _circumstances(network)
            faults.extend(what for what in before if what not in now or not _equal(before[what], now[what]))

    for mark in ("uses_gradients", "uses_data", "uses_moments", "uses_seed", "scores_jointly"):
        setattr(guarded, mark, has_mark(criterion, mark))
    return guarded


def _circumstances(network: nn.Module) -> dict[str, object]:
    """Return what a criterion must leave unchanged, by name."""
    modules = list(network.modules())
    return {
        **{f"the tensor {name!r}": tensor.detach().clone() for name, tensor in network.state_dict().items()},
        "parameter.grad": [id(parameter.grad) for parameter in network.parameters() if parameter.grad is not None],
        "parameter.requires_grad": [parameter.requires_grad for parameter in network.parameters()],
        "the mode (train or eval)": [module.training for module in modules],
        "hooks on modules": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules],
        "PyTorch's random state": torch.get_rng_state(),
    }


def _equal(before: Any, now: Any) -> bool:
    return torch.equal(before, now) if isinstance(before, Tensor) else before == now


def permuted(network: nn.Module, group: PruningGroup, order: Sequence[int]) -> nn.Module:
    """Return a copy that computes the same function, with channel ``order[c]`` of the group moved to place ``c``.

    Args:
        network: not touched.
        group: every place where its channels are must be among its members.
        order: a permutation of ``range(num_channels)``.
    """
    twin = copy_network(network)
    for member in group.members:
        moved = {
            to: source
            for channel, former in enumerate(order)
            for to, source in zip(member.of(channel), member.of(former), strict=True)
        }
        bare = tensor_of(twin, member.module) if member.side.startswith("dim") else None
        if bare is not None:
            _move(bare, int(member.side.removeprefix("dim")), moved)
            continue
        module = twin.get_submodule(member.module)
        for axis in axes_of(module, member.side):
            tensor = tensor_of(module, axis.tensor)
            pairs = [(axis.of(to), axis.of(source)) for to, source in moved.items()]
            if tensor is not None:
                _move(tensor, axis.dim, {t: s for to, source in pairs for t, s in zip(to, source, strict=True)})
    return twin


def _move(tensor: Tensor, dim: int, moved: dict[int, int]) -> None:
    index = torch.tensor([moved.get(position, position) for position in range(tensor.shape[dim])], device=tensor.device)
    tensor.detach().copy_(tensor.detach().index_select(dim, index))
