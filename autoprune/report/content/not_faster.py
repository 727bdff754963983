"""Fewer FLOPs that save no time: said in words, with the usual reasons and what to try."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.core.measurement import CONFIDENT
from autoprune.report.content.rows import Row
from autoprune.study.spec import StudySpec

_FEWER = 0.95  # share of the dense MFLOPs below which a network should be faster
_MULTIPLE = 16  # channels that runtimes mostly compute at once


def not_faster_notes(rows: Sequence[Row], spec: StudySpec) -> list[str]:
    """Return a note if the best network has fewer MFLOPs than the dense one and is not faster beyond the error.

    Args:
        rows: the table; each knows its ratios to the dense network.
        spec: of the study, for what has not been tried.
    """
    best = next((row for row in rows if row.is_best), None)
    if best is None or not {"mflops", "latency_ms"} <= best.ratios.keys():
        return []
    share, ratio = best.ratios["mflops"], best.ratios["latency_ms"]
    error = ratio * best.measurement.error("latency_ms") / best.measurement["latency_ms"]
    if share >= _FEWER or ratio + CONFIDENT * error < 1:
        return []
    return [
        f"trial {best.number} has {100 * share:.0f} % of the dense network's MFLOPs and is not faster: it takes × "
        f"{ratio:.3f} ± {error:.3f} of its time. Widths below what the runtime computes at once, or odd ones, and "
        f"layers that wait for memory save MFLOPs and no time; try {_advice(spec)}"
    ]


def _advice(spec: StudySpec) -> str:
    """Return what the study has not tried yet."""
    untried = [] if spec.space.depth else ["--depth, which drops whole blocks"]
    if spec.space.multiple < _MULTIPLE:
        untried.append(f"--round-to {_MULTIPLE}")
    return ", ".join([*untried, "a limit on latency (--budget-latency-ms)"])
