"""A process that asks and tells until a study has so many trials: FOLDER TRIALS PAUSE [URL]; it prints each number."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from study_fakes import fake_outcome, make_proposals, open_ledger


def start(folder: Path, wanted: int, pause: float = 0.0, url: str = "") -> subprocess.Popen[str]:
    """Start such a process on a study in a folder, or in a database."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, __file__, str(folder), str(wanted), str(pause), url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)


def main(folder: Path, wanted: int, pause: float, url: str) -> None:
    proposals = make_proposals(with_baselines=True)
    with open_ledger(folder, url or None) as ledger:
        ledger.begin_session({"budget": proposals.budget.to_json()})
        while len(ledger.trials) < wanted:
            candidate = ledger.ask_within(proposals, 0, wanted)
            if candidate is None:
                time.sleep(0.02)
                continue
            sys.stdout.write(f"{candidate.number}\n")
            sys.stdout.flush()
            time.sleep(pause)
            ledger.tell(candidate, fake_outcome(proposals, candidate), {})


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
