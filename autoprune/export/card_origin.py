"""Where the network of a card comes from: a trial that was picked from a study, or a stored policy that was applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from autoprune.core.budget import Budget
from autoprune.core.json_values import JsonObject
from autoprune.core.measurement import Measurement
from autoprune.export.card_parts import CardScores


@dataclass(frozen=True)
class RungRow:
    """One contender after a part of the longer fine-tune.

    Attributes:
        share: of the whole fine-tune, in (0, 1].
        validation: accuracy and loss then.
    """

    share: float
    validation: Measurement

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {"share": self.share, "validation": self.validation.to_json()}


@dataclass(frozen=True)
class ContenderRow:
    """One trial that began the longer fine-tune.

    Attributes:
        trial: its number.
        origin: what proposed it.
        rungs: how it fared, part by part.
        left_behind: share of the fine-tune after which it was left behind; ``None`` if it was picked or failed.
        failure: what it failed by, in words; ``None`` if it did not.
    """

    trial: int
    origin: str
    rungs: tuple[RungRow, ...]
    left_behind: float | None
    failure: str | None

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {**vars(self), "rungs": [rung.to_json() for rung in self.rungs]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ContenderRow:
        """Return what :meth:`to_json` wrote."""
        rungs = tuple(RungRow(each["share"], Measurement.from_json(each["validation"])) for each in data["rungs"])
        return cls(**{**data, "rungs": rungs})


@dataclass(frozen=True)
class UniformRow:
    """The uniform baseline of the same budget after the same fine-tune.

    Attributes:
        trial: its number.
        scores: what was measured of it.
    """

    trial: int
    scores: CardScores

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {"trial": self.trial, **self.scores.to_json()}


@dataclass(frozen=True)
class FinetuneFacts:
    """The longer fine-tune.

    Attributes:
        epochs: its length; 0 for none.
        batch_size: examples in a step.
        lr: peak learning rate.
        weight_decay: of weights; biases and norms have none.
        optimizer: ``sgd`` or ``adamw``.
        distill: whether the dense network was the teacher.
        borders: shares at which a part ended and momentum began anew, the last 1.
        stages: in how many steps the channels went.
        trainable: ``all`` layers, or only those that were ``cut``.
        start: what the weights were before it.
    """

    epochs: float
    batch_size: int
    lr: float
    weight_decay: float
    optimizer: str
    distill: bool
    borders: tuple[float, ...]
    stages: int
    trainable: str
    start: str

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {**vars(self), "borders": list(self.borders)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FinetuneFacts:
        """Return what :meth:`to_json` wrote."""
        return cls(**{**data, "borders": tuple(data["borders"])})


@dataclass(frozen=True)
class MaskFacts:
    """The mask of a network.

    Attributes:
        pattern: ``weight`` or ``2:4``.
        criterion: how weights were ranked.
        left_dense: layer → why it has no mask.
        kernels: whether the mask saves time on the device, in a sentence.
    """

    pattern: str
    criterion: str
    left_dense: Mapping[str, str]
    kernels: str

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class PickedTrial:
    """A trial of a study that was fine-tuned longer, and picked.

    Attributes:
        trial: its number.
        proposed_by: what proposed it.
        budget: absolute limits that it was picked for.
        not_met: metric → by what fraction its limit is exceeded.
        uniform: the baseline it is compared with; ``None`` if there is none.
        uniform_missing: why there is none, in words.
        contenders: the winner first.
        in_search: what the search measured of it.
        seconds: phase → seconds, of all contenders together.
        resumed: whether the pick was cut off and went on.
        finetune: the longer fine-tune.
        regularisation: what that did to the dense network before the search; ``None`` without any.
        mask: of the network; ``None`` without any.
        prefer: what decided between trials that were equally good, or good enough: ``accuracy``, ``latency``, ``size``.
    """

    trial: int
    proposed_by: str
    budget: Budget
    not_met: Mapping[str, float]
    uniform: UniformRow | None
    uniform_missing: str | None
    contenders: tuple[ContenderRow, ...]
    in_search: Measurement | None
    seconds: Mapping[str, float]
    resumed: bool
    finetune: FinetuneFacts
    regularisation: Mapping[str, Any] | None
    mask: MaskFacts | None
    prefer: str = "accuracy"

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {
            "trial": self.trial,
            "origin": self.proposed_by,
            "budget": self.budget.to_json(),
            "not_met": dict(self.not_met),
            "uniform": self.uniform.to_json() if self.uniform else None,
            "uniform_missing": self.uniform_missing,
            "contenders": [one.to_json() for one in self.contenders],
            "in_search": self.in_search.to_json() if self.in_search else None,
            "seconds": dict(self.seconds),
            "resumed": self.resumed,
            "finetune": self.finetune.to_json(),
            "sparsity": dict(self.regularisation) if self.regularisation is not None else None,
            "mask": self.mask.to_json() if self.mask else None,
            **({} if self.prefer == "accuracy" else {"prefer": self.prefer}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PickedTrial:
        """Return what :meth:`to_json` wrote; further keys are passed over."""
        uniform, measured, mask = data["uniform"], data["in_search"], data["mask"]
        return cls(
            trial=data["trial"],
            proposed_by=data["origin"],
            budget=Budget.parse(data["budget"]),
            not_met=data["not_met"],
            uniform=UniformRow(uniform["trial"], CardScores.from_json(uniform)) if uniform else None,
            uniform_missing=data["uniform_missing"],
            contenders=tuple(map(ContenderRow.from_json, data["contenders"])),
            in_search=Measurement.from_json(measured) if measured else None,
            seconds=data["seconds"],
            resumed=data["resumed"],
            finetune=FinetuneFacts.from_json(data["finetune"]),
            regularisation=data["sparsity"],
            mask=MaskFacts(**mask) if mask else None,
            prefer=data.get("prefer", "accuracy"),
        )


@dataclass(frozen=True)
class GroupRow:
    """What became of one group.

    Attributes:
        channels: in the dense network.
        kept: how many of them stay.
        importance: the criterion that ranked them.
    """

    channels: int
    kept: int
    importance: str

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class AppliedPolicy:
    """A stored policy that was applied to a network.

    Attributes:
        model: source of the network that the policy was made for; empty if that is not known.
        channels: group → channels in that network.
        notes: what a reader should know of how the two fit, in sentences.
        groups: group → what became of it here.
    """

    model: str
    channels: Mapping[str, int]
    notes: tuple[str, ...]
    groups: Mapping[str, GroupRow]

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {
            "kind": "applied",
            "made_for": {"model": self.model, "channels": dict(self.channels)},
            "notes": list(self.notes),
            "groups": {name: group.to_json() for name, group in self.groups.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> AppliedPolicy:
        """Return what :meth:`to_json` wrote; further keys are passed over."""
        made_for = data["made_for"]
        groups = {name: GroupRow(**group) for name, group in data["groups"].items()}
        return cls(made_for["model"], made_for["channels"], tuple(data["notes"]), groups)


Origin: TypeAlias = PickedTrial | AppliedPolicy
