"""How much the loss rises when each group, or block, is cut alone: plain data, its curves, its JSON.

Measured once per study by ``rises``; read by the knapsack, by the sampler and by the report.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autoprune.core.arrays import Floats
from autoprune.core.json_values import parse_json

VERSION = 1
DIVERGENCE, LOSS = "divergence", "loss"  # what is measured: of the answers from the dense ones, or the rise of the loss
_LEAST = 1e-4  # a rise of the loss below this is none; keeps logarithms finite and larger cuts dearer
_LEAST_EXPONENT, _LARGEST_EXPONENT = 2.0, 8.0


@dataclass(frozen=True)
class Curve:
    """How the loss rises when one group alone is cut.

    Attributes:
        full: channels of the group in the dense network, 1 for a block.
        rises: count kept, below ``full`` → divergence of the answers from the dense network's, or loss with it − loss
            of the dense network.
    """

    full: int
    rises: Mapping[int, float]

    def at(self, counts: tuple[int, ...]) -> Floats:
        """Return the rise at any counts, shape ``(len(counts),)``: ≥ 0, 0 for the whole group.

        Between measured levels log rise is linear in log sparsity, so that a curve is a chain of powers; beyond them
        the outermost power goes on. No power is below 2: near a minimum the loss rises with the square of what is
        taken away (LeCun et al. 1990, "Optimal Brain Damage", equation 2), and where a measured curve bends down,
        because no loss is far above that of guessing or because it is noise, trusting it would cut to the floor.

        >>> Curve(8, {6: 0.1, 4: 0.4}).at((2, 4, 5, 6, 8)).round(3).tolist()
        [0.9, 0.4, 0.225, 0.1, 0.0]
        """
        kept = [count for count in sorted(self.rises, reverse=True) if count < self.full]
        wanted = 1 - np.array(counts) / self.full
        found = np.zeros(len(counts))
        if kept:
            x = np.log([1 - count / self.full for count in kept])
            y = _steep_enough(x, np.log([max(_LEAST, self.rises[count]) for count in kept]))
            found[wanted > 0] = np.exp(_chained(np.log(wanted[wanted > 0]), x, y))
        return found


def _steep_enough(x: Floats, y: Floats) -> Floats:
    """Return y raised where its slope would be below the least exponent."""
    y = y.copy()
    for place in range(1, len(y)):
        y[place] = max(y[place], y[place - 1] + _LEAST_EXPONENT * (x[place] - x[place - 1]))
    return y


def _chained(x: Floats, known_x: Floats, known_y: Floats) -> Floats:
    """Return y at x through known points, straight on beyond them."""
    slopes = np.diff(known_y) / np.diff(known_x) if len(known_x) > 1 else np.array([_LEAST_EXPONENT])
    first, last = np.clip((slopes[0], slopes[-1]), _LEAST_EXPONENT, _LARGEST_EXPONENT)
    inside = np.interp(x, known_x, known_y)
    before, beyond = known_y[0] + first * (x - known_x[0]), known_y[-1] + last * (x - known_x[-1])
    return np.where(x < known_x[0], before, np.where(x > known_x[-1], beyond, inside))


@dataclass(frozen=True)
class Sensitivity:
    """The curves of a study.

    Attributes:
        curves: group or block → curve; empty if they were not measured.
        dense_loss: of the dense network on the same examples.
        seconds: spent on it.
        settings: what it was measured with.
    """

    curves: Mapping[str, Curve] = field(default_factory=dict)
    dense_loss: float = 0.0
    seconds: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def measure(self) -> str:
        """Return what was measured, :data:`DIVERGENCE` or :data:`LOSS`; earlier studies know the loss only."""
        return str(self.settings.get("measure", LOSS))

    def to_json(self) -> str:
        """Return a JSON document."""
        curves = {
            name: {"full": curve.full, "rises": {str(count): rise for count, rise in curve.rises.items()}}
            for name, curve in self.curves.items()
        }
        head = {"version": VERSION, "settings": dict(self.settings), "dense_loss": self.dense_loss}
        return json.dumps({**head, "seconds": self.seconds, "curves": curves}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Sensitivity:
        """Return what :meth:`to_json` wrote.

        Raises:
            ValueError: if it is something else, or holds counts or losses that cannot be.
        """
        try:
            data = parse_json(text)
            if data["version"] != VERSION:
                raise ValueError(f"version {data['version']}; this autoprune reads version {VERSION}")
            curves = {name: _curve(name, each) for name, each in data["curves"].items()}
            return cls(curves, float(data["dense_loss"]), float(data["seconds"]), dict(data["settings"]))
        except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise ValueError(f"not a sensitivity document ({type(error).__name__}: {error})") from error


def _curve(name: str, stored: Mapping[str, Any]) -> Curve:
    full = int(stored["full"])
    rises = dict(sorted((int(kept), float(rise)) for kept, rise in stored["rises"].items()))
    if not all(0 <= kept < full for kept in rises):
        raise ValueError(f"{name} was cut to {list(rises)} channels, where 0 … {full - 1} were expected")
    if not all(map(math.isfinite, rises.values())):
        raise ValueError(f"a rise of {name} is not a finite number")
    return Curve(full, rises)
