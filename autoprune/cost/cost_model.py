"""MACs, parameters and bytes of any policy, counted exactly and in microseconds.

Every tensor of the network is a row. Its number of elements is the product of its sizes, and each size is the dense
one less what the removed channels take away (:class:`Shrink`). A weight does the same number of
multiply–accumulates per element whatever is cut: output positions in a convolution, rows in a linear layer, time
steps in a recurrent one. So the cost of a policy is a few products of small arrays, and equals exactly the count on
the network once it is pruned. ``mac_counter.py`` records the uses on the dense network, ``tensor_sizes.py`` lists
its tensors, ``size_products.py`` does the arithmetic.

One FLOP is one multiply–accumulate, half of what ``torch.utils.flop_counter.FlopCounterMode`` prints.
Biases, norms and activations are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from math import lcm, prod
from operator import mul

import numpy as np
from torch import nn

from autoprune.core.arrays import Floats
from autoprune.core.channel_groups import Block, Shrink
from autoprune.core.counts import MASK_UNITS, ChannelCounts, masked_zeros
from autoprune.core.int8_overhead import Int8Overhead
from autoprune.core.measurement import Measurement
from autoprune.cost.int8_size import int8_bytes
from autoprune.cost.latency_features import Work
from autoprune.cost.layer_table import layer_costs
from autoprune.cost.mac_counter import Usage, count_macs, record_usage
from autoprune.cost.size_products import Products, Totals, WholeNumbers
from autoprune.cost.tensor_sizes import Rows, Term, stored_tensors

UNCOUNTED = "biases, norms and activations"


class CostModel:
    """The exact MACs, parameters and bytes of every policy.

    Args:
        network: the dense network; not touched.
        shrinks: group → what one removed channel of it takes away, tensor by tensor.
        num_channels: group → its channels in the dense network.
        example: one batch of inputs, as :meth:`Inputs.of` takes it; costs are for one of its examples.
        blocks: what can be dropped whole.
        masked_layers: paths of the modules whose ``weight`` can be masked; no two share one.
        mask_pattern: ``"weight"`` or ``"2:4"``.
        int8: what files in int8 hold beside tensors, if sizes are to be those of such files; ``None`` for sizes of the
            stored weights as they are.

    Attributes:
        int8: as given.
        layers: what each layer of the dense network does, for tables.
        uncounted: what is left out or held constant, in words.

    Raises:
        ValueError: if a shrink names a tensor that does not exist, or takes away more than there is.
    """

    def __init__(
        self,
        network: nn.Module,
        shrinks: Mapping[str, Sequence[Shrink]],
        num_channels: Mapping[str, int],
        example: object,
        *,
        blocks: Sequence[Block] = (),
        masked_layers: Sequence[str] = (),
        mask_pattern: str = "weight",
        int8: Int8Overhead | None = None,
    ) -> None:
        usage = record_usage(network, example)
        rows = Rows(network, shrinks, num_channels, blocks)
        terms = [((), (0, 0, 0)), *rows.weights(usage), *rows.products(usage)]
        terms += rows.tensors() if int8 is None else _int8_terms(network, rows, usage, int8)
        self.int8 = int8
        self.layers = layer_costs(network, usage)
        self.uncounted = (UNCOUNTED, *rows.constants(usage))
        self._masks = _Masks(masked_layers, mask_pattern, rows, usage) if masked_layers else None
        self._work = Work(rows, usage)
        self._blocks = frozenset(block.name for block in blocks)
        self._sizes = rows.sizes
        self._totals = Totals(terms, self._sizes.of(ChannelCounts()))

    def count(self, kept: ChannelCounts) -> tuple[int, int, int]:
        """Return MACs for one input, parameters, and bytes of what is stored.

        Args:
            kept: what stays; names that are missing stay whole.
        """
        macs, params, stored = self._totals.of(self._sizes.of(kept))
        return macs, params, stored

    def count_zeros(self, kept: ChannelCounts) -> tuple[int, int]:
        """Return the multiply–accumulates with weights that a mask sets to zero, and how many these are."""
        return self._masks.zeros(kept, self._sizes.of(kept)) if self._masks else (0, 0)

    def work(self, kept: ChannelCounts) -> Floats:
        """Return what takes time, shape ``(7,)``: the numbers that :data:`WORK` names."""
        return self._work.of(self._sizes.of(kept))

    def work_many(self, names: Sequence[str], counts: WholeNumbers) -> Floats:
        """Return the same of many policies, shape ``(n, 7)``; arguments as for :meth:`measure_many`."""
        return np.asarray(self._work.of(self._sizes.of_many(names, counts)).T)

    def measure(self, kept: ChannelCounts) -> Measurement:
        """Return ``mflops``, ``mparams`` and ``size_mb`` (10⁶ bytes) of a policy; with masks, also what is not zero."""
        zeros = self.count_zeros(kept) if self._masks else None
        return _measurement(*self.count(kept), zeros, self.uncounted)

    def measure_many(self, names: Sequence[str], counts: WholeNumbers) -> dict[str, Floats]:
        """Return the same costs of many policies at once, metric → shape ``(n,)``; thousands in milliseconds.

        Args:
            names: groups and blocks that the columns stand for; what is not named stays whole.
            counts: channels of a group, 1 or 0 for a block, shape ``(n, len(names))``.
        """
        if self._masks:  # zeros are counted layer by layer
            found = [self.measure(self._as_counts(names, row)).values for row in counts.tolist()]
            return {name: np.array([each[name] for each in found]) for name in found[0]} if found else {}
        totals = self._totals.of_many(self._sizes.of_many(names, counts))
        return {name: total / 1e6 for name, total in zip(("mflops", "mparams", "size_mb"), totals, strict=True)}

    def _as_counts(self, names: Sequence[str], row: Sequence[int]) -> ChannelCounts:
        numbers = dict(zip(names, row, strict=True))
        dropped = frozenset(name for name in self._blocks if not numbers.get(name, 1))
        return ChannelCounts({name: count for name, count in numbers.items() if name not in self._blocks}, dropped)


def _int8_terms(network: nn.Module, rows: Rows, usage: Usage, overhead: Int8Overhead) -> list[Term]:
    """Return what every tensor adds to parameters and to a file in int8, and what else is in such a file."""
    layers = (path for path, _ in usage.weights)
    of_blocks = list(rows.per_layer_in_blocks(layers, overhead.in_blocks))
    constant = overhead.total - (overhead.in_blocks if of_blocks else 0)
    return [*rows.tensors(int8_bytes(network)), ((), (0, 0, constant)), *of_blocks]


def measure_network(network: nn.Module, example: object, masked: Sequence[str] = ()) -> Measurement:
    """Return the same costs of a network as it is, counted without the closed form.

    Args:
        network: any network; not touched.
        example: one batch of inputs, as :meth:`Inputs.of` takes it; costs are for one of its examples.
        masked: paths of the modules whose zero weights count as masked; those that the network lacks are skipped. If
            empty, zeros are not counted.
    """
    macs, params = count_macs(network, example), sum(p.numel() for p in network.parameters())
    zeros = _zeros_found(network, example, masked) if masked else None
    return _measurement(macs, params, state_bytes(network), zeros, (UNCOUNTED,))


def state_bytes(network: nn.Module) -> int:
    """Return the bytes of all parameters and persistent buffers, stored as they are, shared ones once."""
    return sum(prod(stored.shape) * stored.element_size for stored in stored_tensors(network).values())


def _zeros_found(network: nn.Module, example: object, masked: Iterable[str]) -> tuple[int, int]:
    """Return the multiply–accumulates with zeros in the weights of some layers, and how many zeros there are."""
    usage, parameters = record_usage(network, example), dict(network.named_parameters(remove_duplicate=False))
    first = {parameter: path for path, parameter in network.named_parameters()}
    weights = [parameters[path] for path in (f"{layer}.weight" for layer in masked) if path in parameters]
    zeros = [weight.numel() - int(weight.count_nonzero()) for weight in weights]
    uses = [Fraction(usage.of_parameter(first[weight]), weight.numel()) for weight in weights]
    return int(sum(map(mul, zeros, uses))), sum(zeros)


def _measurement(
    macs: int, params: int, stored: int, zeros: tuple[int, int] | None, uncounted: tuple[str, ...]
) -> Measurement:
    values = {"mflops": macs / 1e6, "mparams": params / 1e6, "size_mb": stored / 1e6}
    if zeros is not None:
        values |= {"nonzero_mflops": (macs - zeros[0]) / 1e6, "nonzero_mparams": (params - zeros[1]) / 1e6}
    return Measurement(values, uncounted=uncounted)


# what is masked


class _Masks:
    """What masks set to zero, layer by layer.

    Args:
        layers: paths of the modules whose weights can be masked.
        pattern: ``"weight"`` or ``"2:4"``.
        rows: of the network.
        usage: of its weights.
    """

    def __init__(self, layers: Sequence[str], pattern: str, rows: Rows, usage: Usage) -> None:
        self._weights = [rows.row(f"{layer}.weight") for layer in layers]
        self._layers = tuple(layers)
        self._pattern = pattern
        uses = [Fraction(usage.of_parameter(row.path), row.varying * row.rest) for row in self._weights]
        self._scale = lcm(*(each.denominator for each in uses))
        self._uses = [int(each * self._scale) for each in uses]
        self._products = Products([row.factors for row in self._weights])

    def zeros(self, kept: ChannelCounts, sizes: WholeNumbers) -> tuple[int, int]:
        """Return the multiply–accumulates with masked weights, and the number of these."""
        macs = zeros = 0
        elements, lengths = self._products.of(sizes).tolist(), sizes.tolist()
        for layer, row, uses, varying in zip(self._layers, self._weights, self._uses, elements, strict=True):
            units = kept.mask_units.get(layer, MASK_UNITS)
            if units < MASK_UNITS:
                count = self._zeros_of(varying * row.rest, lengths[row.height], units)
                macs, zeros = macs + count * uses, zeros + count
        return macs // self._scale, zeros

    def _zeros_of(self, weights: int, height: int, units: int) -> int:
        """Return how many weights of one layer are zero; two of four only where a row is a multiple of four."""
        if self._pattern == "2:4":
            return weights // 2 if weights // height % 4 == 0 else 0
        return masked_zeros(weights, units)
