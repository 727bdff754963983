"""What can be pruned in a network, and how the scores of its groups spread: the result of an inspection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from autoprune.core.channel_groups import Block, PruningGroup
from autoprune.core.counts import ChannelCounts
from autoprune.core.json_values import JsonObject, JsonValue
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import FLOP_CONVENTION
from autoprune.cost.cost_model import CostModel
from autoprune.cost.layer_profile import layer_to_json
from autoprune.cost.layer_table import LayerCost
from autoprune.models.calling.inputs import Inputs
from autoprune.pruning.groups import Groups
from autoprune.study.regularisation_facts import RegularisationFacts

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class CriterionSpread:
    """How the scores of a criterion spread.

    Attributes:
        quantiles: group → its scores at :data:`QUANTILES`; empty if the criterion applies to no group.
        reason: why it gave no scores here; empty if it did.
    """

    quantiles: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    reason: str = ""

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        found: JsonObject = {"quantiles": {group: list(values) for group, values in self.quantiles.items()}}
        return {**found, "reason": self.reason} if self.reason else found


@dataclass(frozen=True)
class NetworkInspection:
    """What can be pruned in a network.

    Attributes:
        model: its source.
        trained: whether its weights are trained ones.
        inputs: one batch of them.
        cost: closed-form costs of any pruning of it.
        smallest: cost metric → share of the dense network that the smallest network of channels alone has.
        groups: those that can be cut, and those that are frozen.
        blocks: those that can be dropped.
        regularisation: what learning to be sparse did to a study's own network; ``None`` if nothing.
        criteria: criterion → how its scores spread.
    """

    model: str
    trained: bool
    inputs: Inputs
    cost: CostModel
    smallest: Mapping[str, float]
    groups: Groups
    blocks: tuple[Block, ...]
    regularisation: RegularisationFacts | None
    criteria: Mapping[str, CriterionSpread]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of one input, if inputs are one tensor; empty if they are something else."""
        return self.inputs.shape

    @property
    def described_inputs(self) -> str:
        """Return what goes in, in words: ``3×32×32``, or the type and shape of everything."""
        return "×".join(map(str, self.input_shape)) or str(self.inputs).removeprefix("inputs ")

    @cached_property
    def dense(self) -> Measurement:
        """Return what the network costs before anything is pruned."""
        return self.cost.measure(ChannelCounts())

    @property
    def layers(self) -> tuple[LayerCost, ...]:
        """Return the layers that do some multiply–accumulates, in network order."""
        return tuple(layer for layer in self.cost.layers if layer.macs)

    def mflops_of(self, block: Block) -> float:
        """Return the MFLOPs that dropping a block saves."""
        dropped = ChannelCounts(dropped_blocks=frozenset({block.name}))
        return self.dense["mflops"] - self.cost.measure(dropped)["mflops"]

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {
            "model": self.model,
            "trained": self.trained,
            "inputs": self.described_inputs,
            **({"input_shape": list(self.input_shape)} if self.input_shape else {}),
            "flop_convention": FLOP_CONVENTION,
            "uncounted": list(self.dense.uncounted),
            "dense": dict(self.dense.values),
            "smallest": dict(self.smallest),
            "groups": [_group_to_json(group) for group in self.groups.cuttable],
            "blocks": [self._block_to_json(block) for block in self.blocks],
            "frozen": frozen_to_json(self.groups),
            "layers": [layer_to_json(layer) for layer in self.layers],
            "sparsity": self.regularisation.to_json() if self.regularisation else None,
            "criteria": {name: spread.to_json() for name, spread in self.criteria.items()},
        }

    def _block_to_json(self, block: Block) -> JsonObject:
        return {"name": block.name, "groups": list(block.groups), "mflops": self.mflops_of(block)}


def has_heads(group: PruningGroup) -> bool:
    """Return whether what a group loses are attention heads."""
    return group.members[0].side == "heads"


def frozen_to_json(groups: Groups) -> list[JsonValue]:
    """Return one entry for everything that stays whole: each group, then each further layer that goes with one.

    So every layer with parameters is named, among the groups or here.
    """
    named = {name for group in groups.cuttable for name in (group.name, *group.layers)}
    named |= {group.name for group in groups.frozen}
    found: list[JsonValue] = [
        {"name": g.name, "channels": g.num_channels, "reason": g.reason, "layers": list(g.layers)}
        for g in groups.frozen
    ]
    for group in groups.frozen:
        for layer in group.layers:
            if layer not in named:
                named.add(layer)
                reason = f"goes with {group.name}, which stays whole"
                found.append({"name": layer, "channels": group.num_channels, "reason": reason, "layers": []})
    return found


def _group_to_json(group: PruningGroup) -> JsonObject:
    return {
        "name": group.name,
        "channels": group.num_channels,
        "residual": group.is_residual,
        "kind": "heads" if has_heads(group) else "channels",
        "layers": list(group.layers),
    }
