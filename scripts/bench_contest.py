"""When does a contest among the best few trials tell who ends best, and what is it worth to the one who picks?

    python scripts/bench_contest.py --case digits --seeds 2 --trials 12 --json contest.jsonl
    python scripts/bench_contest.py --case resnet20 --weights resnet20.safetensors --images cifar10 --json contest.jsonl

Every seed's study is searched (``bench_search.py``'s ``ours``, continued if it is there), and the best few trials
within the budget take the whole longer fine-tune, each in one piece, with looks at validation on the way that leave no
trace. From these courses every rule of choosing among them follows without training again: told are, per look, the
rank correlation of the losses with those at the end, and per rule the steps it costs and what it would have picked. The
first of each seed is fine-tuned in parts as well, to see what it costs to begin the optimizer anew at each rung.

Every network is a line of the ``--json`` file; a second run with the same file does what is missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from bench_cases import Prepared, baseline_trials, case_parser, prepare, settings, spec_of, study_folder
from bench_search import Journal, notify
from rich.console import Console
from scipy.stats import spearmanr
from torch import nn
from torch.optim.swa_utils import AveragedModel

from autoprune.analysis.pareto import best_few
from autoprune.analysis.successive_halving import halve, rungs
from autoprune.core.trial import Trial, completed_measurement
from autoprune.loggers.console import PlainDisplay
from autoprune.search.evaluation.make_network import NetworkMaker
from autoprune.search.evaluation.monitor import glance
from autoprune.search.evaluation.stopwatch import Stopwatch
from autoprune.search.session import run_search
from autoprune.search.setup.build_evaluator import build_maker
from autoprune.search.setup.from_spec import finetune_settings
from autoprune.study.view import open_view
from autoprune.training.scoring import score
from autoprune.training.settings import total_steps

LOOKS = (0.125, 0.25, 0.5, 0.75)  # shares of the longer fine-tune; the search's own loss comes before, the end after
WINDOW = 1 / 16  # of the longer fine-tune, before each look: what weights are averaged over
KINDS = {
    "loss": "",
    "settled_loss": ", batch norm recalibrated",
    "averaged_loss": ", weights averaged and batch norm recalibrated",
}
Record = dict[str, Any]
Course = Mapping[str, Any]


def main() -> None:
    options = parse_arguments()
    journal = Journal(Path(options.json))
    chosen = settings(options) | {"top": options.top}
    stored = journal.once(lambda: {"settings": chosen}, kind="settings")
    if stored["settings"] != chosen:
        raise SystemExit(f"{options.json} was made with other settings: {stored['settings']}; give another file")
    if not options.table:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            run_seed(options, journal, seed)
    show([record for record in journal.records if record["kind"] == "course"], options.top)


def parse_arguments() -> argparse.Namespace:
    parser = case_parser(__doc__)
    parser.add_argument("--work", default="", help="folder for studies; empty: beside the file")
    parser.add_argument("--top", type=int, default=5, help="trials of each study that are fine-tuned")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=24, help="of each search")
    parser.add_argument("--steps", type=int, default=None, help="of the search's fine-tune; default: the case's")
    parser.add_argument("--finish-steps", type=int, default=None, help="of the longer one; default: the case's")
    fixed = {"budget": None, "batch_size": None, "lr": None, "finish_lr": None, "dense_epochs": None}
    parser.set_defaults(**fixed, max_drop=0.02, precision="auto", layout="contiguous")
    return parser.parse_args()


def run_seed(options: argparse.Namespace, journal: Journal, seed: int) -> None:
    work = Path(options.work or f"{options.json}.work") / options.case
    prepared = prepare(options, work, seed, notify)
    baseline_trials(prepared, lambda trial: notify(f"{trial.candidate.origin}: {trial.total_seconds:.1f} s"))
    folder = study_folder(prepared, "ours")
    run_search(spec_of(options, seed), folder, PlainDisplay(Console(stderr=True)))
    for rank, trial in enumerate(best_few(open_view(folder.path).trials, prepared.budget, options.top)):
        key = {"kind": "course", "seed": seed, "rank": rank}
        journal.once(partial(course, prepared, trial), **key, parts=False)
        if rank == 0:
            journal.once(partial(course_in_parts, prepared, trial), **key, parts=True)


def course(prepared: Prepared, trial: Trial) -> Record:
    """Return what is seen of a trial on its way through the longer fine-tune in one piece."""
    maker, watch = _finisher(prepared), Stopwatch(lambda phase: None)
    policy, study = trial.candidate.policy, prepared.study
    network = maker.pruned(policy, watch)
    steps = total_steps(study.task.steps_per_epoch(maker.settings.batch_size), maker.settings)
    at = {int(share * steps): share for share in LOOKS}
    looks: list[Record] = []
    mean = AveragedModel(network)

    def look(done: int, _total: int) -> None:
        nonlocal mean
        if any(last - int(WINDOW * steps) < done <= last for last in at):
            mean.update_parameters(network)
        if done in at:
            settled = maker.recalibrated_copy
            seen = {"loss": network, "settled_loss": settled(network), "averaged_loss": settled(mean.module)}
            looks.append({"share": at[done], **{kind: _loss_of(prepared, one) for kind, one in seen.items()}})
            mean = AveragedModel(network)

    maker.finetune(network, policy, watch, on_step=look)
    return {"looks": looks, **_facts(trial), **_end(prepared, network)}


def _loss_of(prepared: Prepared, network: nn.Module) -> float:
    return glance(network, prepared.task, prepared.study.device, prepared.task.sizes["val"]).loss


def course_in_parts(prepared: Prepared, trial: Trial) -> Record:
    """Return the end of a trial that was fine-tuned in the parts of a contest of three."""
    maker, watch = _finisher(prepared), Stopwatch(lambda phase: None)
    policy, first = trial.candidate.policy, 0.0
    network = maker.pruned(policy, watch)
    for rung in rungs(3):
        maker.finetune(network, policy, watch, share=(first, rung.share))
        first = rung.share
    return {"looks": [], **_facts(trial), **_end(prepared, network)}


def _finisher(prepared: Prepared) -> NetworkMaker:
    spec = prepared.study.spec
    return build_maker(prepared.study, finetune_settings(spec, spec.pick.epochs, spec.pick.lr))


def _facts(trial: Trial) -> Record:
    found = completed_measurement(trial)
    if found is None:
        raise RuntimeError("a trial to be finished was not evaluated to its end; this is a bug in the benchmark")
    return {"trial": trial.number, "origin": trial.candidate.origin, "searched": dict(found.values)}


def _end(prepared: Prepared, network: nn.Module) -> Record:
    study = prepared.study
    ends = {split: score(network.eval(), study.task, split, study.device) for split in ("val", "test")}
    return {f"{split}_{name}": getattr(end, name) for split, end in ends.items() for name in ("loss", "accuracy")}


# what follows from the courses


def show(records: Sequence[Course], top: int) -> None:
    whole = [record for record in records if not record["parts"]]
    seeds = [[r for r in whole if r["seed"] == seed] for seed in sorted({r["seed"] for r in whole})]
    print("\n| seed | trial | origin | after the search, val | at the end, val | test |")
    print("|---" * 6 + "|")
    for record in whole:
        numbers = (record["searched"]["accuracy"], record["val_accuracy"], record["test_accuracy"])
        print(f"| {record['seed']} | {record['trial']} | {record['origin']} | " + _percents(numbers) + " |")
    _show_looks([rows for rows in seeds if len(rows) > 2])
    _show_rules(seeds, top)
    _show_parts(records)


def _show_looks(seeds: Sequence[Sequence[Course]]) -> None:
    print("\n| loss seen | rank correlation with the end, mean over seeds | each seed |\n|---|---|---|")
    for share, kind in ((0.0, "loss"), *product(LOOKS, KINDS)):
        found = [
            spearmanr([_loss(row, share, kind) for row in rows], [_loss(row, 1.0) for row in rows]).statistic
            for rows in seeds
        ]
        name = f"after {100 * share:g} %" if share else "by the search"
        name += KINDS[kind]
        each = ", ".join(f"{value:.2f}" for value in found)
        print(f"| {name} | {np.mean(found) if found else float('nan'):.2f} | {each} |")


def _loss(row: Course, share: float, kind: str = "loss") -> float:
    """Return the validation loss after a share of the fine-tune; 0 is the search's own."""
    if share == 0.0:
        return float(row["searched"]["loss"])
    if share == 1.0:
        return float(row["val_loss"])
    return float(next(look[kind] for look in row["looks"] if look["share"] == share))


def _show_rules(seeds: Sequence[Sequence[Course]], top: int) -> None:
    print("\n| rule | steps, of one fine-tune | val, mean | test, mean | test, each seed |\n|---|---|---|---|---|")
    for name, cost, rule in rules(top):
        picked = [rule(rows) for rows in seeds if rows]
        test = [row["test_accuracy"] for row in picked]
        val = float(np.mean([row["val_accuracy"] for row in picked]))
        print(f"| {name} | {cost:g} | {_percents((val, float(np.mean(test))))} | {_percents(test, ', ')} |")


def rules(top: int) -> list[tuple[str, float, Callable[[Sequence[Course]], Course]]]:
    """Return name, cost, and which of a seed's courses, best of the search first, a rule picks."""
    found: list[tuple[str, float, Callable[[Sequence[Course]], Course]]] = [
        ("the search's best", 1.0, lambda rows: rows[0]),
        *((f"three, halved at 25 and 50 %{how}", 1.75, partial(_halving, kind)) for kind, how in KINDS.items()),
        ("three, decided at 50 %", 2.0, lambda rows: min(rows[:3], key=lambda row: _loss(row, 0.5))),
        ("three, decided at 75 %", 2.5, lambda rows: min(rows[:3], key=lambda row: _loss(row, 0.75))),
    ]
    for count in sorted({2, 3, top}):
        found.append((f"{count} to the end", count, partial(_to_the_end, count)))
    return found


def _to_the_end(count: int, rows: Sequence[Course]) -> Course:
    return min(rows[:count], key=lambda row: _loss(row, 1.0))


def _halving(kind: str, rows: Sequence[Course]) -> Course:
    """Return whom successive halving leaves, as the package's pick did at the rungs of three contenders."""
    places = [(row, 0.0) for row in rows[:3]]
    return halve(places, lambda one, first, last: (one[0], last), lambda one: _loss(*one, kind))[0][0]


def _show_parts(records: Sequence[Course]) -> None:
    print("\n| seed | in one piece, val | test | in parts, val | test |\n|---|---|---|---|---|")
    for parted in (record for record in records if record["parts"]):
        whole = next(r for r in records if not r["parts"] and (r["seed"], r["rank"]) == (parted["seed"], 0))
        numbers = [each[f"{split}_accuracy"] for each in (whole, parted) for split in ("val", "test")]
        print(f"| {parted['seed']} | {_percents(numbers)} |")


def _percents(values: Sequence[float], between: str = " | ") -> str:
    return between.join(f"{100 * value:.2f}" for value in values)


if __name__ == "__main__":
    main()
