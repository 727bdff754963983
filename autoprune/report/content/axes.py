"""What the axes of the front's pictures are called, and which accuracies they show."""

from __future__ import annotations

import statistics

from autoprune.core.metrics import FLOP_CONVENTION
from autoprune.report.content.summary import Summary

AXIS_TITLES = {
    "mflops": f"MFLOPs ({FLOP_CONVENTION})",
    "mparams": "parameters (M)",
    "latency_ms": "latency (ms)",
    "size_mb": "size (MB)",
}
SQUEEZE = 3.0  # the y-range may be this many times what the best, the dense and the typical network need
LEAST_RANGE = 0.02  # of accuracy


def accuracy_range(summary: Summary) -> tuple[float, float]:
    """Return the ends of the y-axis, fractions: all rows if that does not squeeze the best of them."""
    everything = [summary.dense, *(row.measurement for row in summary.rows)]
    high = max(m["accuracy"] + m.error("accuracy") for m in everything)
    low = min(m["accuracy"] - m.error("accuracy") for m in everything)
    typical = statistics.median(m["accuracy"] - m.error("accuracy") for m in everything)
    chosen = [summary.dense, *([summary.best.measurement] if summary.best else [])]
    core = min(typical, *(m["accuracy"] - m.error("accuracy") for m in chosen), high - LEAST_RANGE / 2)
    low = min(max(low, high - SQUEEZE * (high - core)), high - LEAST_RANGE)
    margin = 0.06 * (high - low)
    return low - margin, high + margin
