"""A network inspected, or pruned by a policy, from Python and without a study: any inputs, any outputs, no data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.core.channel_groups import Block
from autoprune.core.counts import ChannelCounts
from autoprune.core.policy import PruningPolicy
from autoprune.core.space import SearchSpace
from autoprune.cost.cost_model import CostModel
from autoprune.errors import ModelError, UsageError
from autoprune.models.calling.inputs import Inputs
from autoprune.models.copying.copy_network import copy_network
from autoprune.pruning.channel_positions import tensor_shrinks
from autoprune.pruning.compensation.calibration_examples import joined
from autoprune.pruning.compensation.compensate import compensate as refit
from autoprune.pruning.compensation.dense_answers import dense_answers
from autoprune.pruning.find_blocks import find_blocks
from autoprune.pruning.groups import Groups, find_groups
from autoprune.pruning.importance import Calibration, score_groups
from autoprune.pruning.selection import choose_blocks, choose_groups
from autoprune.pruning.surgery import Pruner
from autoprune.search.setup.network_inspection import NetworkInspection

MAX_SPARSITY = 0.9
MOST_EXAMPLES = 2048  # that compensation looks at


def inspect(
    model: nn.Module, example: object, *, keep: str | Sequence[str] = (), only: str | Sequence[str] = ()
) -> NetworkInspection:
    """Return what can be pruned in a network: groups, blocks, what is frozen and why, and exact costs.

    Args:
        model: any network, on any device; not changed.
        example: one batch of its inputs, on any device: a tensor; a tuple of arguments; a dictionary of arguments by
            name; a pair of such a tuple and such a dictionary. A list is one argument.
        keep: a pattern of module paths that stay whole, ``"head*"``, or several.
        only: a pattern of module paths, or several, outside of which everything stays whole; empty for everywhere.

    Raises:
        UsageError: if it is no network, or a pattern matches nothing.
        ModelError: if it does not run on the example, in evaluation or in training mode, or cannot be copied.

    >>> import torch
    >>> found = inspect(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(2, 8))
    >>> [(group.name, group.num_channels) for group in found.groups.cuttable], found.dense["mparams"]
    ([('0', 16)], 0.000212)
    """
    network, inputs = _copied(model).eval(), Inputs.of(example)
    keep, only = ([given] if isinstance(given, str) else given for given in (keep, only))
    found, blocks = prunable_parts(network, inputs, keep, only)
    cost = cost_of(network, inputs, found, blocks)
    return NetworkInspection(
        model=type(model).__name__,
        trained=True,
        inputs=inputs,
        cost=cost,
        smallest=smallest_share(cost, found, MAX_SPARSITY, 1),
        groups=found,
        blocks=blocks,
        regularisation=None,
        criteria={},
    )


def prunable_parts(
    network: nn.Module, inputs: Inputs, keep: Sequence[str], only: Sequence[str]
) -> tuple[Groups, tuple[Block, ...]]:
    """Return the groups and blocks of a network, without those that patterns exempt."""
    found = choose_groups(network, find_groups(network, inputs), keep, only)
    return found, choose_blocks(network, find_blocks(network, inputs, found.cuttable), keep, only)


def cost_of(network: nn.Module, inputs: Inputs, found: Groups, blocks: tuple[Block, ...]) -> CostModel:
    """Return the closed-form costs of any pruning of a network."""
    channels = {group.name: group.num_channels for group in found.cuttable}
    return CostModel(network, tensor_shrinks(network, found.cuttable), channels, inputs, blocks=blocks)


def prune(
    model: nn.Module,
    policy: PruningPolicy,
    example: object,
    *,
    batches: Iterable[tuple[Any, Any]] = (),
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
    seed: int = 0,
    compensate: bool = True,
) -> nn.Module:
    """Return a smaller copy of a network, pruned by a policy; nothing is trained.

    With batches the weights that stay are refitted, so that each layer's output is as near the dense one's as it can
    be, and batch norms are measured anew.

    Args:
        model: any network; not changed.
        policy: what goes: ``PruningPolicy.uniform(0.5)``, or a policy of a trial.
        example: one batch of its inputs, as for :func:`inspect`.
        batches: training batches of (inputs, labels), for criteria that look at data and for compensation, which
            reads their inputs alone; inputs are as ``example``, on the network's device.
        loss: (what the network returns, labels) → mean loss over a batch, for criteria that need its gradient.
        seed: for criteria that draw random numbers.
        compensate: whether the weights that stay are refitted to the dense network's outputs on the batches. A few
            hundred examples do; without batches nothing is refitted.

    Raises:
        UsageError: if the network is none, or the policy.
        ModelError: if the policy names a group, a block or a criterion that the network lacks, or masks weights, or a
            criterion needs batches and there are none.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> small = prune(model, PruningPolicy.uniform(0.5), torch.randn(2, 8))
    >>> small[0].out_features
    8
    """
    if not isinstance(policy, PruningPolicy):
        raise UsageError(f"policy is {policy!r}; expected a PruningPolicy, such as PruningPolicy.uniform(0.5)")
    if policy.mask is not None:
        raise ModelError("the policy masks weights, which prune() does not; apply it with `autoprune apply`")
    network, inputs = _copied(model).eval(), Inputs.of(example)
    found = find_groups(network, inputs)
    policy = policy.on(group.name for group in found.cuttable)
    blocks = find_blocks(network, inputs, found.cuttable) if policy.dropped_blocks else ()
    _check_named(policy, found, blocks)
    space = SearchSpace.of_policy(policy, {group.name: group for group in found.cuttable}, blocks)
    calibration = Calibration(list(batches), seed, inputs.shape or None, loss)
    pruner = Pruner(network, space, score_groups(network, space.groups, policy.criteria, calibration))
    pruned = pruner.prune(policy)
    examples = joined((Inputs.of(given) for given, _ in calibration.batches), MOST_EXAMPLES) if compensate else None
    if examples is not None:
        refit(pruned, dense_answers(network, examples), pruner.cut(policy), seed)
    return pruned.train(model.training)


def _copied(model: nn.Module) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is {model!r}; expected a torch.nn.Module, as a study alone takes names")
    return copy_network(model)


def _check_named(policy: PruningPolicy, found: Groups, blocks: Iterable[Block]) -> None:
    """Raise if a policy names what a network lacks."""
    cuttable = {group.name for group in found.cuttable}
    frozen = {group.name: f"{group.name} (frozen: {group.reason})" for group in found.frozen}
    lacking = [frozen.get(name, name) for name in policy.groups if name not in cuttable]
    lacking += sorted(set(policy.dropped_blocks) - {block.name for block in blocks})
    if lacking:
        raise ModelError(
            f"the policy names what this network lacks: {', '.join(lacking)}. It has the groups "
            f"{', '.join(sorted(cuttable)) or 'none'}; autoprune.inspect(model, example) shows them"
        )


def smallest_share(cost: CostModel, found: Groups, max_sparsity: float, round_to: int) -> dict[str, float]:
    """Return the costs of the smallest network of channels alone, as a share of the dense one."""
    if not found.cuttable:
        return {"mflops": 1.0, "mparams": 1.0, "size_mb": 1.0}
    names = {group.name: ("l1",) for group in found.cuttable}
    space = SearchSpace(found.cuttable, names, max_sparsity, round_to)
    smallest, dense = cost.measure(space.smallest), cost.measure(ChannelCounts())
    return {name: smallest[name] / value if value else 1.0 for name, value in dense.values.items()}
