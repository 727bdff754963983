"""The amounts of work that latency follows, for any policy and in microseconds.

Every read of a weight is one operation. It costs a launch, its multiply–accumulates, and its outputs, which norms and
activations then pass over as well. Kernels compute whole vectors of output channels, so that 9 take the time of 16:
multiply–accumulates are counted a second time with the outputs rounded up. And where channels are no multiple of 4 or
16, every position has a rest that is computed one by one, which in int8 can take longer than all that was cut saves.
Nothing here is a time; ``search/proposals/latency_model.py`` learns from timed networks what each of these numbers is
worth.

Source: the layer-wise latency tables of Yang et al. 2018, "NetAdapt", section 3.3, in closed form and without a table.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import numpy as np

from autoprune.core.arrays import Floats, Ints
from autoprune.core.kernel_widths import KERNEL_WIDTHS
from autoprune.cost.mac_counter import Usage
from autoprune.cost.size_products import ONE, Factors, Products
from autoprune.cost.tensor_sizes import Rows

WORK = (
    "networks",
    "operations",
    "mflops",
    "vector_mflops",
    "outputs",
    *(f"uneven_{number}" for number in KERNEL_WIDTHS),
)
"""What :class:`Work` counts: one network, active operations, MFLOPs, MFLOPs of whole vectors, millions of outputs, and
millions of positions at which channels that can be cut are no multiple of 4, and of 16."""

LANES = 16  # float32 numbers in the widest vector of today's CPUs; the block of channels that oneDNN computes at once


class Work:
    """The amounts of work for one input, counted without building the network.

    The outputs of a weight are what its dimension 0 produces: the outputs of convolutions and linear layers, the gates
    of recurrent ones; of transposed convolutions, their inputs.

    Args:
        rows: of the network.
        usage: of its weights; products of attention are operations too, without outputs.
    """

    def __init__(self, rows: Rows, usage: Usage) -> None:
        entries = [(rows.row(path), rows.around(path) + rows.around(module)) for path, module in usage.weights]
        products = list(rows.products(usage))
        uses = [
            Fraction(n, row.varying * row.rest) for (row, _), n in zip(entries, usage.weights.values(), strict=True)
        ]
        none = [0] * len(products)
        self._around = Products([*(_once(around) for _, around in entries), *(_once(f[1:]) for f, _ in products)])
        self._varying = Products([*(row.factors for row, _ in entries), *(f for f, _ in products)])
        each = (use * row.rest for use, (row, _) in zip(uses, entries, strict=True))
        self._macs = _floats([*each, *(costs[0] for _, costs in products)])
        self._uses = _floats([*uses, *none])
        self._cuttable = _floats([*(row.is_height_cut for row, _ in entries), *none])
        self._heights: Ints = np.array([*(row.height for row, _ in entries), *(ONE for _ in none)], dtype=np.intp)

    def of(self, sizes: Ints) -> Floats:
        """Return the amounts in the order of :data:`WORK`, shape ``(7,)``; for many policies, ``(7, n)``.

        Args:
            sizes: all sizes of the policy, as :class:`Sizes` gives them: ``(num_places,)``, or
                ``(num_places, n)``.
        """
        active = (self._around.of(sizes) > 0).astype(np.float64)
        heights = sizes[self._heights].astype(np.float64)
        macs = (self._varying.of(sizes) * active).T * self._macs  # one row for each policy
        lone = (self._heights == ONE).astype(np.float64)
        filled = np.where(lone, 1.0, np.ceil(heights.T / LANES) * LANES / np.maximum(heights.T, 1.0))
        outputs = (active * heights).T @ self._uses
        whole = sizes[self._heights]
        uneven = [(active * (whole % number > 0)).T @ (self._uses * self._cuttable) for number in KERNEL_WIDTHS]
        millions = np.array([macs.sum(axis=-1), (macs * filled).sum(axis=-1), outputs, *uneven]) / 1e6
        return np.array([np.ones_like(millions[0]), active.sum(axis=0), *millions])


def _once(places: Factors) -> Factors:
    return tuple(dict.fromkeys(places))


def _floats(values: Iterable[Fraction | int]) -> Floats:
    return np.array([float(value) for value in values])
