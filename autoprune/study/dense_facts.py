"""What was measured of the dense network, once per study: the file ``dense.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.core.int8_overhead import Int8Overhead
from autoprune.core.json_values import DAMAGE, JsonObject, parse_json
from autoprune.core.latency_host import LatencyHost
from autoprune.core.measurement import Measurement
from autoprune.errors import StudyError
from autoprune.study.folder import StudyFolder
from autoprune.study.regularisation_facts import RegularisationFacts


@dataclass(frozen=True)
class DenseFacts:
    """The dense network's own measurement, and what it was made with.

    Attributes:
        measurement: costs, validation score and reference latency.
        data: hash of the data's content.
        runtime: where and how the network ran, as :meth:`Runtime.describe` returns it.
        regularisation: what learning to be sparse did; ``None`` if the study has none.
        paired: what it made of each validation example, as the text of :class:`PairedScores`; empty in the files of
            versions that did not store it.
        latency_runtime: what ran the network when it was timed; ``torch`` before there was a choice.
        latency_format: in which numbers it was timed, ``fp32`` or ``int8``.
        fp32_latency_ms: its latency in float32, where it was timed in int8; else ``None``.
        int8_overhead: what files in int8 hold beside tensors, where sizes are those of such files; else ``None``.
        latency_host: the other machine that timed it; ``None`` for the one that searched.
    """

    measurement: Measurement
    data: str
    runtime: Mapping[str, str | int]
    regularisation: RegularisationFacts | None = None
    paired: str = ""
    latency_runtime: str = "torch"
    latency_format: str = "fp32"
    fp32_latency_ms: float | None = None
    int8_overhead: Int8Overhead | None = None
    latency_host: LatencyHost | None = None

    @property
    def layout(self) -> str:
        """Return the memory layout that the network was timed in."""
        return str(self.runtime["layout"])

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {
            "measurement": self.measurement.to_json(),
            "data": self.data,
            "runtime": dict(self.runtime),
            "sparsity": self.regularisation.to_json() if self.regularisation else None,
            "correct": self.paired,
            "latency_runtime": self.latency_runtime,
            "latency_format": self.latency_format,
            **({} if self.fp32_latency_ms is None else {"fp32_latency_ms": self.fp32_latency_ms}),
            **({"int8_overhead": self.int8_overhead.to_json()} if self.int8_overhead else {}),
            **({"latency_host": self.latency_host.to_json()} if self.latency_host else {}),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> DenseFacts:
        """Return what :meth:`to_json` wrote, in this version or an earlier one.

        Raises:
            ValueError, KeyError, TypeError: if it is something else.
        """
        beside = stored.get("int8_overhead")
        learnt, host = stored.get("sparsity"), stored.get("latency_host")
        return cls(
            measurement=Measurement.from_json(stored["measurement"]),
            data=str(stored["data"]),
            runtime=dict(stored["runtime"]),
            regularisation=RegularisationFacts.from_json(learnt) if learnt else None,
            paired=str(stored.get("correct", "")),
            latency_runtime=str(stored.get("latency_runtime", "torch")),
            latency_format=str(stored.get("latency_format", "fp32")),
            fp32_latency_ms=float(stored["fp32_latency_ms"]) if "fp32_latency_ms" in stored else None,
            int8_overhead=Int8Overhead.from_json(beside) if beside else None,
            latency_host=LatencyHost.from_json(host) if host else None,
        )


def read_dense_facts(folder: StudyFolder) -> DenseFacts:
    """Return what was measured of a study's dense network.

    Raises:
        StudyError: if the file is missing or damaged.
    """
    return read_dense_file(folder.dense_facts)


def read_dense_file(path: Path) -> DenseFacts:
    """Return what a file ``dense.json`` holds.

    Raises:
        StudyError: if it is missing or damaged.
    """
    try:
        return DenseFacts.from_json(parse_json(path.read_text(encoding="utf-8")))
    except (OSError, *DAMAGE) as error:
        raise StudyError(
            f"{str(path)!r} is damaged ({type(error).__name__}: {error}); restore it from a copy, or "
            f"delete it to measure the dense network again"
        ) from error
