"""Run recipes from end to end: search, SIGKILL, resume, report, pick, and load in a fresh process; print a row of each.

    python scripts/run_recipes.py digits-unet diabetes-mlp
    python scripts/run_recipes.py digits-unet --root /tmp/runs -- --trials 4     # options of `autoprune search`

The rows are those of docs/project/benchmarks.md, "Any task". Seconds are of the whole sequence, by the clock; beside
them those of all processes on the CPU, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.study.view import open_view

HEADER = """\
| recipe | metric | dense | best within the budget | of the budget's cost | baselines | test: dense → picked | \
trials | seconds (on the CPU) |
|---|---|---|---|---|---|---|---|---|"""
# recipe whose data are files of one's own → what writes some to try it with, and what the data is called then
WRITTEN = {
    "audiofolder": ("make_sounds.py", "audiofolder:{}"),
    "ratings-two-tower": ("make_ratings.py", "ratings:{}.csv"),
}
ROOT = Path(__file__).resolve().parents[1]
KILL_AFTER = "] trial 0"  # the line that tells of the first trial
_LOAD_AND_RUN = """
import sys
import autoprune
from autoprune.search.setup.from_spec import task_of

network = autoprune.load(sys.argv[1], trust_code=True)
output = task_of(autoprune.open_view(sys.argv[2]).spec).example(network).run(network)
print(type(output).__name__, sum(each.numel() for each in network.parameters()))
"""


@dataclass(frozen=True)
class Run:
    """What a recipe came to.

    Attributes:
        name: of the recipe.
        report: the document of ``autoprune report --json``.
        pick: the document of ``autoprune pick --json``.
        loaded: what the fresh process printed: the type of the output, and the number of parameters.
        trials_before: finished trials that the killed search left.
        seconds: by the clock, and on the CPU.
    """

    name: str
    report: dict[str, Any]
    pick: dict[str, Any]
    loaded: str
    trials_before: int
    seconds: tuple[float, float]


def run_recipe(
    name: str, root: Path, search_options: Sequence[str] = (), pick_options: Sequence[str] = (), cwd: Path | None = None
) -> Run:
    """Run a recipe from end to end in ``root``; raise if any step of it fails."""
    began, cpu = time.monotonic(), _cpu_seconds()
    place = ("--root", str(root))
    _search_and_kill([name, *_data_written(name, root), *search_options, *place], cwd)
    before = len(open_view(root / name).trials)
    _call("search", name, *place, cwd=cwd)
    report = json.loads(_call("report", name, "--json", *place, cwd=cwd))
    pick = json.loads(_call("pick", name, "--json", *pick_options, *place, cwd=cwd))
    folder = Path(cwd or ".") / pick["folder"]
    loaded = _output([sys.executable, "-c", _LOAD_AND_RUN, str(folder.resolve()), str((root / name).resolve())], cwd)
    seconds = time.monotonic() - began, _cpu_seconds() - cpu
    return Run(name, report, pick, loaded.splitlines()[-1], before, seconds)


def _data_written(name: str, root: Path) -> list[str]:
    """Write the data of a recipe that reads the user's own files; return the options that name it."""
    if name not in WRITTEN:
        return []
    script, source = WRITTEN[name]
    data = source.format(root.resolve() / f"{name}-data")
    root.mkdir(parents=True, exist_ok=True)
    _output([sys.executable, str(ROOT / "studies" / name / script), data.partition(":")[2]], None)
    return ["--data", data]


def _search_and_kill(arguments: Sequence[str], cwd: Path | None) -> None:
    """Begin a search, and kill it once it has told of its first trial."""
    process = subprocess.Popen(
        _command("search", *arguments), cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if process.stderr is None:
        raise RuntimeError("a pipe was asked for, and there is none")
    said = list[str]()
    with process.stderr:
        for line in process.stderr:
            said.append(line)
            if KILL_AFTER in line:
                process.send_signal(signal.SIGKILL)
                break
        process.wait()
    if process.returncode != -signal.SIGKILL:
        raise RuntimeError(f"autoprune search {' '.join(arguments)} ended before it was killed:\n{''.join(said)}")


def _command(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("autoprune")), *arguments]


def _call(*arguments: str, cwd: Path | None) -> str:
    return _output(_command(*arguments), cwd)


def _output(command: list[str], cwd: Path | None) -> str:
    """Return what a command prints; its stderr is shown if it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} … ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def row_of(run: Run) -> str:
    """Return a recipe's row of the table."""
    from autoprune.core.metrics import Metric, metric

    units = {"fraction": "%"}  # as it is stored, and as it is shown
    qualities = [
        Metric(one["name"], units.get(one["unit"], one["unit"]), one["goal"]) for one in run.report["qualities"]
    ]
    rows = {row["trial"]: row for row in run.report["rows"]}
    best, baselines = rows[run.report["best"]], [row for row in rows.values() if row["baseline"]]
    cost, limit = next(iter(run.report["budget"].items()))
    share = best["values"][cost] / run.report["dense"]["values"][cost]
    origins = ", ".join(f"{row['origin']} {_scores(row, qualities[:1])}" for row in baselines)
    test = f"{_scores(run.pick['dense']['test'], qualities)} → {_scores(run.pick['test'], qualities)}"
    wall, cpu = run.seconds
    cells = (
        f"`{run.name}`",
        ", ".join(f"{one.name} ({one.goal})" for one in qualities),
        _scores(run.report["dense"], qualities),
        f"{_scores(best, qualities)} ({best['origin']})",
        f"{100 * share:.0f} % of dense {metric(cost).name}, limit {limit:.4g}",
        origins,
        test,
        f"{run.report['counts']['completed']} and {run.report['counts']['stopped']} stopped",
        f"{wall:.0f} ({cpu:.0f})",
    )
    return f"| {' | '.join(cells)} |"


def _scores(measurement: dict[str, Any], qualities: Sequence[Any]) -> str:
    values, errors = measurement["values"], measurement["stderr"]
    return ", ".join(
        one.with_unit(values[one.name]) + (f" ± {one.number(errors[one.name])}" if one.name in errors else "")
        for one in qualities
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipes", nargs="+", metavar="RECIPE")
    parser.add_argument("--root", type=Path, help="folder for the studies; default: one that is removed in the end")
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    asked, options = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1 :]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as scratch:
        print(HEADER)
        for name in asked.recipes:
            print(row_of(run_recipe(name, (asked.root or Path(scratch)).resolve(), options)), flush=True)


if __name__ == "__main__":
    main()
