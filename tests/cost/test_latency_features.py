"""What takes time is, exactly, what is counted on networks really cut, dropped blocks included."""

from __future__ import annotations

import random

import pytest
import torch
from cut_networks import CUT_CASES
from torch import Tensor, nn

from autoprune.core.counts import ChannelCounts
from autoprune.core.kernel_widths import KERNEL_WIDTHS
from autoprune.core.space import SearchSpace
from autoprune.cost.cost_model import CostModel
from autoprune.cost.latency_features import LANES, WORK
from autoprune.models.cifar_resnet import resnet20
from autoprune.pruning.channel_positions import tensor_shrinks
from autoprune.pruning.find_blocks import find_blocks
from autoprune.pruning.groups import find_groups
from autoprune.pruning.surgery import Pruner


def counted(network: nn.Module, example: Tensor) -> list[float]:
    """Watch convolutions and linear layers run; return the numbers of ``WORK``."""
    found: list[tuple[int, ...]] = []

    def look(module: nn.Module, _: object, out: Tensor) -> None:
        assert isinstance(module, nn.Conv2d | nn.Linear)
        channels = out.shape[1]
        macs = out.numel() * module.weight[0].numel()
        positions = out.numel() // channels if isinstance(module, nn.Conv2d) else 0  # the classifier is never cut
        uneven = [positions * (channels % number > 0) for number in KERNEL_WIDTHS]
        found.append((1, macs, macs // channels * (-(-channels // LANES) * LANES), out.numel(), *uneven))

    hooks = [m.register_forward_hook(look) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        network.eval()(example)
    for hook in hooks:
        hook.remove()
    operations, *amounts = map(sum, zip(*found, strict=True))
    return [1.0, operations, *(amount / 1e6 for amount in amounts)]


@pytest.mark.parametrize("seed", range(4))
def test_work_is_what_is_counted_on_the_pruned_network(seed: int) -> None:
    network, example = resnet20().eval(), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    groups = find_groups(network, example).cuttable
    space = SearchSpace(groups, {g.name: ("any",) for g in groups}, blocks=find_blocks(network, example, groups))
    full = {group.name: group.num_channels for group in groups}
    cost = CostModel(network, tensor_shrinks(network, groups), full, example, blocks=space.blocks)
    pruner = Pruner(network, space, {"any": {name: torch.rand(count) for name, count in full.items()}})
    draw = random.Random(seed)
    kept = (
        space.normalized(space.of_cut_numbers({n: draw.choice(choices) for n, choices in space.cut_choices.items()}))
        if seed
        else space.full
    )
    if seed:
        assert 0 < len(kept.dropped_blocks) < len(space.blocks)

    small = pruner.prune(space.policy(kept, dict.fromkeys(full, "any")))
    work = cost.work(kept)

    # the classifier's 10 outputs belong to no group and fill a vector all the same
    assert work.tolist() == pytest.approx(counted(small, example[:1]), rel=1e-12)
    assert len(work) == len(WORK)
    assert work[2] == cost.measure(kept)["mflops"]


@pytest.mark.parametrize("name", sorted(CUT_CASES))
def test_every_kind_of_layer_has_work_that_shrinks_with_it(name: str) -> None:
    case = CUT_CASES[name]
    model = CostModel(case.build(**case.channels), case.shrinks, case.channels, case.example)
    dense, smallest = model.work(ChannelCounts()), model.work(ChannelCounts(dict.fromkeys(case.channels, 1)))
    assert dense[2] == pytest.approx(model.measure(ChannelCounts())["mflops"])
    assert (smallest[:5] <= dense[:5]).all()
    assert (smallest[5:] >= dense[5:]).all(), "one channel is no multiple of anything"
    assert (smallest[[2, 4]] < dense[[2, 4]]).all()
    assert smallest[1] == dense[1] >= 2
    assert dense[3] >= dense[2]
