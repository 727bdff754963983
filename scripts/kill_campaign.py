"""Kill workers of one study again and again, and look whether anything was lost or done twice.

    python scripts/kill_campaign.py --kills 200 [--workers 4] [--storage postgresql+psycopg://…] [--seed 0]

Workers evaluate for a moment (``simulated_worker.py``); what a candidate scores is a function of its policy. At random
instants one of them gets SIGKILL, one time in ten after it was stopped for a while and woken. Another takes its place.
In the end every number must be there once, with the outcome that one worker alone gives for it, and no lease, lock or
running trial must be left.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import simulated_worker
from optuna.trial import TrialState

from autoprune.study.storage_url import sqlite_url
from autoprune.study.workers import workers_here

SCRIPT = Path(simulated_worker.__file__)


def started(folder: Path, url: str, trials: int) -> subprocess.Popen[str]:
    """Return a new worker."""
    command = [sys.executable, str(SCRIPT), str(folder), url, str(trials), "0.05"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, text=True)


def main() -> None:
    """Run the campaign; exit with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--storage", help="default: SQLite in a folder of its own")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url, trials = given.storage or sqlite_url(folder / "study.db"), 10**6
        workers = [started(folder, url, trials) for _ in range(given.workers)]
        stops = 0
        for _ in range(given.kills):
            time.sleep(draw.uniform(0.2, 2.0))
            place = draw.randrange(given.workers)
            if draw.random() < 0.1:
                workers[place].send_signal(signal.SIGSTOP)
                time.sleep(draw.uniform(0.2, 1.0))
                workers[place].send_signal(signal.SIGCONT)
                stops += 1
            workers[place].kill()
            workers[place].wait()
            workers[place] = started(folder, url, trials)
        for worker in workers:
            worker.terminate()
            worker.wait()
        faults = look(folder, url)
    print(
        f"{given.kills} kills and {stops} stops of {given.workers} workers: {faults or 'nothing lost, nothing twice'}"
    )
    sys.exit(bool(faults))


def look(folder: Path, url: str) -> list[str]:
    """Finish what was left, and return everything that is wrong."""
    known, faults = simulated_worker.proposals(), list[str]()
    with simulated_worker.open_ledger(folder, url) as ledger:
        while (candidate := ledger.ask_within(known, 0, 0)) is not None:
            ledger.tell(candidate, simulated_worker.outcome_of(known, candidate), {})
        numbers = [trial.number for trial in ledger.trials]
        if numbers != list(range(len(numbers))):
            faults.append(f"numbers are missing or twice: {odd(numbers)}")
        for trial in ledger.trials:
            if trial.outcome != simulated_worker.outcome_of(known, trial.candidate):
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
