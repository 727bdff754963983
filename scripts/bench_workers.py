"""How much several workers evaluate together, and how long an ask takes where many share a study.

    python scripts/bench_workers.py here [--trials 12] [--repeats 3]
    python scripts/bench_workers.py many --storage postgresql+psycopg://… [--workers 2,8,32,64] [--seconds 10]
    python scripts/bench_workers.py many --storage … --stored 5000 --workers 64 [--spread 0.3]

``here`` searches ResNet-20 on digits by one worker of all threads and by one worker of one thread on each core, in
turn, and compares trials per minute of the search alone. ``many`` lets workers evaluate by sleeping, so that nothing
but asking and telling costs time: efficiency is the time that the same candidates would take if that cost none, over
the time they took, from the moment at which all of them are there. All candidates take equally long, so that all
workers ask at once, or with ``--spread 0.3`` up to 30 % more or less, each by its number.
"""

from __future__ import annotations

import argparse
import heapq
import json
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import simulated_worker

from autoprune.core.cores import available_cores
from autoprune.core.policy import GroupPolicy, PruningPolicy
from autoprune.core.proposal import Proposal
from autoprune.study.view import open_view

SCRIPT = Path(simulated_worker.__file__)


def main() -> None:
    """Run one of both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["here", "many"])
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--storage", default="")
    parser.add_argument("--workers", default="2,8,32,64")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--stored", type=int, default=0)
    parser.add_argument("--spread", type=float, default=0.0)
    given = parser.parse_args()
    if given.what == "here":
        here(given.trials, given.repeats)
    else:
        for count in map(int, given.workers.split(",")):
            many(given.storage, count, given.seconds, given.rounds, given.stored, given.spread)


def here(trials: int, repeats: int) -> None:
    """Compare one worker of all threads with one of one thread on each core, in turn."""
    rates: dict[int, list[float]] = {1: [], available_cores(): []}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            for workers in rates:
                name = Path(folder) / f"study-{workers}-{repeat}"
                command = [
                    *(
                        sys.executable,
                        "-m",
                        "autoprune",
                        "search",
                        str(name),
                        "--model",
                        "resnet20",
                        "--data",
                        "digits",
                    ),
                    *("--dense-epochs", "3", "--budget-mflops", "50%", "--trials", str(trials), "--no-stopping"),
                    *("--workers", str(workers), "--seed", str(repeat), "--quiet", "--json"),
                ]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                rates[workers].append(per_minute(name))
                print(f"{workers} worker(s), seed {repeat}: {rates[workers][-1]:.2f} trials per minute", flush=True)
    one, several = (statistics.median(found) for found in rates.values())
    print(f"medians: {one:.2f} and {several:.2f}: \u00d7{several / one:.2f}")


def per_minute(folder: Path) -> float:
    """Return the trials per minute of a search, from its log: the first candidate to the last outcome."""
    lines = (folder / "search.log").read_text(encoding="utf-8").splitlines()
    told = [line for line in lines if " begins (" in line or "/" in line.partition("] trial")[0][-8:]]
    first, last = (time.strptime(line[:19], "%Y-%m-%dT%H:%M:%S") for line in (told[0], told[-1]))
    return 60 * len(open_view(folder).trials) / (time.mktime(last) - time.mktime(first))


def many(storage: str, count: int, seconds: float, rounds: int, stored: int, spread: float) -> None:
    """Let workers sleep, and print how well they fill their time, and how long an ask takes."""
    url = fresh_database(storage)
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder) / "filled", url, stored)
        told = run_together(count, [folder, url, str(stored + count * rounds), str(seconds), f"--spread={spread}"])
        begun, ended = spans(Path(folder), url, stored)
    asks = [each for each in told if "ask_seconds" in each]
    lengths = [simulated_worker.seconds_of(stored + n, seconds, spread) for n in range(count * rounds)]
    efficiency = ideal_seconds(lengths, count) / (max(ended) - min(begun))
    took, worked = ([1e3 * each[key] for each in asks] for key in ("ask_seconds", "ask_cpu_seconds"))
    later = [1e3 * each["ask_seconds"] for each in asks if each["number"] >= stored + count]
    print(
        f"{count} workers, {stored} stored trials, {len(asks)} candidates of {seconds:g} s \u00b1 {100 * spread:g} %: "
        f"efficiency {efficiency:.3f}, ask median {statistics.median(took):.0f} ms, "
        f"95 % {np.quantile(took, 0.95):.0f} ms, {np.quantile(later, 0.95):.0f} ms without each one's first; "
        f"worked {statistics.median(worked):.0f} ms",
        flush=True,
    )


def run_together(count: int, arguments: list[str]) -> list[dict[str, float]]:
    """Start workers, let all of them begin at once, and return what they say."""
    command = [sys.executable, str(SCRIPT), *arguments, "--wait"]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    for worker in workers:
        worker.stdout.readline()  # type: ignore[union-attr]
    for worker in workers:
        worker.stdin.write("go\n")  # type: ignore[union-attr]
        worker.stdin.flush()  # type: ignore[union-attr]
    return [json.loads(line) for worker in workers for line in worker.communicate()[0].splitlines()]


def ideal_seconds(lengths: list[float], count: int) -> float:
    """Return how long workers take for candidates in order, if each begins the next one at once."""
    free_at = [0.0] * count
    for length in lengths:
        heapq.heappush(free_at, heapq.heappop(free_at) + length)
    return max(free_at)


def spans(folder: Path, url: str, stored: int) -> tuple[list[float], list[float]]:
    """Return when each simulated candidate was begun and ended, in seconds, by the database."""
    with simulated_worker.open_ledger(folder, url) as ledger:
        trials = ledger._open.study.get_trials()[stored:]
        begun = [trial.datetime_start.timestamp() for trial in trials if trial.datetime_start]
        ended = [trial.datetime_complete.timestamp() for trial in trials if trial.datetime_complete]
    return begun, ended


def fill(folder: Path, url: str, count: int) -> None:
    """Store trials of random policies on the budget, so that asking has a history to read."""
    if not count:
        return
    folder.mkdir()
    known, rng = simulated_worker.proposals(), np.random.default_rng(0)
    projector, space = known.projector([]), known.space
    with simulated_worker.open_ledger(folder, url) as ledger:
        for _ in range(count):
            sparsities = rng.uniform(0, space.max_sparsity, len(space.by_name))
            drawn = {name: GroupPolicy(float(s), "l1") for name, s in zip(space.by_name, sparsities, strict=True)}
            policy = projector.project(PruningPolicy(drawn))
            made = Proposal(policy, space.counts(policy), "filled", known.budget)
            ledger.add(space, made, 1, simulated_worker.outcome_of(known, policy), {})


def fresh_database(storage: str) -> str:
    """Return the URL of a new database beside the one that was given; a file of its own without one."""
    from sqlalchemy import create_engine, make_url, text

    if not storage:
        return f"sqlite:///{tempfile.mkdtemp()}/study.db"
    url, name = make_url(storage), f"bench_{uuid.uuid4().hex[:12]}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    engine.dispose()
    return url.set(database=name).render_as_string(hide_password=False)


if __name__ == "__main__":
    main()
