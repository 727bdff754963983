"""What is stored about a study as a whole, beside its trials: what a reader needs to know without the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autoprune.core.budget import Budget
from autoprune.core.json_values import JsonObject
from autoprune.core.measurement import Measurement
from autoprune.study.regularisation_facts import RegularisationFacts

SESSION = "session:"  # followed by the session's number, from 0


@dataclass(frozen=True)
class GroupFacts:
    """A group that is searched: its channels in the dense network, and whether it is a residual stream."""

    channels: int
    residual: bool = False


@dataclass(frozen=True)
class FrozenFacts:
    """A group that cannot be pruned: its channels, and why."""

    channels: int
    reason: str


@dataclass(frozen=True)
class DataFacts:
    """The data of a study.

    Attributes:
        name: as the spec names it; empty if it is not stored.
        num_classes: outputs of the network; ``None`` if it is not stored.
        sizes: split → examples.
        description: in words.
        licence: ``None`` if it is unknown.
        chance: the leading metric's value that guessing gives; ``None`` if it is not known.
    """

    name: str = ""
    num_classes: int | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    description: str = ""
    licence: str | None = None
    chance: float | None = None

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {
            "name": self.name,
            "num_classes": self.num_classes,
            "sizes": dict(self.sizes),
            "description": self.description,
            "licence": self.licence,
            "chance": self.chance,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> DataFacts:
        """Return what :meth:`to_json` wrote; what an earlier version did not store stays empty.

        Earlier versions knew classes only, of which guessing finds one in as many.
        """
        classes = stored.get("num_classes")
        chance = stored["chance"] if "chance" in stored else 1 / int(classes) if classes else None
        return cls(
            name=str(stored.get("name", "")),
            num_classes=None if classes is None else int(classes),
            sizes={str(split): int(count) for split, count in stored.get("sizes", {}).items()},
            description=str(stored.get("description", "")),
            licence=stored.get("licence"),
            chance=None if chance is None else float(chance),
        )


@dataclass(frozen=True)
class SessionFacts:
    """One run of a search.

    Attributes:
        budget: its absolute limits.
        sampler: who proposed policies.
        trials: how many the study was to reach.
        runtime: where and how networks were trained, as :meth:`Runtime.describe` returns it.
        latency: how networks were timed, by setting, and ``dense_fp32_ms`` where that was in int8; empty in sessions
            of versions that did not store it.
        versions: package → version.
        started: when, in ISO 8601 and UTC; empty until it is stored.
        worker: who ran it, as the name of a worker is written; empty in sessions of versions that did not store it.
    """

    budget: Budget = field(default_factory=Budget)
    sampler: str = ""
    trials: int = 0
    runtime: Mapping[str, str | int] = field(default_factory=dict)
    latency: Mapping[str, str | int | float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    started: str = ""
    worker: str = ""

    @property
    def host(self) -> str:
        """Return the machine it ran on; empty if that is not stored."""
        return self.worker.partition(":")[0]

    def to_json(self) -> JsonObject:
        """Return plain types for JSON, without the start and the worker, which the ledger writes."""
        return {
            "budget": self.budget.to_json(),
            "sampler": self.sampler,
            "trials": self.trials,
            "runtime": dict(self.runtime),
            "latency": dict(self.latency),
            "versions": dict(self.versions),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> SessionFacts:
        """Return what is stored of a session; what an earlier version did not store stays empty.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: if a value is not what was written.
        """
        runtime, latency = _settings(stored.get("runtime", {})), _settings(stored.get("latency", {}))
        int(runtime.get("threads", 0))  # which is counted with
        return cls(
            budget=Budget.parse(stored.get("budget", {})),
            sampler=str(stored.get("sampler", "")),
            trials=int(stored.get("trials", 0)),
            runtime=runtime,
            latency=latency,
            versions=dict(stored.get("versions", {})),
            started=str(stored.get("started", "")),
            worker=str(stored.get("worker", "")),
        )


def _settings(stored: Mapping[str, Any]) -> dict[str, str | int]:
    """Return settings by name.

    Raises:
        TypeError: if one is a list or an object.
    """
    for name, value in stored.items():
        if isinstance(value, list | dict):
            raise TypeError(f"{name} is {value!r:.80}; expected text or a number")
    return dict(stored)


@dataclass(frozen=True)
class StudyFacts:
    """What a study stores once for all of its trials.

    Attributes:
        dense: what was measured of the dense network on validation; ``None`` if the study did not come so far.
        dense_paired: what the dense network made of each validation example, as the text of :class:`PairedScores`;
            empty if it is not stored.
        regularisation: what learning to be sparse did to the dense network; ``None`` if there was none.
        groups: those that are searched, by name.
        frozen: those that cannot be pruned, by name.
        data: what the networks are trained and scored on.
        fingerprint: what gives the trials their meaning, by dotted key; ``None`` if it is not stored yet.
        size_format: the format that sizes are those of, ``fp32`` or ``int8``.
        sessions: the runs, in order.
    """

    dense: Measurement | None = None
    dense_paired: str = ""
    regularisation: RegularisationFacts | None = None
    groups: Mapping[str, GroupFacts] = field(default_factory=dict)
    frozen: Mapping[str, FrozenFacts] = field(default_factory=dict)
    data: DataFacts = field(default_factory=DataFacts)
    fingerprint: Mapping[str, object] | None = None
    size_format: str = "fp32"
    sessions: tuple[SessionFacts, ...] = ()

    @property
    def budget(self) -> Budget:
        """Return the absolute budget of the last run, empty if there was none."""
        return self.sessions[-1].budget if self.sessions else Budget()

    def to_json(self) -> JsonObject:
        """Return key → value as JSON can hold it, of what is written before a session: not its fingerprint and runs."""
        return {
            "dense": self.dense.to_json() if self.dense else None,
            "dense_correct": self.dense_paired,
            "sparsity": self.regularisation.to_json() if self.regularisation else None,
            "groups": {
                name: {"channels": group.channels, "residual": group.residual} for name, group in self.groups.items()
            },
            "frozen": {
                name: {"channels": group.channels, "reason": group.reason} for name, group in self.frozen.items()
            },
            "data": self.data.to_json(),
            **({} if self.size_format == "fp32" else {"size_format": self.size_format}),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> StudyFacts:
        """Return the facts of a study that this version stored, or an earlier one; unknown keys are passed over.

        Args:
            stored: key → value, as the ledger keeps them.

        Raises:
            ValueError, KeyError, TypeError, AttributeError, BudgetError: if a value is not what was written.
        """
        dense, learnt = stored.get("dense"), stored.get("sparsity")
        count = sum(key.startswith(SESSION) for key in stored)
        return cls(
            dense=Measurement.from_json(dense) if dense else None,
            dense_paired=str(stored.get("dense_correct", "")),
            regularisation=RegularisationFacts.from_json(learnt) if learnt else None,
            groups={
                name: GroupFacts(int(group["channels"]), bool(group.get("residual", False)))
                for name, group in stored.get("groups", {}).items()
            },
            frozen={
                name: FrozenFacts(int(group.get("channels", 0)), str(group.get("reason", "")))
                for name, group in stored.get("frozen", {}).items()
            },
            data=DataFacts.from_json(stored.get("data", {})),
            fingerprint=stored.get("fingerprint"),
            size_format=str(stored.get("size_format", "fp32")),
            sessions=tuple(SessionFacts.from_json(stored[f"{SESSION}{number}"]) for number in range(count)),
        )
