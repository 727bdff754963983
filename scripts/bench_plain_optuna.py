"""The plain contenders of ``bench_search.py``: Optuna as most people would write it.

One float per group, a constraint on the cost, samplers by their defaults, one criterion, no projection. What is over
the budget is reported to the sampler as such and not trained.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from bench_cases import Prepared
from optuna.trial import TrialState

from autoprune.core.counts import ChannelCounts
from autoprune.core.policy import PruningPolicy
from autoprune.core.space import SearchSpace
from autoprune.core.trial import Candidate, Trial, completed_measurement, outcome_from_json, outcome_to_json
from autoprune.search.setup.build_evaluator import build_evaluator
from autoprune.study.optuna_sampler import proposal_seed
from autoprune.study.storage import open_storage
from autoprune.study.storage_url import sqlite_url

SAMPLERS = ("tpe", "random", "nsga2", "gp")
PLAIN = {f"plain-{name}": name for name in SAMPLERS}
CRITERION = "l2"  # of the plain contenders
ASKED_AT_MOST = 20  # times as many as are evaluated
Record = dict[str, Any]
Notify = Callable[[str], None]


def _plain_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match name:
            case "tpe":
                return optuna.samplers.TPESampler(seed=seed)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed)
            case "nsga2":
                return optuna.samplers.NSGAIISampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def plain_search(contender: str, prepared: Prepared, wanted: int, notify: Notify) -> tuple[list[Trial], int]:
    """Return the evaluated trials and how many were asked; goes on where an earlier run was cut off."""
    ready, evaluate = prepared.study, build_evaluator(prepared.study)
    file = ready.folder.path.parent / f"{contender}.db"
    study = optuna.create_study(
        storage=open_storage(sqlite_url(file)), study_name=contender, direction="maximize", load_if_exists=True
    )
    for lost in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(lost.number, state=TrialState.FAIL)
    stored = study.get_trials(deepcopy=False)
    asked = sum(trial.state == TrialState.COMPLETE for trial in stored)
    trials = [_read(json.loads(trial.user_attrs["trial"]), prepared) for trial in stored if "trial" in trial.user_attrs]
    study.sampler = _plain_sampler(PLAIN[contender], proposal_seed(ready.spec.seed, len(stored)))
    spent = 0.0  # asking since the last evaluation
    while len(trials) < wanted and asked < ASKED_AT_MOST * wanted:
        started = time.perf_counter()
        record, policy = _ask(study, ready.space)
        over = ready.cost.measure(ready.space.counts(policy))["mflops"] / prepared.limit - 1
        record.set_constraint("mflops", over)
        asked += 1
        spent += time.perf_counter() - started
        if over > 0:
            study.tell(record, 0.0)
            continue
        candidate = Candidate(len(trials), policy, proposal_seed(ready.spec.seed, asked), contender, prepared.budget)
        evaluation = evaluate(candidate)
        trial = Trial(candidate, evaluation.outcome, {"ask": spent, **evaluation.seconds}, 0)
        found = completed_measurement(trial)
        record.set_user_attr("trial", json.dumps(_written(trial)))
        accuracy = found["accuracy"] if found else 0.0
        study.tell(record, accuracy)
        trials, spent = [*trials, trial], 0.0
        notify(
            f"{contender}: {len(trials)} of {wanted} evaluated, {asked} asked, {found['accuracy'] if found else 0:.4f}"
        )
    return trials, asked


def _ask(study: optuna.Study, space: SearchSpace) -> tuple[optuna.Trial, PruningPolicy]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        record = study.ask()
        ratios = {group.name: record.suggest_float(group.name, 0.0, space.max_sparsity) for group in space.groups}
    full = space.full.channels
    counts = ChannelCounts({name: space.nearest(name, full[name] * (1 - ratio)) for name, ratio in ratios.items()})
    return record, space.policy(counts, {g.name: _criterion(space.importances[g.name]) for g in space.groups})


def _criterion(offered: Sequence[str]) -> str:
    return CRITERION if CRITERION in offered else offered[0]


def _written(trial: Trial) -> Record:
    return {
        "number": trial.number,
        "seed": trial.candidate.seed,
        "origin": trial.candidate.origin,
        "policy": json.loads(trial.candidate.policy.to_json()),
        "outcome": outcome_to_json(trial.outcome),
        "seconds": dict(trial.seconds),
    }


def _read(stored: Mapping[str, Any], prepared: Prepared) -> Trial:
    policy = PruningPolicy.from_json(stored["policy"])
    candidate = Candidate(stored["number"], policy, stored["seed"], stored["origin"], prepared.budget)
    return Trial(candidate, outcome_from_json(stored["outcome"]), stored["seconds"], 0)
