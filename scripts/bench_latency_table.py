"""The table of ``bench_latency.py``: one row per policy, and how well latency was predicted."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from autoprune.core.latency_host import NOISY
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
    spread_again: dict[str, float] = field(default_factory=dict)
    accuracy: float = float("nan")
    stderr: float = float("nan")


def agreement(rows: list[Row], key: str) -> str:
    """Return how far two timings of each network agree in one runtime, or that the machine is too noisy to tell.

    Args:
        rows: timed twice.
        key: the runtime and the batch size.
    """
    noisy = [row.name for row in rows if max(row.spread[key], row.spread_again[key]) > NOISY]
    if noisy:
        return (
            f"{key}: this machine is too noisy to tell: the ratios of {', '.join(noisy)} are uncertain by more than "
            f"{100 * NOISY:g} %"
        )
    off = {row.name: row.again[key] / row.speedup[key] - 1 for row in rows}
    error = {row.name: math.hypot(row.spread[key], row.spread_again[key]) for row in rows}
    worst = max(off, key=lambda name: abs(off[name]))
    close = sum(abs(value) <= NOISY for value in off.values())
    told = sum(abs(off[name]) <= 2 * error[name] for name in off)
    return (
        f"{key}: timed again, the largest disagreement is {100 * off[worst]:+.1f} % ({worst}, stated error "
        f"{100 * error[worst]:.1f} %); {close} of {len(rows)} within {100 * NOISY:g} %, {told} within two stated errors"
    )


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
        print(
            f"batch {batch}: leave-one-out error of {len(each.timed) - 1} probes {100 * error:.1f} %; predicted "
            f"against measured here {100 * root:.1f} % (root mean square), {100 * max(map(abs, off)):.1f} % at most"
        )
    for key in keys:
        print(agreement(rows, key))
