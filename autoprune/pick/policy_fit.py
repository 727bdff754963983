"""Whether a stored policy fits a network, and the search space in which it is one of the possible policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from autoprune.core.builtin_names import IMPORTANCES
from autoprune.core.channel_groups import Block, PruningGroup
from autoprune.core.policy import PruningPolicy
from autoprune.errors import ModelError, UntrustedCodeError
from autoprune.export.stored_policy import StoredPolicy
from autoprune.pruning.find_blocks import find_blocks
from autoprune.pruning.groups import find_groups
from autoprune.pruning.importance import has_mark
from autoprune.pruning.masks.maskable_layers import maskable_layers


@dataclass(frozen=True)
class FoundParts:
    """What of a network can be pruned.

    Attributes:
        groups: name → group whose channels can be cut.
        frozen: name of a group that cannot be → why.
        blocks: residual branches that can be dropped.
        network: where they were found.
    """

    groups: Mapping[str, PruningGroup]
    frozen: Mapping[str, str]
    blocks: tuple[Block, ...]
    network: nn.Module


def find_parts(network: nn.Module, example: object) -> FoundParts:
    """Return what of a network can be pruned.

    Args:
        network: in eval mode.
        example: a batch, as :meth:`Inputs.of` takes it.
    """
    found = find_groups(network, example)
    return FoundParts(
        {group.name: group for group in found.cuttable},
        {group.name: group.reason for group in found.frozen},
        find_blocks(network, example, found.cuttable),
        network,
    )


def check_fits(stored: StoredPolicy, parts: FoundParts) -> list[str]:
    """Return what a reader should know of how a policy fits a network, in sentences.

    Raises:
        ModelError: if the network lacks something that the policy names; lists everything that differs.
    """
    groups, extra = parts.groups, sorted(set(parts.groups) - set(stored.policy.groups))
    counts = [
        f"{name} ({stored.channels[name]} channels there, {groups[name].num_channels} here)"
        for name in sorted(set(groups) & set(stored.channels))
        if stored.channels[name] != groups[name].num_channels
    ]
    others = [("groups the policy does not name, which stay whole", extra), ("other channel counts", counts)]
    lacking = _lacking(stored.policy, parts)
    if any(lacking.values()):
        listed = [f"{what}: {', '.join(names)}" for what, names in (*lacking.items(), *others) if names]
        raise ModelError(
            f"the policy does not fit this network. {'. '.join(listed)}. Give a network with the same groups; "
            f"`autoprune inspect` lists those of any network"
        )
    return [f"{what}: {', '.join(names)}" for what, names in others if names]


def _lacking(policy: PruningPolicy, parts: FoundParts) -> dict[str, list[str]]:
    """Return what a policy names and a network lacks, by kind."""
    active = {name for name, group in policy.groups.items() if group.sparsity}
    masked = [layer for layer, sparsity in (policy.mask.layers if policy.mask else {}).items() if sparsity]
    able = maskable_layers(parts.network, policy.mask.pattern).layers if policy.mask else ()
    return {
        "groups it lacks": [
            f"{name} (frozen: {parts.frozen[name]})" if name in parts.frozen else name
            for name in sorted(active - set(parts.groups))
        ],
        "blocks it lacks": sorted(set(policy.dropped_blocks) - {block.name for block in parts.blocks}),
        "layers that cannot be masked": sorted(set(masked) - set(able)),
    }


def check_criteria_are_trusted(policy: PruningPolicy, *, trust_code: bool) -> None:
    """Raise if a policy ranks channels by code, and that is not allowed.

    Raises:
        UntrustedCodeError: naming the criteria.
    """
    code = [name for name in policy.criteria if IMPORTANCES.is_code(name)]
    if code and not trust_code:
        raise UntrustedCodeError(
            f"the policy ranks channels by the code {', '.join(code)}, which would be run; if you trust it, allow it "
            "with --trust-code (in Python: trust_code=True)"
        )


def check_data(policy: PruningPolicy, has_data: bool) -> None:
    """Raise if a criterion looks at data and there is none.

    Raises:
        ModelError: naming those criteria.
    """
    hungry = [
        name
        for name in policy.criteria
        if has_mark(IMPORTANCES.get(name), "uses_data") or has_mark(IMPORTANCES.get(name), "uses_gradients")
    ]
    if policy.mask is not None and policy.mask.criterion != "magnitude":
        hungry.append(policy.mask.criterion)
    if hungry and not has_data:
        raise ModelError(f"the policy ranks by {', '.join(hungry)}, which looks at training data; give --data")
