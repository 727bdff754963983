"""Networks that were cut, compensated and looked at without training: plain data, and its JSON.

Found by ``search.screening``; read by the samplers, by ``pick`` and by the report. How far a network's answers are from
the dense network's is its *rise*: their Kullback–Leibler divergence for logits, what else the task's ``distill`` says,
or else the rise of the validation loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from autoprune.core.budget import Budget
from autoprune.core.counts import ChannelCounts
from autoprune.core.json_values import JsonObject
from autoprune.core.measurement import Measurement

Kept: TypeAlias = tuple[tuple[tuple[str, int], ...], frozenset[str]]
"""Channels of each group that stay, and blocks that go: what tells two networks of one space apart."""


@dataclass(frozen=True)
class ScreenedNetwork:
    """One network that was looked at.

    Attributes:
        number: position in the screening, from 0.
        part: of the screening that it belongs to: ``"curve"``, or a budget's text.
        step: position in that part, from 0; some are left out, where nothing new was found.
        origin: how it was made: ``"knapsack"``, ``"drawn"``, ``"mutated"``, ``"crossed"`` or ``"baseline"``.
        counts: what stays, everything named; the criterion is each group's first.
        budget: the absolute limits that it was made for.
        costs: exact, and ``latency_ms`` where it was predicted.
        closed_form: rise after the closed-form refit.
        compensated: rise after a whole compensation pass; ``None``: there was none.
        quality: what the task judges it by after that pass, and its ``loss``, on eight times as many examples.
    """

    number: int
    part: str
    step: int
    origin: str
    counts: ChannelCounts
    budget: Budget
    costs: Measurement
    closed_form: float
    compensated: float | None = None
    quality: Measurement | None = None

    @property
    def kept(self) -> Kept:
        """Return what tells it from other networks."""
        return kept_of(self.counts)

    def to_json(self) -> JsonObject:
        """Return plain types for JSON; the compensation pass is a record of its own."""
        return {
            "number": self.number,
            "part": self.part,
            "step": self.step,
            "origin": self.origin,
            "channels": dict(self.counts.channels),
            "dropped_blocks": sorted(self.counts.dropped_blocks),
            "budget": self.budget.to_json(),
            "costs": dict(self.costs.values),
            "closed_form": self.closed_form,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ScreenedNetwork:
        """Return the network that :meth:`to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: if it is damaged.
        """
        return cls(
            int(data["number"]),
            str(data["part"]),
            int(data["step"]),
            str(data["origin"]),
            ChannelCounts({name: int(n) for name, n in data["channels"].items()}, frozenset(data["dropped_blocks"])),
            Budget.parse(data["budget"]),
            Measurement({name: float(value) for name, value in data["costs"].items()}),
            float(data["closed_form"]),
        )

    def refit_record(self) -> JsonObject:
        """Return the record of the compensation pass."""
        quality = None if self.quality is None else self.quality.to_json()
        return {"number": self.number, "compensated": self.compensated, "quality": quality}

    def with_refit(self, data: Mapping[str, Any]) -> ScreenedNetwork:
        """Return the network with what :meth:`refit_record` wrote."""
        quality = None if data["quality"] is None else Measurement.from_json(data["quality"])
        return replace(self, compensated=float(data["compensated"]), quality=quality)


@dataclass(frozen=True)
class Screening:
    """What a study's screening has seen.

    Attributes:
        settings: what decides it, beside the study's own.
        networks: by number.
        taken: part → steps of it that were taken.
    """

    settings: JsonObject = field(default_factory=dict)
    networks: tuple[ScreenedNetwork, ...] = ()
    taken: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_records(cls, records: Sequence[Mapping[str, Any]]) -> Screening:
        """Return the screening of its records: the settings, then what :meth:`round_record` wrote of each round.

        In older studies each network, and each second look at one, has a record of its own.

        Raises:
            KeyError, TypeError, ValueError, IndexError: if a record is damaged.
        """
        networks, taken = list[ScreenedNetwork](), dict[str, int]()
        for entry in records[1:]:
            for record in entry.get("looks", [entry]):
                if "closed_form" in record:
                    one = ScreenedNetwork.from_json(record)
                    networks.append(one)
                    taken[one.part] = max(taken.get(one.part, 0), one.step + 1)
                else:
                    number = int(record["number"])
                    networks[number] = networks[number].with_refit(record)
            if "looks" in entry:
                taken[str(entry["part"])] = int(entry["taken"])
        if [one.number for one in networks] != list(range(len(networks))):
            raise ValueError("the numbers of screened networks are not 0, 1, 2 …")
        return cls(dict(records[0]["settings"]), tuple(networks), taken)

    @staticmethod
    def round_record(part: str, taken: int, looks: Sequence[JsonObject]) -> JsonObject:
        """Return the record of a round of looks at networks of one part, of which so many steps are taken then."""
        return {"part": part, "taken": taken, "looks": looks}

    def of_part(self, part: str) -> list[ScreenedNetwork]:
        """Return the networks of one part, in order."""
        return [one for one in self.networks if one.part == part]


def kept_of(counts: ChannelCounts) -> Kept:
    """Return what tells counts from others of the same space, both with everything named.

    >>> kept_of(ChannelCounts({"b": 2, "a": 1})) == kept_of(ChannelCounts({"a": 1, "b": 2}))
    True
    """
    return tuple(sorted(counts.channels.items())), counts.dropped_blocks
