"""Patterns together: channels cut first and a mask on what remains is the dense network with all of these zeroed."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest
import torch
from pruning_nets import NETWORKS, outputs
from torch import Tensor, nn

from autoprune.core.policy import MASK_PATTERNS, MaskPolicy
from autoprune.pruning.channel_positions import positions_of, sizes_of
from autoprune.pruning.cut_plan import CutPlan, plan_cut
from autoprune.pruning.groups import find_groups
from autoprune.pruning.layers.kinds import has_heads
from autoprune.pruning.masks.build_masks import build_masks
from autoprune.pruning.masks.maskable_layers import maskable_layers
from autoprune.pruning.masks.weight_masks import Masks
from autoprune.pruning.masks.weight_scores import CRITERIA
from autoprune.pruning.surgery import shrink, zeroed

MASKED = ("resnet8", "option-a", "vgg", "depthwise", "resnext", "mlp", "lstm", "encoder", "swin v2", "convnext")


def kept_positions(network: nn.Module, cut: CutPlan) -> dict[tuple[str, int], list[int]]:
    """Return (tensor, dimension) → positions of the dense tensor that stay, for every dimension that was cut."""
    gone: dict[tuple[str, int], set[int]] = {}
    for path, kept in cut.items():
        for side, stay in kept.sides.items():
            lost = [channel for channel in range(sizes_of(network, path)[side]) if channel not in stay]
            for tensor, dim, positions in positions_of(network, path, side, lost):
                gone.setdefault((tensor, dim), set()).update(positions)
    sizes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    return {(n, dim): [i for i in range(sizes[n][dim]) if i not in lost] for (n, dim), lost in gone.items()}


def mask_dense(twin: nn.Module, masks: Masks, kept: Mapping[tuple[str, int], list[int]]) -> None:
    """Set in a network of dense shapes to zero what masks of the cut network set to zero."""
    for name, keep in masks.tensors.items():
        weight = twin.get_parameter(name)
        index: list[Tensor] = []
        for dim, size in enumerate(weight.shape):
            along = torch.tensor(kept.get((name, dim), range(size)))
            index.append(along.view([-1 if d == dim else 1 for d in range(weight.dim())]))
        full = torch.ones(weight.shape, dtype=torch.bool)
        full[tuple(index)] = keep
        weight.data.mul_(full)


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
@pytest.mark.parametrize("pattern", MASK_PATTERNS)
@pytest.mark.parametrize("name", MASKED)
def test_a_mask_on_what_remains_is_the_same_mask_on_the_zeroed_network(name: str, pattern: str, criterion: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name].lively().double()
    inputs = NETWORKS[name].example(2)
    draw = random.Random(name)
    groups = find_groups(network, inputs).cuttable
    removed = {g.name: draw.sample(range(g.num_channels), g.num_channels // 4) for g in groups}
    cut = plan_cut(network, groups, removed)
    small = shrink(network, cut)
    heads = [path for path, module in small.named_modules() if has_heads(module)]
    able = [
        layer
        for layer in maskable_layers(small, pattern).layers
        if criterion != "wanda" or not any(layer.startswith(f"{path}.") for path in heads)
    ]
    if not able:
        pytest.skip(f"no layer of {name} that is left allows {pattern}")
    policy = MaskPolicy(pattern, criterion, dict.fromkeys(able, 0.5))
    masks = build_masks(small, policy, [(inputs, torch.tensor([1, 2]))])
    assert sum(masks.zeros().values()) > 0
    twin = zeroed(network, cut)
    mask_dense(twin, masks, kept_positions(network, cut))
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    before = outputs(small, inputs)
    masks.apply(small)
    found = outputs(small, inputs)
    scale = float(before.abs().max())
    torch.testing.assert_close(found, outputs(twin, inputs), rtol=0, atol=1e-12 * scale)
    assert float((found - before).abs().max()) > 1e-3 * scale
