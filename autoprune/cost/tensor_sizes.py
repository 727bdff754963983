"""The tensors of a network as rows: how many elements each has, and what an element costs, as channels go.

The number of elements of a tensor is the product of its sizes, of which some vary. Whatever is cut, each element of a
weight does the same multiply–accumulates, which ``mac_counter.py`` recorded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import TypeAlias

from torch import Tensor, nn

from autoprune.core.channel_groups import Block, Shrink
from autoprune.cost.mac_counter import Usage
from autoprune.cost.size_products import ONE, Factors, SizeTable

PRODUCTS = ":products"  # ends the name of a module's matrix products among the tensors
NOBODY = ":nobody"  # stands for the module of products that no group shrinks

Term: TypeAlias = tuple[Factors, Sequence[Fraction | int]]
"""Sizes that are multiplied, and what each unit of the product costs: MACs, parameters, bytes."""


@dataclass(frozen=True)
class TensorBytes:
    """What a tensor takes where it is stored.

    Attributes:
        each: bytes of an element.
        channel: further bytes for each index of its first dimension.
    """

    each: int
    channel: int = 0


@dataclass(frozen=True)
class Stored:
    """One parameter or persistent buffer of the dense network.

    Attributes:
        paths: every path it has; the first is the one that ``named_parameters`` gives it.
        shape: its dense sizes.
        element_size: bytes of one number.
        is_parameter: whether it counts as one.
    """

    paths: tuple[str, ...]
    shape: tuple[int, ...]
    element_size: int
    is_parameter: bool


def stored_tensors(network: nn.Module) -> dict[str, Stored]:
    """Return every tensor that is stored, shared ones once, under its first path."""
    tensors: dict[int, tuple[Tensor, list[str]]] = {}
    for path, tensor in network.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):  # a module may store other things as its extra state
            tensors.setdefault(id(tensor), (tensor, []))[1].append(path)
    return {
        paths[0]: Stored(tuple(paths), tuple(tensor.shape), tensor.element_size(), isinstance(tensor, nn.Parameter))
        for tensor, paths in tensors.values()
    }


@dataclass(frozen=True)
class SizeRow:
    """How many elements one tensor has: the product of some varying sizes and a constant.

    Attributes:
        path: its first path.
        factors: the sizes that vary, then the blocks it lies in.
        rest: the product of those that do not.
        varying: the product of those that do, in the dense network.
        height: the place of the size of dimension 0.
        is_height_cut: whether that varies.
    """

    path: str
    factors: Factors
    rest: int
    varying: int
    height: int
    is_height_cut: bool


class Rows:
    """The tensors of a network and their usage, as terms of sizes that vary.

    Args: as for :class:`CostModel`.
    """

    def __init__(
        self,
        network: nn.Module,
        shrinks: Mapping[str, Sequence[Shrink]],
        num_channels: Mapping[str, int],
        blocks: Sequence[Block],
    ) -> None:
        self._stored = {**stored_tensors(network), **_unstored(network)}
        self._first = {path: first for first, tensor in self._stored.items() for path in tensor.paths}
        self._check_known(network, shrinks)
        self._takes = _takes_of(shrinks, self._first)
        self._shares = _shares_of(shrinks)
        self._channels = num_channels
        self.sizes = SizeTable({**num_channels, **{block.name: 1 for block in blocks}})
        self._blocks = {self.sizes.place(1, {block.name: 1}): block for block in blocks}
        self._heads = self._places_of_products()

    def row(self, path: str) -> SizeRow:
        """Return one tensor by any of its paths."""
        stored = self._stored[self._first[path]]
        takes = [self._takes.get((stored.paths[0], dim), {}) for dim in range(len(stored.shape))]
        varying = [(size, taken) for size, taken in zip(stored.shape, takes, strict=True) if taken]
        cells = sorted(self.sizes.place(size, taken) for size, taken in varying)
        dense = prod(size for size, _ in varying)
        height, is_cut = (self.sizes.place(stored.shape[0], takes[0]), bool(takes[0])) if stored.shape else (ONE, False)
        rest = prod(size for size, taken in zip(stored.shape, takes, strict=True) if not taken)
        return SizeRow(stored.paths[0], (*cells, *self.around(*stored.paths)), rest, dense, height, is_cut)

    def tensors(self, int8: Mapping[str, TensorBytes] | None = None) -> Iterator[Term]:
        """Yield what every tensor adds to parameters and bytes.

        Args:
            int8: path of each stored tensor → what it takes in int8; ``None``: as they are.
        """
        for path, stored in self._stored.items():
            row = self.row(path)
            takes = TensorBytes(stored.element_size) if int8 is None else int8.get(path, TensorBytes(0))
            yield row.factors, (0, row.rest * stored.is_parameter, row.rest * takes.each)
            if takes.channel:
                yield (row.height, *self.around(*stored.paths)), (0, 0, takes.channel)

    def per_layer_in_blocks(self, layers: Iterable[str], total: int) -> Iterator[Term]:
        """Yield bytes that are no tensor's and go with blocks, in equal parts for each layer in one.

        Args:
            layers: paths of the weights of all layers.
            total: in the dense network.
        """
        around = [self.around(*self._stored[path].paths) for path in sorted({self._first[path] for path in layers})]
        inside = [blocks for blocks in around if blocks]
        for blocks in inside:
            yield blocks, (0, 0, Fraction(total, len(inside)))

    def weights(self, usage: Usage) -> Iterator[Term]:
        """Yield the multiply–accumulates of every weight; they go with it, and with the module that reads it."""
        for (path, module), macs in usage.weights.items():
            row = self.row(path)
            further = tuple(place for place in self.around(module) if place not in row.factors)
            factors, rest = (*row.factors, *further), macs
            for product, places, dense in self._products_of(module, path, macs):
                yield (*factors, *places), (Fraction(product.macs, row.varying * dense), 0, 0)
                rest -= product.macs
            if rest:
                yield factors, (Fraction(rest, row.varying), 0, 0)

    def products(self, usage: Usage) -> Iterator[Term]:
        """Yield the multiply–accumulates of all other products: by what shrinks them, else constant.

        That is the heads of an attention module for all its products together, or the channels along a dimension of
        one product.

        Raises:
            ValueError: if those of a module do not divide evenly over its heads.
        """
        totals: Counter[str] = Counter()
        for module, total in usage.products.items():
            for product, places, dense in self._products_of(module, "", total):
                yield (*places, *self.around(module)), (Fraction(product.macs, dense), 0, 0)
            macs = total - self._known_macs(module, "", total)
            attention = self._attention_around(module)
            totals[attention] += macs
            place, heads = self._heads[attention]
            yield (place, *self.around(module)), (Fraction(macs, heads), 0, 0)
        for attention, macs in totals.items():
            heads = self._heads[attention][1]
            if macs % heads:
                raise ValueError(
                    f"{macs} multiply–accumulates of products in {attention} do not divide over {heads} heads"
                )

    def _products_of(self, module: str, weight: str, total: int) -> Iterator[tuple[ProductCost, Factors, int]]:
        """Yield the products that groups shrink one by one: the sizes that are channels, and their dense product."""
        if not self._known_macs(module, weight, total):
            return
        for product, factors in self._shares[module, weight].items():
            places = tuple(self.sizes.place(size, takes) for size, takes in factors.values())
            yield product, places, prod(size for size, _ in factors.values())

    def _known_macs(self, module: str, weight: str, total: int) -> int:
        """Return the multiply–accumulates of these products; 0 if they are more than were counted."""
        macs = sum(product.macs for product in self._shares.get((module, weight), {}))
        return macs if macs <= total else 0

    def constants(self, usage: Usage) -> Iterator[str]:
        """Yield in words what is held constant, if anything is."""
        macs = sum(
            total - self._known_macs(module, "", total)
            for module, total in usage.products.items()
            if self._attention_around(module) == NOBODY
        )
        if macs:
            yield f"{macs / 1e6:.2f} MFLOPs of products between activations are taken as constant"

    def around(self, *paths: str) -> Factors:
        """Return the places of the blocks that hold all these paths of one tensor or module."""
        return tuple(place for place, block in self._blocks.items() if all(map(block.holds, paths)))

    def _places_of_products(self) -> dict[str, tuple[int, int]]:
        """Return module → the place of its number of heads, and that number in the dense network."""
        found = {NOBODY: (ONE, 1)}
        for (path, dim), takes in self._takes.items():
            if path.endswith(PRODUCTS) and dim == 0:
                heads = sum(self._channels[group] * each for group, each in takes.items())
                found[path.removesuffix(PRODUCTS)] = self.sizes.place(heads, takes), heads
        return found

    def _attention_around(self, module: str) -> str:
        """Return the nearest module around whose products a group shrinks, or nobody."""
        inside = f"{module}."
        return max((name for name in self._heads if not name or inside.startswith(f"{name}.")), key=len, default=NOBODY)

    def _check_known(self, network: nn.Module, shrinks: Mapping[str, Sequence[Shrink]]) -> None:
        known = {**self._first, **dict(network.named_buffers())}  # a buffer that is not stored costs nothing
        named = {shrink.tensor for each in shrinks.values() for shrink in each}
        unknown = sorted(name for name in named if name not in known and not name.endswith(PRODUCTS))
        if unknown:
            raise ValueError(f"this network has no tensor {', '.join(unknown)}; a group cannot shrink it")


def _unstored(network: nn.Module) -> dict[str, Stored]:
    """Return the buffers that are not stored: they cost no bytes, and a fixed filter among them has its work."""
    stored = network.state_dict(keep_vars=True).keys()
    return {
        path: Stored((path,), tuple(buffer.shape), 0, False)
        for path, buffer in network.named_buffers()
        if path not in stored
    }


@dataclass(frozen=True)
class ProductCost:
    """One product of activations: its number in the network, and its multiply–accumulates."""

    number: int
    macs: int


_Dims = dict[int, tuple[int, dict[str, int]]]
"""Dimension → how long it is, and what each group takes of it per channel."""


def _shares_of(
    shrinks: Mapping[str, Sequence[Shrink]],
) -> dict[tuple[str, str], dict[ProductCost, _Dims]]:
    """Return (module, weight) → product → which of its dimensions shrink."""
    found: dict[tuple[str, str], dict[ProductCost, _Dims]] = defaultdict(dict)
    for group, each in shrinks.items():
        for share in (shrink.product for shrink in each if shrink.product is not None):
            number, factor = share.key
            factors = found[share.module, share.weight].setdefault(ProductCost(number, share.macs), {})
            factors.setdefault(factor, (share.size, {}))[1][group] = share.width
    return found


def _takes_of(
    shrinks: Mapping[str, Sequence[Shrink]], first: Mapping[str, str]
) -> dict[tuple[str, int], dict[str, int]]:
    """Return (tensor, dimension) → group → by how much it shrinks; a shared tensor does once, under its first path."""
    summed: Counter[tuple[str, int, str]] = Counter()
    for group, each in shrinks.items():
        for shrink in each:
            if shrink.product is not None:
                continue
            summed[shrink.tensor, shrink.dim, group] += shrink.per_channel
    takes: dict[tuple[str, int], dict[str, int]] = defaultdict(dict)
    for (path, dim, group), by in summed.items():
        taken = takes[first.get(path, path), dim]
        taken[group] = max(by, taken.get(group, 0))
    return takes
