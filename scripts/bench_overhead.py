"""How much of a search is not training, evaluation or timing: overhead per trial, as a share of the whole.

Runs a study in a fresh folder and adds up the phases that every trial stores. Overhead is proposing and storing
(``ask``, which includes the ``tell`` of the trial before), cutting the network (``prune``) and ``other``; looks on the
way (``rung``) are evaluation.

    python scripts/bench_overhead.py                      # the main job's study, 12 trials
    python scripts/bench_overhead.py --study digits-resnet20 --trials 30 --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console

from autoprune.core.trial import Trial
from autoprune.loggers.console import PlainDisplay
from autoprune.search.session import run_search
from autoprune.study.find_study import recipes
from autoprune.study.folder import StudyFolder
from autoprune.study.spec_toml import Layer, parse_spec, read_study_toml
from autoprune.study.view import open_view

WORK = ("recalibrate", "rung", "finetune", "score", "latency")


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = StudyFolder(Path(temporary) / arguments.study)
        started = time.perf_counter()
        run(arguments, folder)
        wall = time.perf_counter() - started
        trials = open_view(folder.path).trials
    figures = summarise(trials, wall)
    if arguments.json:
        print(json.dumps(figures, indent=1))
    else:
        show(figures)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="digits-resnet56", help="a recipe's name")
    parser.add_argument("--budget-mflops", default="50")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--dense-epochs", type=int, default=3, help="the dense network's training is not measured")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def run(arguments: argparse.Namespace, folder: StudyFolder) -> None:
    recipe = read_study_toml(recipes()[arguments.study])
    options = {
        "name": arguments.study,
        "trials": arguments.trials,
        "budget": {"mflops": arguments.budget_mflops},
        "dense": {"epochs": arguments.dense_epochs},
    }
    spec = parse_spec([Layer("recipe", recipe), Layer("options", options)])
    run_search(spec, folder, PlainDisplay(Console(stderr=True)))


def summarise(trials: tuple[Trial, ...], wall_seconds: float) -> dict[str, object]:
    phases = sorted({phase for trial in trials for phase in trial.seconds})
    overhead = [sum(s for phase, s in trial.seconds.items() if phase not in WORK) for trial in trials]
    total = sum(trial.total_seconds for trial in trials)
    shares = [extra / trial.total_seconds for extra, trial in zip(overhead, trials, strict=True)]
    return {
        "trials": len(trials),
        "wall_seconds_with_preparation": round(wall_seconds, 2),
        "seconds_in_trials": round(total, 2),
        "median_ms_per_trial": {
            phase: round(1e3 * statistics.median(t.seconds.get(phase, 0.0) for t in trials), 1) for phase in phases
        },
        "overhead_share": round(sum(overhead) / total, 4),
        "overhead_share_median": round(statistics.median(shares), 4),
        "overhead_share_range": [round(min(shares), 4), round(max(shares), 4)],
        "overhead_ms_median": round(1e3 * statistics.median(overhead), 1),
    }


def show(figures: dict[str, object]) -> None:
    for name, value in figures.items():
        print(f"{name:32} {value}")
    print("overhead = ask (with the tell before it) + prune + store + other; target: at most 3 % on the main job")


if __name__ == "__main__":
    main()
