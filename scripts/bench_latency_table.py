"""The table of ``bench_latency.py``: one row per policy, and how well latency was predicted."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from autoprune.search.proposals.latency_model import LatencyProbes


@dataclass
class Row:
    """One policy: what it costs, and per batch and runtime (``"torch, batch 1"``) how many times faster it is."""

    name: str
    mflops: float
    dropped: int
    speedup: dict[str, float] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)
    ms: dict[str, float] = field(default_factory=dict)
    predicted: dict[str, float] = field(default_factory=dict)
    again: dict[str, float] = field(default_factory=dict)
    accuracy: float = float("nan")
    stderr: float = float("nan")


def show(rows: list[Row], errors: dict[int, float], probes: list[LatencyProbes]) -> None:
    """Print a row for each policy, then for each batch size the errors of the predictions."""
    keys = list(rows[0].speedup)
    print(f"\n| policy | MFLOPs | blocks dropped | {' | '.join(keys)} | validation accuracy |")
    print("|---" * (4 + len(keys)) + "|")
    for row in rows:
        cells = [f"×{row.speedup[key]:.2f} ± {100 * row.spread[key]:.1f} %" for key in keys]
        accuracy = f"{100 * row.accuracy:.2f} ± {100 * row.stderr:.2f} %" if row.accuracy == row.accuracy else ""
        print(f"| {row.name} | {row.mflops:.1f} | {row.dropped} | {' | '.join(cells)} | {accuracy} |")
    for (batch, error), each in zip(errors.items(), probes, strict=True):
        key = f"torch, batch {batch}"
        off = [row.speedup[key] / row.predicted[key] - 1 for row in rows]
        root = float(np.sqrt(np.mean(np.square(off))))
        again = max(rows, key=lambda row, key=key: abs(row.again[key] / row.speedup[key] - 1))
        print(
            f"batch {batch}: leave-one-out error of {len(each.timed) - 1} probes {100 * error:.1f} %; predicted "
            f"against measured here {100 * root:.1f} % (root mean square), {100 * max(map(abs, off)):.1f} % at most; "
            f"timed again, the largest disagreement is {100 * (again.again[key] / again.speedup[key] - 1):+.1f} % "
            f"({again.name})"
        )
