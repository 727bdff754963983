"""How much several workers evaluate together, and how long an ask takes where many share a study.

    python scripts/bench_workers.py here [--trials 12] [--repeats 3]
    python scripts/bench_workers.py many --storage postgresql+psycopg://… [--workers 2,8,32,64] [--seconds 10]
    python scripts/bench_workers.py many --storage … --stored 5000 --workers 64

``here`` searches ResNet-20 on digits by one worker of all threads and by one worker of one thread on each core, in
turn, and compares trials per minute of the search alone. ``many`` lets workers evaluate by sleeping, so that nothing
but asking and telling costs time: efficiency is what they evaluated over what they would without that, from the moment
at which all of them are there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import simulated_worker

from autoprune.core.cores import available_cores
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
    given = parser.parse_args()
    if given.what == "here":
        here(given.trials, given.repeats)
    else:
        for count in map(int, given.workers.split(",")):
            many(given.storage, count, given.seconds, given.rounds, given.stored)


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


def many(storage: str, count: int, seconds: float, rounds: int, stored: int) -> None:
    """Let workers sleep, and print how well they fill their time, and how long an ask takes."""
    url = fresh_database(storage)
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder) / "filled", url, stored)
        total = stored + count * rounds
        command = [sys.executable, str(SCRIPT), folder, url, str(total), str(seconds)]
        command.append("--wait")
        workers = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
        ]
        for worker in workers:
            worker.stdout.readline()  # type: ignore[union-attr]
        for worker in workers:
            worker.stdin.write("go\n")  # type: ignore[union-attr]
            worker.stdin.flush()  # type: ignore[union-attr]
        told = [json.loads(line) for worker in workers for line in worker.communicate()[0].splitlines()]
        begun, ended = spans(Path(folder), url, stored)
    asks = [each["ask_seconds"] for each in told if "ask_seconds" in each]
    efficiency = rounds * seconds / (max(ended) - min(begun))
    quantile = statistics.quantiles(asks, n=20)[-1] if len(asks) > 1 else asks[0]
    print(
        f"{count} workers, {stored} stored trials, {len(asks)} candidates of {seconds:g} s: efficiency "
        f"{efficiency:.3f}, ask median {1e3 * statistics.median(asks):.0f} ms, 95 % {1e3 * quantile:.0f} ms",
        flush=True,
    )


def spans(folder: Path, url: str, stored: int) -> tuple[list[float], list[float]]:
    """Return when each simulated candidate was begun and ended, in seconds, by the database."""
    with simulated_worker.open_ledger(folder, url) as ledger:
        trials = ledger._open.study.get_trials()[stored:]
        begun = [trial.datetime_start.timestamp() for trial in trials if trial.datetime_start]
        ended = [trial.datetime_complete.timestamp() for trial in trials if trial.datetime_complete]
    return begun, ended


def fill(folder: Path, url: str, count: int) -> None:
    """Store trials, so that asking has a history to read."""
    if not count:
        return
    folder.mkdir()
    known = simulated_worker.proposals()
    with simulated_worker.open_ledger(folder, url) as ledger:
        for _ in range(count):
            candidate = ledger.ask(known, 1)
            ledger.tell(candidate, simulated_worker.outcome_of(known, candidate), {})


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
