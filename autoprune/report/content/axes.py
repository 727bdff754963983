"""What the axes of the front's pictures are called, and which values of the quality they show."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from autoprune.core.measurement import Measurement
from autoprune.core.metrics import FLOP_CONVENTION, METRICS, PER_CENT, Metric
from autoprune.core.number_formats import NUMBERS
from autoprune.report.content.summary import Summary

AXIS_TITLES = {
    "mflops": f"MFLOPs ({FLOP_CONVENTION})",
    "mparams": "parameters (M)",
    "latency_ms": "latency (ms)",
}
SIZE_AXES = {form: f"size in {words} (MB)" for form, words in NUMBERS.items()}
SQUEEZE = 3.0  # the y-range may be this many times what the best, the dense and the typical network need
LEAST_RANGE = 0.02  # of a fraction; of anything else, as a share of the dense network's


def axis_title(name: str, summary: Summary) -> str:
    """Return what the axis of a cost is called."""
    return SIZE_AXES[summary.size_format] if name == "size_mb" else AXIS_TITLES.get(name, METRICS[name].unit)


def quality_range(summary: Summary) -> tuple[float, float]:
    """Return the ends of the y-axis, as values are stored: all rows if that does not squeeze the best of them.

    What is far worse than the dense network and the best one lies outside: below where larger is better, else above.
    """
    quality = summary.quality
    everything = [summary.dense, *(row.measurement for row in summary.rows)]
    high = max(_worth(m, quality) + m.error(quality.name) for m in everything)
    low = min(_worth(m, quality) - m.error(quality.name) for m in everything)
    typical = statistics.median(_worth(m, quality) - m.error(quality.name) for m in everything)
    chosen = [summary.dense, *([summary.best.measurement] if summary.best else [])]
    least = LEAST_RANGE * (1.0 if quality.unit == PER_CENT else abs(summary.dense[quality.name]) or 1.0)
    core = min(typical, *(_worth(m, quality) - m.error(quality.name) for m in chosen), high - least / 2)
    low = min(max(low, high - SQUEEZE * (high - core)), high - least)
    margin = 0.06 * (high - low)
    ends = low - margin, high + margin
    return ends if quality.goal == "max" else (-ends[1], -ends[0])


def outside_of(summary: Summary) -> Callable[[Measurement], bool]:
    """Return what says of a network whether it is so bad that it lies outside the picture."""
    quality, (low, high) = summary.quality, quality_range(summary)
    edge = low if quality.goal == "max" else high
    return lambda measurement: quality.is_better(edge, measurement[quality.name])


def _worth(measurement: Measurement, quality: Metric) -> float:
    """Return a quality with the sign under which larger is better."""
    return -quality.minimised(measurement[quality.name])
