"""What can be pruned in a network, as the spec allows: groups, blocks and masks, and the space over them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from autoprune.core.channel_groups import Block, FrozenGroup
from autoprune.core.policy import MASK_PATTERNS
from autoprune.core.space import MaskSpace, SearchSpace
from autoprune.models.calling.inputs import Inputs
from autoprune.pruning.find_blocks import find_blocks
from autoprune.pruning.groups import Groups, find_groups, glimpse_groups
from autoprune.pruning.layers.kinds import has_heads
from autoprune.pruning.masks.maskable_layers import maskable_layers
from autoprune.pruning.selection import choose_blocks, choose_groups, choose_layers
from autoprune.pruning.tracing.whole_trace import OUTPUT
from autoprune.search.setup.context import StudyContext
from autoprune.study.spec import StudySpec

_TRIED = 3  # groups that a look at an untrained network proves one by one, before all of them are proved


@dataclass(frozen=True)
class Prunable:
    """What of a network may go.

    Attributes:
        groups: those that can be cut, and those that are frozen.
        blocks: those that can be dropped.
        mask: which masks may be proposed; ``None`` if the spec wants none.
    """

    groups: Groups
    blocks: tuple[Block, ...]
    mask: MaskSpace | None


def find_prunable(context: StudyContext, network: nn.Module, example: Inputs) -> Prunable:
    """Return what of a network may go, every group proved by a trial cut.

    Args:
        context: whose spec says what is left alone.
        network: the dense network, in eval mode and placed.
        example: what the network is called with, one example where it can be.
    """
    context.notify("finding groups of coupled channels, and proving each by a trial cut")
    spec, examples = context.spec, example.at_least_two()
    groups = _chosen(spec, network, find_groups(network, examples, spec.space.seconds))
    blocks = find_blocks(network, examples, groups.cuttable) if spec.space.depth else ()
    chosen = choose_blocks(network, blocks, spec.space.keep, spec.space.only)
    return Prunable(groups, chosen, _mask_space(spec, network, groups.frozen))


def check_prunable(context: StudyContext, network: nn.Module) -> None:
    """Raise if nothing in a network that is yet to be trained can go.

    One trace and the proof of one group mostly say that something can; all is looked at only where they do not.

    Args:
        context: whose spec says what is left alone.
        network: the untrained network, placed.

    Raises:
        ModelError: if nothing can go.
    """
    spec, example = context.spec, context.example(network)
    glimpse = glimpse_groups(network, example.at_least_two(), spec.space.seconds)
    groups = _chosen(spec, network, glimpse.proposed)
    mask = _mask_space(spec, network, groups.frozen)
    if (mask and mask.layers) or any(map(glimpse.can_cut, groups.cuttable[:_TRIED])):
        return
    prunable = find_prunable(context, network, example)
    SearchSpace(prunable.groups.cuttable, {}, blocks=prunable.blocks, mask=prunable.mask)  # raises if all are empty


def _chosen(spec: StudySpec, network: nn.Module, found: Groups) -> Groups:
    """Return which groups may be cut as the spec allows, the others frozen."""
    groups = choose_groups(network, found, spec.space.keep, spec.space.only)
    return groups if "channel" in spec.space.patterns else _all_frozen(groups, spec)


def _all_frozen(groups: Groups, spec: StudySpec) -> Groups:
    reason = f"space.patterns is {', '.join(spec.space.patterns)}, without channel"
    return Groups((), (*groups.frozen, *(FrozenGroup(g.name, g.num_channels, reason) for g in groups.cuttable)))


def _mask_space(spec: StudySpec, network: nn.Module, frozen: Iterable[FrozenGroup]) -> MaskSpace | None:
    """Return which masks may be proposed, ``None`` if the spec wants none; the layers that answer are left alone."""
    pattern = next((name for name in spec.space.patterns if name in MASK_PATTERNS), None)
    if pattern is None:
        return None
    outputs = [group.name for group in frozen if group.reason == OUTPUT]
    able = maskable_layers(network, pattern, outputs).layers
    attention = [path for path, module in network.named_modules() if has_heads(module)]
    layers = tuple(
        layer
        for layer in choose_layers(able, spec.space.keep, spec.space.only)
        # an attention module multiplies by its layers' weights without calling them, so wanda never sees their inputs
        if "wanda" not in spec.space.mask_criteria or not any(layer.startswith(f"{path}.") for path in attention)
    )
    return MaskSpace(pattern, spec.space.mask_criteria, layers, spec.space.max_mask_sparsity)


def search_space(
    spec: StudySpec, prunable: Prunable, scores: Mapping[str, Mapping[str, Tensor]]
) -> tuple[SearchSpace, tuple[FrozenGroup, ...]]:
    """Return the space over blocks, masks and every group that some criterion can score, and everything frozen.

    Args:
        spec: says what is searched, and how far.
        prunable: what may go.
        scores: criterion → group → importance scores, ``(num_channels,)``.
    """
    groups = prunable.groups
    importances = {
        group.name: tuple(name for name in spec.space.importances if group.name in scores.get(name, {}))
        for group in groups.cuttable
    }
    unscored = [
        FrozenGroup(group.name, group.num_channels, f"none of {', '.join(spec.space.importances)} applies to it")
        for group in groups.cuttable
        if not importances[group.name]
    ]
    usable = tuple(group for group in groups.cuttable if importances[group.name])
    space = SearchSpace(
        usable,
        {group.name: importances[group.name] for group in usable},
        spec.space.max_sparsity,
        spec.space.multiple,
        prunable.blocks,
        prunable.mask,
    )
    return space, (*groups.frozen, *unscored)
