"""How far one ratio of latencies moves when it is measured again: by the processor's clock, and by that on the wall.

    python scripts/bench_timing_noise.py --model resnet56 --repeats 12

Two networks of one architecture, timed in alternation as in a search, again and again, with both clocks in turn. The
true ratio is 1. Run it beside other work to see what the clocks are worth there.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial

import torch

from autoprune.cost.latency import Timer
from autoprune.cost.timing_engines import undisturbed_seconds
from autoprune.cost.timing_plan import TimingPlan
from autoprune.export.timing_runtimes import engine_of
from autoprune.models.build import build_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet56")
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2, help="in which both clocks take turns")
    options = parser.parse_args()
    torch.set_num_threads(1)
    networks = [build_model(options.model, num_classes=10, in_channels=1, seed=seed).eval() for seed in (0, 1)]
    example, engine = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)), engine_of(options.runtime)
    clocks = {"processor": time.process_time, "wall": time.perf_counter}  # the lesser of the named and the wall's
    print("| clock | median ratio | deviation over repeats | error as stated, median | dense ms |")
    print("|---" * 5 + "|")
    for name, clock in [*clocks.items()] * options.rounds:
        seconds = partial(undisturbed_seconds, processor=clock)
        timer = Timer(networks[0], example, TimingPlan(), type(engine)(engine.name, engine.prepare, seconds))
        found = [timer.compare(networks[1]) for _ in range(options.repeats)]
        ratios = [each.ratio for each in found]
        stated = statistics.median(each.ratio_stderr for each in found)
        dense = statistics.median(each.dense_ms for each in found)
        told = f"{statistics.median(ratios):.3f} | {statistics.pstdev(ratios):.4f} | {stated:.4f} | {dense:.2f}"
        print(f"| {name} | {told} |")


if __name__ == "__main__":
    main()
