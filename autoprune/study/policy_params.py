"""How a policy is stored as Optuna's parameters: one or two numbers per group, one per block and masked layer.

A group with a single criterion has no importance parameter, one with a single count none at all. This is the only
place that knows the names of parameters; everywhere else a policy travels as itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from autoprune.core.counts import MASK_UNITS
from autoprune.core.policy import GroupPolicy, MaskPolicy, PruningPolicy
from autoprune.core.space import SearchSpace

Params: TypeAlias = Mapping[str, float | str]


@dataclass(frozen=True)
class Dimension:
    """One parameter.

    Attributes:
        name: ``"<group>.sparsity"``, ``"<group>.importance"``, ``"<block>.dropped"``, ``"<layer>.mask_sparsity"`` or
            ``"mask.criterion"``.
        high: largest value of a number in [0, high]; 0 for a choice.
        choices: the values of a choice; empty for a number.
    """

    name: str
    high: float = 0.0
    choices: tuple[str, ...] = ()


def dimensions(space: SearchSpace) -> tuple[Dimension, ...]:
    """Return the parameters of a space: groups, then blocks, then masks."""
    found = []
    for group in space.groups:
        counts, criteria = space.channel_choices[group.name], space.importances[group.name]
        if len(counts) > 1:
            found.append(Dimension(f"{group.name}.sparsity", high=1 - counts[0] / group.num_channels))
            if len(criteria) > 1:
                found.append(Dimension(f"{group.name}.importance", choices=criteria))
    found += [Dimension(f"{block.name}.dropped", choices=("no", "yes")) for block in space.blocks]
    if space.mask and len(space.mask.units) > 1:
        high = 1 - space.mask.units[0] / MASK_UNITS
        found += [Dimension(f"{layer}.mask_sparsity", high=high) for layer in space.mask.layers]
        if len(space.mask.criteria) > 1 and space.mask.layers:
            found.append(Dimension("mask.criterion", choices=space.mask.criteria))
    return tuple(found)


def policy_of(space: SearchSpace, params: Params) -> PruningPolicy:
    """Return the policy that parameters stand for; the inverse of :func:`params_of`."""
    groups = {}
    for group in space.groups:
        sparsity = params.get(f"{group.name}.sparsity", 0.0)
        importance = params.get(f"{group.name}.importance", space.importances[group.name][0])
        groups[group.name] = GroupPolicy(float(sparsity), str(importance))
    dropped = tuple(block.name for block in space.blocks if params.get(f"{block.name}.dropped") == "yes")
    mask = None
    if space.mask:
        layers = {layer: float(params.get(f"{layer}.mask_sparsity", 0.0)) for layer in space.mask.layers}
        criterion = str(params.get("mask.criterion", space.mask.criteria[0]))
        mask = MaskPolicy(space.mask.pattern, criterion, layers)
    return PruningPolicy(groups, space.round_to, dropped, mask)


def params_of(space: SearchSpace, policy: PruningPolicy) -> dict[str, float | str]:
    """Return the parameters of a canonical policy, as ``SearchSpace.policy`` makes it; inverts :func:`policy_of`."""
    values: dict[str, float | str] = {}
    for name, group in policy.groups.items():
        values[f"{name}.sparsity"] = group.sparsity
        values[f"{name}.importance"] = group.importance
    for block in space.blocks:
        values[f"{block.name}.dropped"] = "yes" if block.name in policy.dropped_blocks else "no"
    if policy.mask:
        values |= {f"{layer}.mask_sparsity": sparsity for layer, sparsity in policy.mask.layers.items()}
        values["mask.criterion"] = policy.mask.criterion
    return {dimension.name: values[dimension.name] for dimension in dimensions(space)}
