"""Products of sizes that shrink with what is removed: the arithmetic of ``cost_model.py``, without a network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from math import lcm
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from autoprune.core.counts import ChannelCounts

WholeNumbers: TypeAlias = NDArray[Any]
Factors: TypeAlias = tuple[int, ...]
"""The places of the sizes that are multiplied, ascending; a square weight may have the same one twice."""

ONE = 0  # the place of the size that is always 1
_LARGEST = 2**62  # what an int64 sum may reach; beyond, Python's integers compute
_LARGEST_FLOAT = 2**53  # up to here every whole number is a float


class SizeTable:
    """The sizes that a policy changes: each is the dense one less a sum over what was removed.

    Args:
        full: group or block → its channels in the dense network, 1 for a block.
    """

    def __init__(self, full: Mapping[str, int]) -> None:
        self._full = dict(full)
        self._columns = {name: column for column, name in enumerate(self._full)}
        self._places: dict[tuple[int, tuple[tuple[str, int], ...]], int] = {(1, ()): ONE}

    def place(self, dense: int, takes: Mapping[str, int]) -> int:
        """Return where a size is; equal ones are in the same place.

        Args:
            dense: when nothing is removed.
            takes: group or block → by how much the size shrinks for each channel removed.

        Raises:
            ValueError: if that is more than there is.
        """
        taken = sum(self._full[name] * each for name, each in takes.items())
        if taken > dense:
            raise ValueError(f"a size of {dense} cannot lose the {taken} that {', '.join(sorted(takes))} would take")
        return self._places.setdefault((dense, tuple(sorted(takes.items()))), len(self._places))

    def of(self, kept: ChannelCounts) -> WholeNumbers:
        """Return all sizes, shape ``(num_places,)``; what ``kept`` does not name is whole. No size is added after."""
        dense, takes, full = self._table
        removed = np.zeros(len(full), dtype=np.int64)
        for name, count in kept.channels.items():
            if name in self._columns:
                removed[self._columns[name]] = self._full[name] - count
        for name in kept.dropped_blocks:
            if name in self._columns:
                removed[self._columns[name]] = 1
        return np.asarray(dense - takes @ removed)

    def of_many(self, names: Sequence[str], counts: WholeNumbers) -> WholeNumbers:
        """Return all sizes of many policies, shape ``(num_places, n)``.

        Args:
            names: what the columns stand for; what is not named is whole.
            counts: shape ``(n, len(names))``.
        """
        dense, takes, full = self._table
        columns = self._columns
        known = [(columns[name], place) for place, name in enumerate(names) if name in columns]
        mine, theirs = [column for column, _ in known], [place for _, place in known]
        removed = full[mine, None] - counts[:, theirs].T
        taken = takes[:, mine].astype(np.float64) @ removed.astype(np.float64)  # whole numbers; floats multiply faster
        return np.asarray(dense[:, None] - taken.astype(np.int64))

    @cached_property
    def _table(self) -> tuple[WholeNumbers, WholeNumbers, WholeNumbers]:
        """Return dense sizes ``(num_places,)``, what is taken ``(num_places, num_names)``, and the full counts."""
        columns = self._columns
        takes: WholeNumbers = np.zeros((len(self._places), len(columns)), dtype=np.int64)
        for (_, taken), row in self._places.items():
            for name, each in taken:
                takes[row, columns[name]] = each
        dense = np.array([size for size, _ in self._places], dtype=np.int64)
        return dense, takes, np.array(list(self._full.values()), dtype=np.int64)


class Products:
    """Products of sizes, one for each entry."""

    def __init__(self, factors: Sequence[Factors]) -> None:
        width = max(map(len, factors), default=0)
        padded = [(*entry, *[ONE] * (width - len(entry))) for entry in factors]
        self._places: WholeNumbers = np.array(padded, dtype=np.intp).reshape(len(factors), width)

    def of(self, sizes: WholeNumbers) -> WholeNumbers:
        """Return the products, shape ``(num_entries,)``; of sizes ``(num_places, n)``, ``(num_entries, n)``."""
        return np.asarray(sizes[self._places].prod(axis=1))


class Totals:
    """Sums of products of sizes with coefficients, several totals at once, exactly.

    Args:
        terms: factors and their coefficients, one for each total; terms of equal factors are merged.
        dense: all sizes of the dense network, where every total is largest.

    >>> sizes = SizeTable({"a": 4})
    >>> place = sizes.place(4, {"a": 1})
    >>> dense, half = (sizes.of(ChannelCounts({"a": count})) for count in (4, 2))
    >>> Totals([((place, place), [Fraction(3)]), ((), [Fraction(5)])], dense).of(half)
    (17,)
    """

    def __init__(self, terms: Iterable[tuple[Factors, Sequence[Fraction | int]]], dense: WholeNumbers) -> None:
        together: dict[Factors, list[Fraction]] = defaultdict(list)
        for factors, coefficients in terms:
            former = together[factors] or [Fraction(0)] * len(coefficients)
            together[factors] = [one + other for one, other in zip(former, coefficients, strict=True)]
        rows = list(together.values())
        # whole numbers over a common denominator, which is 1 unless parts of one weight are used unequally often
        self._scales = [lcm(*(c.denominator for c in column)) for column in zip(*rows, strict=True)]
        scaled = [[int(c * scale) for c, scale in zip(row, self._scales, strict=True)] for row in rows]
        self._products = Products(list(together))
        self._coefficients: WholeNumbers = np.array(scaled, dtype=object)
        largest = max(self._products.of(dense.astype(object)) @ self._coefficients, default=0)
        self._fits_floats = largest < _LARGEST_FLOAT
        if largest < _LARGEST:
            self._coefficients = self._coefficients.astype(np.int64)

    def of(self, sizes: WholeNumbers) -> tuple[int, ...]:
        """Return every total, rounded down."""
        sums = self._products.of(sizes.astype(self._coefficients.dtype, copy=False)) @ self._coefficients
        return tuple(int(total) // scale for total, scale in zip(sums, self._scales, strict=True))

    def of_many(self, sizes: WholeNumbers) -> tuple[WholeNumbers, ...]:
        """Return every total of many policies, each of shape ``(n,)``, for sizes of shape ``(num_places, n)``."""
        exact = self._coefficients.dtype
        if self._fits_floats:
            exact = np.dtype(np.float64)  # whole numbers below 2⁵³, and matrices of floats multiply faster
        sums = self._coefficients.T.astype(exact) @ self._products.of(sizes.astype(exact))
        return tuple(total // scale for total, scale in zip(sums, self._scales, strict=True))
