"""Kill workers of one study again and again, and look whether anything was lost or done twice.

    python scripts/kill_campaign.py --kills 200 [--workers 4] [--storage postgresql+psycopg://…] [--seed 0]
    python scripts/kill_campaign.py --kills 40 --workers ray:4

Workers evaluate for a moment (``simulated_worker.py``); what a candidate scores is a function of its policy. At random
instants one of them gets SIGKILL, one time in ten after it was stopped for a while and woken. Another takes its place:
this script starts it, or Ray's workers are started again by themselves. Of those, one time in four it is not the worker
that is killed, but the process of Ray's that holds its place, as when a node dies.
In the end every number must be there once, with the outcome that one worker alone gives for it, and no lease, lock or
running trial must be left.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import simulated_worker
from optuna.trial import TrialState

from autoprune.cli.ray_cluster import ray_cluster
from autoprune.cli.ray_plan import Share, wanted_on_ray
from autoprune.cli.ray_workers import RayWorker
from autoprune.study.storage_url import sqlite_url
from autoprune.study.workers import workers_here

SCRIPT = Path(simulated_worker.__file__)
TRIALS = 10**6  # never reached
PATIENCE = 60.0


def words(folder: Path, url: str) -> list[str]:
    """Return what stands behind the name of the interpreter for a new worker."""
    return [str(SCRIPT), str(folder), url, str(TRIALS), "0.05"]


def started(folder: Path, url: str) -> subprocess.Popen[str]:
    """Return a new worker."""
    return subprocess.Popen([sys.executable, *words(folder, url)], stdout=subprocess.DEVNULL, text=True)


def main() -> None:
    """Run the campaign; exit with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--workers", default="4", help="a number, or ray:N for workers that Ray places")
    parser.add_argument("--storage", help="default: SQLite in a folder of its own")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = given.storage or sqlite_url(folder / "study.db")
        on_ray = wanted_on_ray(given.workers)
        if on_ray is None:
            done = by_hand(folder, url, int(given.workers), given.kills, draw)
        else:
            done = by_ray(folder, url, on_ray or 4, given.kills, draw)
        faults = look(folder, url)
    print(f"{done} of --workers {given.workers}: {faults or 'nothing lost, nothing twice'}")
    sys.exit(bool(faults))


def by_hand(folder: Path, url: str, count: int, kills: int, draw: random.Random) -> str:
    """Kill workers that were started here, and start others; return what was done."""
    workers = [started(folder, url) for _ in range(count)]
    stops = 0
    for _ in range(kills):
        time.sleep(draw.uniform(0.2, 2.0))
        place = draw.randrange(count)
        if draw.random() < 0.1:
            stopped_for_a_while(workers[place].pid, draw)
            stops += 1
        workers[place].kill()
        workers[place].wait()
        workers[place] = started(folder, url)
    for worker in workers:
        worker.terminate()
        worker.wait()
    return f"{kills} kills and {stops} stops"


def by_ray(folder: Path, url: str, count: int, kills: int, draw: random.Random) -> str:
    """Kill workers that Ray has placed, or Ray's processes beside them; return what was done."""
    folder.mkdir(exist_ok=True)
    again, places, stops = list[str](), 0, 0
    with ray_cluster() as cluster:
        command = [*words(folder, url), "--with-parent"]
        workers = [RayWorker(cluster, Share(0), command, {"OMP_NUM_THREADS": "1"}) for _ in range(count)]
        for worker in workers:
            for stream in (worker.stdout, worker.stderr):
                threading.Thread(target=lambda s=stream: again.extend(t for t in s if "started again" in t)).start()
        for kill in range(kills):
            wait_until(lambda done=kill: len(again) >= done and len(placed(folder)) == count)
            time.sleep(draw.uniform(0.0, 1.0))
            process, place = draw.choice(sorted(placed(folder).items()))
            if draw.random() < 0.1:
                stopped_for_a_while(process, draw)
                stops += 1
            is_place = draw.random() < 0.25
            places += is_place
            os.kill(place if is_place else process, signal.SIGKILL)
        wait_until(lambda: len(again) >= kills)
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        for worker in workers:
            worker.wait(PATIENCE)
    wait_until(lambda: not workers_here(folder))
    return f"{kills} kills ({places} of Ray's process, {len(again)} times started again) and {stops} stops"


def stopped_for_a_while(process: int, draw: random.Random) -> None:
    """Stop a process, and wake it."""
    os.kill(process, signal.SIGSTOP)
    time.sleep(draw.uniform(0.2, 1.0))
    os.kill(process, signal.SIGCONT)


def placed(folder: Path) -> dict[int, int]:
    """Return worker → process of Ray's that started it, for those that live and are not left alone."""
    found = dict[int, int]()
    for worker in workers_here(folder):
        with suppress(OSError):
            status = Path(f"/proc/{worker.process}/status").read_text(encoding="utf-8")
            parent = int(next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:")))
            if b"ray::" in Path(f"/proc/{parent}/cmdline").read_bytes():
                found[worker.process] = parent
    return found


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait for something that Ray does; exit with 1 if it does not."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > deadline:
            sys.exit(f"not all workers came back, or went, within {PATIENCE:g} s")
        time.sleep(0.05)


def look(folder: Path, url: str) -> list[str]:
    """Finish what was left, and return everything that is wrong."""
    known, faults = simulated_worker.proposals(), list[str]()
    with simulated_worker.open_ledger(folder, url) as ledger:
        while (candidate := ledger.ask_within(known, 0, 0)) is not None:
            ledger.tell(candidate, simulated_worker.outcome_of(known, candidate.policy), {})
        numbers = [trial.number for trial in ledger.trials]
        if numbers != list(range(len(numbers))):
            faults.append(f"numbers are missing or twice: {odd(numbers)}")
        for trial in ledger.trials:
            if trial.outcome != simulated_worker.outcome_of(known, trial.candidate.policy):
                faults.append(f"trial {trial.number} has another outcome than one worker alone gives")
        running = [trial for trial in ledger._open.study.get_trials() if trial.state == TrialState.RUNNING]
        faults += [f"trial record {trial.number} still runs" for trial in running]
        print(f"{len(numbers)} trials, {len({trial.session for trial in ledger.trials})} runs finished some")
    left = workers_here(folder)
    return faults + [f"{worker} still holds its lock" for worker in left]


def odd(numbers: list[int]) -> list[int]:
    """Return the numbers that are not there exactly once."""
    return [number for number in range(max(numbers) + 1) if numbers.count(number) != 1]


if __name__ == "__main__":
    main()
