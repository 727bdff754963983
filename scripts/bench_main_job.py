"""Run the main job with several seeds, as a user does: search, then pick in int8; print a row of each.

    python scripts/bench_main_job.py --json main_job.jsonl --seeds 0 1 2 3 4
    python scripts/bench_main_job.py --json main_job.jsonl --seeds 0 1 2 -- --trials 16     # options of `search`

Each seed trains its own dense network. A row says how long the search took, by the clock and on the CPU, and when its
first trial began; how many networks were looked at; what was picked, scored once on test, in ONNX Runtime in int8
against the dense network in float32; and the hypervolume (quality against latency, on validation) of all trials and of
the baselines alone. What a file holds of a seed is not run again.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy.stats import t as students_t

from autoprune.analysis.pareto import hypervolume
from autoprune.study.screened_file import read_screening
from autoprune.study.view import StudyView, open_view

NAME = "digits-resnet56"
OBJECTIVES = ("accuracy", "latency_ms")


def run_seed(seed: int, root: Path, budget: str, workers: str, options: Sequence[str]) -> dict[str, Any]:
    """Return what one seed's search and pick say."""
    place = ("--root", str(root / f"seed{seed}"))
    searched = _timed("search", "--budget-mflops", budget, "--seed", str(seed), "--workers", workers, *options, *place)
    folder = root / f"seed{seed}" / NAME
    picked = _timed("pick", "--budget-mflops", budget, "--int8", "--json", *place)
    view = open_view(folder)
    return {
        "seed": seed,
        "workers": workers,
        "budget": budget,
        "options": list(options),
        "search": {name: searched[name] for name in ("seconds", "cpu_seconds")},
        "until_first_trial": _until_first_trial(folder),
        "looked_at": len(read_screening(folder / "screened.jsonl").networks),
        "trials": len(view.trials),
        "dense": view.dense.to_json(),
        "hypervolume": _hypervolumes(view),
        "pick_seconds": picked["seconds"],
        "card": json.loads(picked["output"]),
    }


def _hypervolumes(view: StudyView) -> dict[str, float]:
    baselines = [trial for trial in view.trials if trial.candidate.origin.startswith("baseline:")]
    return {
        "all": hypervolume(view.trials, OBJECTIVES, view.dense),
        "baselines": hypervolume(baselines, OBJECTIVES, view.dense),
    }


def _until_first_trial(folder: Path) -> float:
    """Return the seconds from the beginning of the log to the first candidate."""
    lines = (folder / "search.log").read_text(encoding="utf-8").splitlines()
    first = next(line for line in lines if " begins (baseline:" in line)
    return _seconds_of(first) - _seconds_of(lines[0])


def _seconds_of(line: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(line.split(maxsplit=1)[0]).timestamp()


def _timed(*arguments: str) -> dict[str, Any]:
    """Run a command; return what it printed, and how long it took by the clock and on the CPU."""
    began, cpu = time.monotonic(), _cpu_seconds()
    command = [str(Path(sys.executable).with_name("autoprune")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return {"output": done.stdout, "seconds": time.monotonic() - began, "cpu_seconds": _cpu_seconds() - cpu}


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def row_of(record: dict[str, Any]) -> str:
    """Return a seed's row of the table."""
    card, found = record["card"], record["hypervolume"]
    test, dense = (each["test"]["values"]["accuracy"] for each in (card, card["dense"]))
    cells = (
        str(record["seed"]),
        f"{record['search']['seconds']:.0f} ({record['search']['cpu_seconds']:.0f})",
        f"{record['until_first_trial']:.0f}",
        str(record["looked_at"]),
        f"{card['trial']} {card['origin']}, {card['validation']['values']['mflops']:.3g} MFLOPs",
        f"{100 * test:.2f} ({100 * dense:.2f})",
        _speed(record),
        f"{found['all']:.4f} ({found['baselines']:.4f})",
    )
    return f"| {' | '.join(cells)} |"


def _speed(record: dict[str, Any]) -> str:
    """Return how many times as fast the file in int8 is as the dense network in float32, and in int8, by the card."""
    int8 = record["card"]["exports"].get("onnx-int8", {})
    compared = [each for each in (int8.get("latency"), int8.get("int8", {}).get("against_dense_int8")) if each]
    return ", ".join(f"× {1 / one['ratio']:.2f} ± {one['ratio_stderr'] / one['ratio'] ** 2:.2f}" for one in compared)


HEADER = """\
| seed | search, s (on the CPU) | until the first trial, s | looked at | picked | accuracy on test, % (dense) | \
in int8 against dense in float32, int8 | hypervolume (baselines alone) |
|---|---|---|---|---|---|---|---|"""


def gained(records: Sequence[dict[str, Any]]) -> str:
    """Return the mean gain of hypervolume over the baselines alone, with its 95 % interval over seeds."""
    gains = [one["hypervolume"]["all"] - one["hypervolume"]["baselines"] for one in records]
    if len(gains) < 2:
        return "one seed: no interval"
    error = statistics.stdev(gains) / len(gains) ** 0.5
    half = float(students_t.ppf(0.975, len(gains) - 1)) * error
    mean = statistics.fmean(gains)
    return f"hypervolume over the baselines' own: {mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f}, 95 %)"


def main() -> None:
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="where each seed's record goes, and is read from")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--budget", default="50")
    parser.add_argument("--workers", default="auto")
    parser.add_argument("--root", type=Path, default=Path("main_job"), help="folder for the studies")
    asked = parser.parse_args(sys.argv[1:split])
    known = [json.loads(line) for line in asked.json.read_text().splitlines()] if asked.json.exists() else []
    records = {one["seed"]: one for one in known}
    print(HEADER, flush=True)
    for seed in asked.seeds:
        if seed not in records:
            records[seed] = run_seed(seed, asked.root, asked.budget, asked.workers, sys.argv[split + 1 :])
            with asked.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps(records[seed]) + "\n")
        print(row_of(records[seed]), flush=True)
    chosen = [records[seed] for seed in asked.seeds]
    print(f"median search: {statistics.median(one['search']['seconds'] for one in chosen):.0f} s; {gained(chosen)}")


if __name__ == "__main__":
    main()
