"""What every card says: scores, data, weights, and what lies in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autoprune.core.export_formats import Wanted
from autoprune.core.json_values import JsonObject
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import ACCURACY
from autoprune.export.export_result import ExportedFile, ExportResult, FailedExport, TimingResult, read_export


@dataclass(frozen=True)
class CardScores:
    """What was measured of one network.

    Attributes:
        validation: costs, and the score on validation.
        test: the score on test; ``None`` if the data has no test split, or the network was not to meet it.
    """

    validation: Measurement
    test: Measurement | None = None

    def to_json(self, meets_test: bool = True) -> JsonObject:
        """Return plain types for JSON; without a place for test where no network of the card ever meets it."""
        test = {"test": self.test.to_json() if self.test else None} if meets_test else {}
        return {"validation": self.validation.to_json(), **test}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CardScores:
        """Return what :meth:`to_json` wrote; further keys are passed over."""
        test = data.get("test")
        return cls(Measurement.from_json(data["validation"]), Measurement.from_json(test) if test else None)


@dataclass(frozen=True)
class ScoreGain:
    """By how much one network is better than another on the same examples, paired one by one where that is known.

    Attributes:
        gain: the difference, in the metric's unit as it is stored, of accuracy in [-1, 1]; below 0 if it is worse.
        stderr: its standard error; ``None`` if the metric has none.
        metric: what they were judged by; its name is the key in JSON.
        paired: whether the two were compared example by example.
    """

    gain: float
    stderr: float | None
    metric: str = ACCURACY.name
    paired: bool = True

    def to_json(self) -> dict[str, float | None]:
        """Return plain types for JSON; what was not paired is said."""
        return {self.metric: self.gain, "stderr": self.stderr, **({} if self.paired else {"paired": False})}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ScoreGain:
        """Return what :meth:`to_json` wrote."""
        (metric,) = data.keys() - {"stderr", "paired"}
        return cls(data[metric], data["stderr"], metric, data.get("paired", True))


@dataclass(frozen=True)
class CardData:
    """The data that a network was trained and scored on.

    Attributes:
        name: as ``--data`` takes it.
        sizes: split → examples.
        licence: empty if it is not known.
    """

    name: str
    sizes: Mapping[str, int]
    licence: str

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {"name": self.name, "sizes": dict(self.sizes), "licence": self.licence}


@dataclass(frozen=True)
class WeightsFacts:
    """Where the dense network's weights come from.

    Attributes:
        model: source of the network.
        weights: file or name of pretrained weights; empty without any.
        licence: under which the weights may be used, in words.
    """

    model: str
    weights: str
    licence: str

    def to_json(self) -> dict[str, str]:
        """Return plain types for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class CardFile:
    """One file of a folder.

    Attributes:
        bytes: its size.
        dense_bytes: size of the dense network in the same format; ``None`` where that means nothing.
        runtime: what it was timed in here; ``None`` for files whose timing stands among the exports.
        latency: how long it takes there.
    """

    bytes: int
    dense_bytes: int | None = None
    runtime: str | None = None
    latency: TimingResult | None = None

    def to_json(self) -> JsonObject:
        """Return plain types for JSON; what is ``None`` is left out."""
        known = {**vars(self), "latency": self.latency.to_json() if self.latency else None}
        return {name: value for name, value in known.items() if value is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CardFile:
        """Return what :meth:`to_json` wrote."""
        latency = data.get("latency")
        timing = TimingResult.from_json(latency) if latency else None
        return cls(data["bytes"], data.get("dense_bytes"), data.get("runtime"), timing)


FRESH_PROCESS = "a fresh process"
"""The check that could not be made where only the user's own code can make the inputs."""


@dataclass(frozen=True)
class FileCheck:
    """The result of one check of a folder.

    Attributes:
        name: what was checked.
        passed: ``None`` if the check does not apply here.
        detail: what was found, or why it does not apply.
    """

    name: str
    passed: bool | None
    detail: str

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class FolderFacts:
    """What lies beside a card.

    Attributes:
        files: name → file.
        exports: format → what came of exporting to it.
        wanted: which formats were asked for.
        checks: what every file was checked for in a fresh process.
    """

    files: Mapping[str, CardFile]
    exports: Mapping[str, ExportResult]
    wanted: Wanted
    checks: tuple[FileCheck, ...] = ()

    @property
    def exported(self) -> tuple[ExportedFile, ...]:
        """Return the exports that were written."""
        return tuple(one for one in self.exports.values() if isinstance(one, ExportedFile))

    @property
    def failed(self) -> tuple[FailedExport, ...]:
        """Return the exports that were not."""
        return tuple(one for one in self.exports.values() if isinstance(one, FailedExport))

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {
            "files": {name: file.to_json() for name, file in self.files.items()},
            "exports": {name: found.to_json() for name, found in self.exports.items()},
            "exports_wanted": self.wanted.to_json(),
            "checks": [check.to_json() for check in self.checks],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FolderFacts:
        """Return what :meth:`to_json` wrote; further keys are passed over."""
        return cls(
            {name: CardFile.from_json(file) for name, file in data["files"].items()},
            {name: read_export(found) for name, found in data["exports"].items()},
            Wanted.from_json(data["exports_wanted"]),
            tuple(FileCheck(**check) for check in data["checks"]),
        )
