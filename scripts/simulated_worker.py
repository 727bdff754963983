"""A worker whose evaluations are a sleep: for ``bench_workers.py`` and ``kill_campaign.py``, which start many of it.

    python scripts/simulated_worker.py FOLDER URL TRIALS SECONDS [--spread 0.3] [--wait] [--with-parent]

It prints a line of JSON for every candidate: its number, how long the ask took and how much of that this thread worked;
and one when it is told. With ``--spread`` candidates differ in length, each by its number: 0.3 is 30 % more or less at
most. With ``--wait`` it says that it is ready, and begins as soon as a line comes in. With ``--with-parent`` it ends
when the process that started it is gone, as a worker of the command line does.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from autoprune.cli.many_workers import end_with_parent
from autoprune.core.budget import Budget
from autoprune.core.channel_groups import PruningGroup
from autoprune.core.counts import ChannelCounts
from autoprune.core.measurement import Measurement
from autoprune.core.policy import PruningPolicy
from autoprune.core.space import SearchSpace
from autoprune.core.trial import Completed
from autoprune.search.proposals.proposer import Proposals
from autoprune.study.ledger import Ledger

GROUPS, CHANNELS = 30, 64  # as many as a ResNet-56 has
POSITIONS = {f"g{number}": 1024 >> (number // 10) for number in range(GROUPS)}


class Chain:
    """The cost of a chain of layers: each costs its own channels times those of the layer before it."""

    def measure(self, counts: ChannelCounts) -> Measurement:
        """Return the costs of counts."""
        kept = np.array([[counts.channels[name] for name in POSITIONS]])
        return Measurement({name: float(values[0]) for name, values in self._costs(kept).items()})

    def measure_many(self, names: list[str], numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Return metric → costs of many counts."""
        return self._costs(numbers[:, [names.index(name) for name in POSITIONS]])

    def _costs(self, kept: np.ndarray) -> dict[str, np.ndarray]:
        pairs = kept * np.concatenate([np.full((len(kept), 1), 3), kept[:, :-1]], axis=1)
        parameters = pairs.sum(axis=1) / 1e6
        return {
            "mflops": (pairs * np.array(list(POSITIONS.values()))).sum(axis=1) / 1e6,
            "mparams": parameters,
            "size_mb": 4 * parameters,
        }


def proposals(seed: int = 0) -> Proposals:
    """Return what proposes policies at half of the cost, by the default sampler."""
    groups = tuple(PruningGroup(name, CHANNELS, ()) for name in POSITIONS)
    space = SearchSpace(groups, dict.fromkeys(POSITIONS, ("l1", "l2")), 0.9)
    dense = Chain().measure(space.full).merged(Measurement({"accuracy": 0.9, "latency_ms": 1.0}))
    budget = Budget.parse({"mflops": 0.5 * dense["mflops"]})
    return Proposals(space, Chain(), dense, budget, {}, "guided", seed, with_baselines=False)


def outcome_of(known: Proposals, policy: PruningPolicy) -> Completed:
    """Return an outcome that is a function of the policy alone."""
    counts = known.space.counts(policy)
    kept = np.array([counts.channels[name] for name in POSITIONS]) / CHANNELS
    loss = float(0.1 + ((1 - kept) ** 2 * np.linspace(0.2, 1, GROUPS)).sum())
    found = Measurement({"accuracy": 1 / (1 + loss), "loss": loss}, {"accuracy": 0.01})
    return Completed(known.cost.measure(counts).merged(found))


def seconds_of(number: int, seconds: float, spread: float) -> float:
    """Return how long a candidate takes, drawn uniformly around a mean by its number."""
    return seconds * (1 + spread * float(np.random.default_rng(number).uniform(-1, 1)))


def open_ledger(folder: Path, url: str) -> Ledger:
    """Return the ledger of the simulated study."""
    return Ledger(url, "simulated", ("accuracy", "mflops"), folder / "study.lock")


def main() -> None:
    """Work until the study has so many trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("url")
    parser.add_argument("trials", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--spread", type=float, default=0.0)
    parser.add_argument("--wait", action="store_true")
    parser.add_argument("--with-parent", action="store_true")
    given = parser.parse_args()
    if given.with_parent:
        end_with_parent()
    given.folder.mkdir(parents=True, exist_ok=True)
    known = proposals()
    with open_ledger(given.folder, given.url) as ledger:
        ledger.begin_session({"budget": known.budget.to_json(), "trials": given.trials})
        known.learn(ledger.trials)
        if given.wait:
            say(ready=True)
            sys.stdin.readline()
        work(ledger, known, given.trials, given.seconds, given.spread)


def work(ledger: Ledger, known: Proposals, trials: int, seconds: float, spread: float) -> None:
    """Ask, sleep and tell."""
    while len(ledger.trials) < trials:
        began, worked = time.perf_counter(), time.thread_time()
        candidate = ledger.ask_within(known, 0, trials)
        took, worked = time.perf_counter() - began, time.thread_time() - worked
        if candidate is None:
            time.sleep(0.1)
            continue
        say(number=candidate.number, ask_seconds=took, ask_cpu_seconds=worked)
        length = seconds_of(candidate.number, seconds, spread)
        time.sleep(length)
        ledger.tell(candidate, outcome_of(known, candidate.policy), {"score": length})
        say(kind="told", number=candidate.number)


def say(**what: object) -> None:
    """Print a line of JSON."""
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
