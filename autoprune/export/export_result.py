"""What comes of exporting a network to a format: how the file answers and how long it takes, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from autoprune.core.json_values import JsonObject

TOLERANCE = 1e-3  # of the largest output: other kernels round otherwise, about 1e-6; what is wrong is off by far more


@dataclass(frozen=True)
class TimingResult:
    """Latencies of a pruned and a dense network in one engine, timed in alternation.

    Attributes:
        batch: examples in a forward pass; ``None`` for one batch as it was given, whose examples cannot be told apart.
        threads: CPU threads.
        ratio: pruned ÷ dense, and the standard error of that.
        ratio_stderr: its standard error.
        pruned_ms: milliseconds for a batch.
        dense_ms: the same of the dense network.
    """

    batch: int | None
    threads: int
    ratio: float
    ratio_stderr: float
    pruned_ms: float
    dense_ms: float

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TimingResult:
        """Return what :meth:`to_json` wrote."""
        return cls(**data)


_EARLIER = {"images": "examples", "accuracy": "score", "reference_accuracy": "reference_score"}


@dataclass(frozen=True)
class Agreement:
    """How far two networks agree on the same examples.

    Attributes:
        examples: how many there are; batches, where examples cannot be told apart.
        kind: what they are, in words.
        max_difference: largest absolute difference of any output.
        largest_output: largest absolute output of the reference.
        equal_answers: share of examples on which both name the same class; ``None`` of what names none.
        score: of the network that is checked; ``None`` if its answers are held against nothing.
        reference_score: the same of the network it is checked against.
        metric: what the score is called.
    """

    examples: int
    kind: str
    max_difference: float
    largest_output: float
    equal_answers: float | None
    score: float | None
    reference_score: float | None
    metric: str = "accuracy"

    @property
    def is_close(self) -> bool:
        """Return whether the outputs differ by rounding only."""
        return self.max_difference <= TOLERANCE * max(1.0, self.largest_output)

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {**asdict(self), "bit_equal": self.max_difference == 0}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Agreement:
        """Return what :meth:`to_json` wrote, or an earlier version did, which knew images and accuracy."""
        return cls(**{_EARLIER.get(name, name): value for name, value in data.items() if name != "bit_equal"})


@dataclass(frozen=True)
class ExportedFile:
    """A file that was written and answers as PyTorch does.

    Attributes:
        file: its name.
        runtime: the package that runs it.
        dense_bytes: size of the dense network in the same format.
        agreement: with PyTorch.
        latency: against the dense network in the same format.
        facts: what else a reader wants to know, such as ONNX's opset.
        beside: further files that belong to it.
    """

    file: str
    runtime: str
    dense_bytes: int
    agreement: Agreement
    latency: TimingResult
    facts: Mapping[str, str | int] = field(default_factory=dict)
    beside: tuple[str, ...] = ()

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {
            "file": self.file,
            "runtime": self.runtime,
            "dense_bytes": self.dense_bytes,
            **self.facts,
            **({"beside": list(self.beside)} if self.beside else {}),
            "agreement": self.agreement.to_json(),
            "latency": self.latency.to_json(),
        }


@dataclass(frozen=True)
class FailedExport:
    """A file that was not written.

    Attributes:
        file: the name it would have had.
        failure: why, in words.
    """

    file: str
    failure: str

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return asdict(self)


ExportResult: TypeAlias = ExportedFile | FailedExport


def read_export(data: Mapping[str, Any]) -> ExportResult:
    """Return the result whose ``to_json`` gave this."""
    if "failure" in data:
        return FailedExport(data["file"], data["failure"])
    rest = dict(data)
    beside = tuple(map(str, rest.pop("beside", ())))
    return ExportedFile(
        rest.pop("file"),
        rest.pop("runtime"),
        rest.pop("dense_bytes"),
        Agreement.from_json(rest.pop("agreement")),
        TimingResult.from_json(rest.pop("latency")),
        rest,
        beside,
    )
