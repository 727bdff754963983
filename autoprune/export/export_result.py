"""What comes of exporting a network to a format: how the file answers and how long it takes, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from autoprune.core.json_values import JsonObject
from autoprune.errors import ExportError

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


_TRAINING_NUMBERS = ("score", "static_score", "gain", "gain_stderr")  # of Int8Training; null where not finite


@dataclass(frozen=True)
class Int8Training:
    """What came of training a network with the rounding of int8, beside the same one that was not.

    Both were scored on validation with every layer in int8.

    Attributes:
        is_kept: whether the file holds the network that was trained so.
        share: of the fine-tune's steps, the last of them, which were taken once more.
        seconds: that they took.
        score: of the network that was trained so; NaN if it has none.
        static_score: of the other one.
        gain: by how much it is better, in the unit in which the metric is stored; below 0 if it is worse.
        gain_stderr: its standard error, from the paired answers to the same examples.
        not_rounded: layers with weights that were trained without rounding, by path.
        failure: why there is no such network, in words; empty if there is one.
    """

    is_kept: bool
    share: float
    seconds: float
    score: float = math.nan
    static_score: float = math.nan
    gain: float = 0.0
    gain_stderr: float = math.nan
    not_rounded: tuple[str, ...] = ()
    failure: str = ""

    def to_json(self) -> JsonObject:
        """Return plain types for JSON; what is not a finite number is null."""
        found = {name: getattr(self, name) for name in _TRAINING_NUMBERS}
        numbers = {name: value if math.isfinite(value) else None for name, value in found.items()}
        return {**asdict(self), **numbers, "not_rounded": list(self.not_rounded)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Int8Training:
        """Return what :meth:`to_json` wrote."""
        read = {name: math.nan if data[name] is None else float(data[name]) for name in _TRAINING_NUMBERS}
        return cls(**{**data, **read, "not_rounded": tuple(data["not_rounded"])})


@dataclass(frozen=True)
class Int8Facts:
    """What a file in int8 costs and brings, beside the same network in float32.

    Attributes:
        metric: what it was judged by on validation.
        score: its value.
        float_score: the value in float32.
        gain: by how much int8 is better, in the unit in which the metric is stored; below 0 if it is worse.
        gain_stderr: its standard error, from the paired answers to the same examples.
        examples: of validation, on which both were scored.
        allowed_drop: by how much it may be worse.
        layers: how many layers with weights there are.
        in_float: those of them that stay in float32, by name, as int8 lost too much with them.
        calibration_examples: training examples that the ranges of activations come from.
        reduce_range: whether weights have seven bits, for want of VNNI instructions.
        float_bytes: size of the same network's file in float32.
        against_float: latency against the same network in float32.
        against_dense_int8: latency against the dense network in int8; ``None`` if that cannot be quantised.
        dense_failure: why it cannot, in words; empty if it can.
        training: what came of training it with the rounding of int8; ``None`` if that was not asked for.
    """

    metric: str
    score: float
    float_score: float
    gain: float
    gain_stderr: float
    examples: int
    allowed_drop: float
    layers: int
    in_float: tuple[str, ...]
    calibration_examples: int
    reduce_range: bool
    float_bytes: int
    against_float: TimingResult
    against_dense_int8: TimingResult | None
    dense_failure: str = ""
    training: Int8Training | None = None

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        told = {**asdict(self), "in_float": list(self.in_float)}
        del told["training"]
        return told | ({"training": self.training.to_json()} if self.training else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Int8Facts:
        """Return what :meth:`to_json` wrote."""
        dense = data["against_dense_int8"]
        timings = {
            "against_float": TimingResult.from_json(data["against_float"]),
            "against_dense_int8": TimingResult.from_json(dense) if dense else None,
        }
        training = data.get("training")
        return cls(
            **{
                **data,
                "in_float": tuple(data["in_float"]),
                **timings,
                "training": training and Int8Training.from_json(training),
            }
        )


@dataclass(frozen=True)
class ExportedFile:
    """A file that was written and answers as PyTorch does; in int8, nearly so.

    Attributes:
        file: its name.
        runtime: the package that runs it.
        dense_bytes: size of the dense network in the same format, of a file in int8 that in float32.
        agreement: with PyTorch.
        latency: against the dense network in the same format, of a file in int8 against that in float32.
        facts: what else a reader wants to know, such as ONNX's opset.
        int8: what int8 costs and brings; ``None`` of a file in float32.
        beside: further files that belong to it.
    """

    file: str
    runtime: str
    dense_bytes: int
    agreement: Agreement
    latency: TimingResult
    facts: Mapping[str, str | int] = field(default_factory=dict)
    int8: Int8Facts | None = None
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
            **({"int8": self.int8.to_json()} if self.int8 else {}),
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

    @classmethod
    def of(cls, file: str, error: Exception) -> FailedExport:
        """Return the failure of a file on one line; what is not our own error is named by its kind."""
        reason = str(error) if isinstance(error, ExportError) else f"{type(error).__name__}: {error}"
        return cls(file, " ".join(reason.split()))

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return asdict(self)


ExportResult: TypeAlias = ExportedFile | FailedExport


def read_export(data: Mapping[str, Any]) -> ExportResult:
    """Return the result whose ``to_json`` gave this."""
    if "failure" in data:
        return FailedExport(data["file"], data["failure"])
    rest = dict(data)
    int8 = rest.pop("int8", None)
    beside = tuple(map(str, rest.pop("beside", ())))
    return ExportedFile(
        rest.pop("file"),
        rest.pop("runtime"),
        rest.pop("dense_bytes"),
        Agreement.from_json(rest.pop("agreement")),
        TimingResult.from_json(rest.pop("latency")),
        rest,
        beside=beside,
        int8=Int8Facts.from_json(int8) if int8 else None,
    )
