"""Write docs/reference/networks.md: what autoprune finds in well-known networks, and how small each can become.

Every network has its published size and random weights. What is found is also checked here, apart from the package's
own proof: with a random part of every group gone, the network must compute what it computes with those zeroed.
This needs timm and transformers, and some twenty minutes on one thread.
``tests/pruning/test_zoo.py`` does the same with small relatives.

    python scripts/make_network_docs.py                                # everything
    python scripts/make_network_docs.py "timm: mixnet_s" "timm: dla34"   # these rows of the second table only
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from network_families import families
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models as zoo

from autoprune.core.channel_groups import FrozenGroup, PruningGroup
from autoprune.core.metrics import FLOP_CONVENTION
from autoprune.core.space import SearchSpace
from autoprune.models.cifar_resnet import resnet20, resnet56
from autoprune.models.lstm import lstm
from autoprune.models.mlp import mlp
from autoprune.models.vit import vit
from autoprune.pruning.cut_plan import plan_cut
from autoprune.pruning.find_blocks import find_blocks
from autoprune.pruning.groups import find_groups
from autoprune.pruning.surgery import shrink, zeroed

TARGET = Path(__file__).resolve().parent.parent / "docs" / "reference" / "networks.md"
OUTPUT = "its channels are the network's output"
MAX_SPARSITY = 0.9
HEADER = """# Networks

Written by `python scripts/make_network_docs.py`: what autoprune finds in the smallest member of every family of
torchvision's classifiers, at its published size, and in its own networks; with random weights, because where channels
lie does not depend on them. Found on {day} with torch {torch}, on one thread of a shared machine: seconds are a hint,
everything else is exact.

{table}

The smallest members of some families of timm, at 64×64 pixels, and of transformers, at the width of its smallest
published encoders (128), with 10 classes:

{further}

How to read it:

- **groups** can be cut: channels that must go together, as along a residual stream or after a concatenation, count
  once. Each was proved: the network without some of its channels computes what it computes with them zeroed.
- **residual** groups are streams that several layers add to, **heads** groups of attention heads; both are among the
  groups.
- **blocks** can be dropped whole, because they only add to what passes through them.
- **frozen** groups stay whole. One is the last layer, whose channels are the network's output; the others are below.
- **smallest** is the share of the multiply–accumulates that is left when every group loses as much as
  `max_sparsity = {max_sparsity}` allows, and no block is dropped; counted on the network really cut.
  {convention}; biases, norms and activations are not counted.
- **seconds** is the processor time that it takes to find and prove the groups.

## What stays whole, and why

The last layer of every network, because {output}. Besides, in the first table:

{frozen}

`autoprune inspect` shows the same for a network of yours.
"""


class PaddedShortcut(nn.Module):
    """Halve the image and add channels of zeros: option A of He et al., "Deep Residual Learning" (2015)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, C + channels, H/2, W/2)``."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.channels // 2, self.channels // 2))


def resnet20_option_a() -> nn.Module:
    network = resnet20()
    network.layer2[0].downsample, network.layer3[0].downsample = PaddedShortcut(16), PaddedShortcut(32)
    return network


def without_helpers(build: Callable[..., nn.Module]) -> nn.Module:
    """Return GoogLeNet or Inception without the classifiers that only help training."""
    return build(weights=None, aux_logits=False, init_weights=False)


IMAGE = (3, 224, 224)
PUBLISHED: Mapping[str, tuple[int, int, int]] = {
    "alexnet": IMAGE, "vgg11": IMAGE, "resnet18": IMAGE, "resnext50_32x4d": IMAGE, "wide_resnet50_2": IMAGE,
    "densenet121": IMAGE, "googlenet": IMAGE, "inception_v3": (3, 299, 299), "squeezenet1_0": IMAGE,
    "mobilenet_v2": IMAGE, "mobilenet_v3_small": IMAGE, "mnasnet0_5": IMAGE, "shufflenet_v2_x0_5": IMAGE,
    "efficientnet_b0": IMAGE, "efficientnet_v2_s": (3, 384, 384), "regnet_y_400mf": IMAGE, "convnext_tiny": IMAGE,
    "vit_b_16": IMAGE, "swin_t": IMAGE, "swin_v2_t": (3, 256, 256), "maxvit_t": IMAGE,
}  # fmt: skip
OWN: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet20": (resnet20, (3, 32, 32)),
    "resnet56": (resnet56, (3, 32, 32)),
    "resnet20, option A": (resnet20_option_a, (3, 32, 32)),
    "lstm": (partial(lstm, input_shape=(1, 32, 32)), (1, 32, 32)),
    "vit": (partial(vit, input_shape=(1, 32, 32)), (1, 32, 32)),
    "mlp": (partial(mlp, num_classes=2, input_shape=(30,)), (30,)),
}


@dataclass(frozen=True)
class Row:
    """Hold what was found in one network.

    Attributes:
        name: as torchvision or autoprune calls it.
        shape: of one input.
        groups: what can be cut.
        blocks: how many blocks can be dropped.
        frozen: what cannot be cut.
        smallest: share of the multiply–accumulates that the smallest network has.
        seconds: to find the groups.
    """

    name: str
    shape: tuple[int, ...]
    groups: tuple[PruningGroup, ...]
    blocks: int
    frozen: tuple[FrozenGroup, ...]
    smallest: float
    seconds: float

    def cells(self) -> Iterator[object]:
        """Yield the cells of the table."""
        yield from (f"`{self.name}`", "×".join(map(str, self.shape)), len(self.groups))
        yield sum(group.is_residual for group in self.groups)
        yield sum(any(member.side == "heads" for member in group.members) for group in self.groups)
        yield from (self.blocks, len(self.frozen), f"{100 * self.smallest:.1f} %", max(1, round(self.seconds)))


@contextmanager
def without_fused_kernels() -> Iterator[None]:
    """Make LSTMs and attention run as matrix products, which PyTorch's counter sees."""
    torch.backends.mkldnn.enabled = False
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = True
        torch.backends.mha.set_fastpath_enabled(True)


def macs(network: nn.Module, example: Tensor) -> float:
    with without_fused_kernels(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(example[:1])
    return counter.get_total_flops() / 2


def look_at(name: str, build: Callable[[], nn.Module], example: Tensor, is_checked: bool = True) -> Row:
    """Return what is found in one network.

    Args:
        name: of the network.
        build: makes it, with random weights.
        example: two inputs.
        is_checked: whether the groups are proved a second time, here; that takes a network without statistics over
            channels.

    Raises:
        RuntimeError: if a cut is not the same as zeroing.
    """
    torch.manual_seed(0)
    network = build().eval().requires_grad_(False)
    began = time.process_time()
    groups = find_groups(network, example)
    seconds = time.process_time() - began
    blocks = find_blocks(network, example[:1], groups.cuttable)
    space = SearchSpace(groups.cuttable, {group.name: ("l2",) for group in groups.cuttable}, MAX_SPARSITY)
    most = {group.name: range(group.num_channels - space.channel_choices[group.name][0]) for group in groups.cuttable}
    smallest = shrink(network, plan_cut(network, groups.cuttable, most))
    share = macs(smallest, example) / macs(network, example)
    if is_checked:
        check(name, network.double(), groups.cuttable, example[:1].double())
    return Row(name, tuple(example.shape[1:]), groups.cuttable, len(blocks), groups.frozen, share, seconds)


def check(name: str, network: nn.Module, groups: Iterable[PruningGroup], example: Tensor) -> None:
    """Raise if the network without random channels is not the one with those channels zeroed."""
    for tensor in network.parameters():
        if tensor.dim() == 1 or tensor.detach().min() == tensor.detach().max():
            nn.init.uniform_(tensor, 0.5, 1.5)  # else a new network may hide what happens behind zeros
    draw = random.Random(0)
    removed = {g.name: draw.sample(range(g.num_channels), draw.randint(1, g.num_channels // 2)) for g in groups}
    cut = plan_cut(network, groups, removed)
    with torch.no_grad():
        dense, found, wanted = network(example), shrink(network, cut)(example), zeroed(network, cut)(example)
    scale = float(dense.abs().max())
    if not float((found - wanted).abs().max()) <= 1e-12 * scale or float((found - dense).abs().max()) < 1e-3 * scale:
        raise RuntimeError(f"{name}: cutting is not the same as zeroing")


def table_of(rows: Iterable[Row]) -> str:
    heads = ("network", "input", "groups", "residual", "heads", "blocks", "frozen", "smallest", "seconds")
    lines = [heads, ["---"] * 2 + ["--:"] * 7, *(list(row.cells()) for row in rows)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def network_docs(rows: Iterable[Row], further: Iterable[Row]) -> str:
    rows = list(rows)
    frozen = [
        f"- `{row.name}`: `{group.name}`, {counted(group.num_channels)}: {in_words(group.reason)}."
        for row in rows
        for group in row.frozen
        if group.reason != OUTPUT
    ]
    return HEADER.format(
        day=date.today().isoformat(),
        torch=torch.__version__.partition("+")[0],
        table=table_of(rows),
        further=table_of(further),
        max_sparsity=MAX_SPARSITY,
        convention=FLOP_CONVENTION[0].upper() + FLOP_CONVENTION[1:],
        output=OUTPUT,
        frozen="\n".join(frozen),
    )


def in_words(reason: str) -> str:
    """Return a reason with the line of code that it names set as code."""
    why, _, where = reason.partition(" (")
    return f"{why}, in `{where.removesuffix(')')}`" if where else why


def counted(channels: int) -> str:
    return f"{channels} channels" if channels > 1 else "1 channel"


def every_row() -> Iterator[Row]:
    networks = {name: (partial(getattr(zoo, name), weights=None), shape) for name, shape in PUBLISHED.items()}
    for name in ("googlenet", "inception_v3"):
        networks[name] = partial(without_helpers, getattr(zoo, name)), PUBLISHED[name]
    for name, (build, shape) in {**networks, **OWN}.items():
        yield shown(look_at(name, build, torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))))


def further_rows(wanted: Sequence[str] = ()) -> Iterator[Row]:
    for name, build, example in families():
        if not wanted or name in wanted:
            yield shown(look_at(name, build, example, is_checked=False))


def replaced(page: str, rows: Iterable[Row]) -> str:
    """Return the page with some rows of the second table measured anew."""
    lines = page.split("\n")
    for row in rows:
        (place,) = (index for index, line in enumerate(lines) if line.startswith(f"| `{row.name}` |"))
        lines[place] = "| " + " | ".join(map(str, row.cells())) + " |"
    return "\n".join(lines)


def shown(row: Row) -> Row:
    print(*row.cells(), f"{row.seconds:.1f} s", file=sys.stderr, flush=True)
    return row


if __name__ == "__main__":
    torch.set_num_threads(1)
    wanted = sys.argv[1:]
    if wanted:
        page = replaced(TARGET.read_text(encoding="utf-8"), further_rows(wanted))
    else:
        page = network_docs(list(every_row()), list(further_rows()))
    TARGET.write_text(page, encoding="utf-8")
    print(f"written: {TARGET}", file=sys.stderr)
