"""How fast a network trains beside another program: threads that keep to the free cores, against threads that stay.

    python scripts/bench_busy_machine.py                    # ResNet-20 on the digits, all cores, three rounds
    python scripts/bench_busy_machine.py --model resnet56 --rounds 5 --seconds 60

A process of two or more threads trains for some seconds alone, and then as long beside a program that computes on one
core; once with ``threads = 0``, which looks at what others use every ten seconds, and once with as many threads given.
The first ten seconds beside the other program are left out. Rates are steps per second; what counts is each mode's
ratio, busy / alone. Wants a machine that is quiet otherwise.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from autoprune.core.cores import available_cores
from autoprune.models.build import build_model
from autoprune.tasks.builtin import build_task
from autoprune.training.device.resolve_runtime import resolve_runtime
from autoprune.training.device.thread_count import LOOK_SECONDS
from autoprune.training.loop import TrainingRun, train
from autoprune.training.loss import dense_loss
from autoprune.training.settings import FinetuneSettings

MODES = {"threads that keep to free cores": 0, "threads that stay": available_cores()}


class Enough(Exception):
    """The time is up."""


def main() -> None:
    """Train in both modes by turns, alone and beside a busy program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30.0)
    given = parser.parse_args()
    os.environ.pop("OMP_NUM_THREADS", None)
    rates: dict[str, tuple[list[float], list[float]]] = {mode: ([], []) for mode in MODES}
    for _ in range(given.rounds):
        for mode, threads in MODES.items():
            for known, found in zip(rates[mode], measured(given.model, threads, given.seconds), strict=True):
                known.append(found)
    for mode, (alone_rates, busy_rates) in rates.items():
        ratios = [one / other for one, other in zip(busy_rates, alone_rates, strict=True)]
        alone, busy = statistics.median(alone_rates), statistics.median(busy_rates)
        print(
            f"{mode}: {alone:.2f} steps/s alone, {busy:.2f} beside a busy program; busy / alone "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def measured(model: str, threads: int, seconds: float) -> tuple[float, float]:
    """Return the steps per second alone, and beside a program that computes on one core."""
    task, runtime = build_task("digits"), resolve_runtime("cpu", "fp32", "contiguous", threads)
    network = build_model(model, num_classes=10, in_channels=1, seed=0)
    runtime.apply_threads(print)
    run = TrainingRun(task, FinetuneSettings(epochs=10_000, batch_size=32, lr=0.01, weight_decay=0.0), runtime, 0)

    def steps_per_second(for_seconds: float) -> float:
        began, last = time.perf_counter(), 0

        def look(step: int, _total: int) -> None:
            nonlocal last
            last = step
            if time.perf_counter() - began > for_seconds:
                raise Enough

        with suppress(Enough):
            train(network, run, dense_loss(task), on_step=look)
        return last / (time.perf_counter() - began)

    steps_per_second(1.0)  # what is made once
    alone = steps_per_second(seconds)
    with busy_program():
        steps_per_second(LOOK_SECONDS + 1.0)
        return alone, steps_per_second(seconds)


@contextmanager
def busy_program() -> Iterator[None]:
    """Let another program compute on one core."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()
        other.wait()


if __name__ == "__main__":
    main()
