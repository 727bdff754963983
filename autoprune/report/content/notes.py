"""What a reader should know before trusting a table: evidence, overfitting, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoprune.analysis import pareto
from autoprune.analysis.comparison import Scored, baselines_for, noise_notes, worth, worth_notes
from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.trial import Completed, Failed, OverBudget, Stopped, Trial
from autoprune.errors import NothingFitsError
from autoprune.report.content.rows import Row, first_line, generalisation_gap
from autoprune.study.regularisation_facts import RegularisationFacts
from autoprune.study.study_facts import SessionFacts


def compose_notes(
    rows: Sequence[Row], trials: Sequence[Trial], budget: Budget, dense: Scored, objectives: Sequence[str]
) -> tuple[str, ...]:
    """Return the notes below a table, one sentence or two each, the most important first.

    Args:
        rows: the table.
        trials: all finished trials.
        budget: absolute limits; may be empty.
        dense: the dense network.
        objectives: metric names, the quality first.
    """
    if not pareto.measured(trials):
        return _unfinished_baselines(trials, budget)
    return (
        *_nothing_fits(trials, budget),
        *worth_notes(trials, budget, worth(trials, budget, dense)),
        *noise_notes(trials, budget, dense),
        *_generalisation(rows, dense.measurement),
        *_left_out(rows, trials, objectives),
        *_repeats(trials),
        *_foreign_baselines(trials, budget),
        *_unfinished_baselines(trials, budget),
        *(f"not counted: {what}" for what in dense.measurement.uncounted),
    )


def _generalisation(rows: Sequence[Row], dense: Measurement) -> list[str]:
    """Return a note if the best network overfits its training images more than the dense one does."""
    found = next((row for row in rows if row.is_best), rows[0]).measurement
    gap, before = generalisation_gap(found), generalisation_gap(dense)
    if gap is None or before is None:
        return []
    error = math.hypot(*(one.error(name) for one in (found, dense) for name in ("accuracy", "train_accuracy")))
    if gap - before <= error:
        return []
    return [
        f"accuracy on training images is {100 * gap:.2f} % above validation, and {100 * before:.2f} % for the dense "
        f"network (± {100 * error:.2f} %): pruning and fine-tuning have overfitted"
    ]


def latency_notes(sessions: Sequence[SessionFacts]) -> list[str]:
    """Return how latency was measured, if the runs have stored it; those of earlier versions did not.

    Args:
        sessions: what is stored of each run, in order.
    """
    if not sessions:
        return []
    how, where = sessions[-1].latency, sessions[-1].runtime
    if not (how.keys() >= {"runtime", "batch", "threads"} and "device_name" in where):
        return []
    threads = f"{how['threads']} CPU thread{'' if how['threads'] == 1 else 's'}"
    return [
        f"latency was timed in {how['runtime']}, batch {how['batch']}, {threads}, float32, on {where['device_name']}, "
        f"in alternation with the dense network"
    ]


def regularisation_notes(facts: RegularisationFacts | None) -> list[str]:
    """Return what the training of [sparsity] did to the dense network: accuracy, and the spread of channel strengths.

    Args:
        facts: ``None`` if there was none.
    """
    if not facts:
        return []
    before, after = (100 * found["accuracy"] for found in (facts.quality_before, facts.quality_after))
    middle = facts.quantiles.index(0.5)
    return [
        f"before pruning, {facts.method} (λ = {facts.strength:g}, {facts.epochs:g} epochs) took the dense "
        f"network from {before:.2f} % to {after:.2f} % on validation; of {facts.channels} channels "
        f"{100 * facts.near_zero:.0f} % are near zero, and the median strength went from "
        f"{facts.before[middle]:.3g} to {facts.after[middle]:.3g}"
    ]


def _left_out(rows: Sequence[Row], trials: Sequence[Trial], objectives: Sequence[str]) -> list[str]:
    """Return what the noise-aware front hides; the best network may be part of that."""
    hidden = len(pareto.front(trials, objectives, noise_aware=False)) - sum(row.on_front for row in rows)
    best = next((row for row in rows if row.is_best), None)
    found = []
    if best is not None and not best.on_front:
        found.append(f"trial {best.number}, the best, is not on the front: another trial on it is as good within noise")
    if hidden:
        are = "trial is" if hidden == 1 else "trials are"
        found.append(
            f"{hidden} more {are} not dominated, but only by differences within noise; `--all` shows every one"
        )
    return found


def _nothing_fits(trials: Sequence[Trial], budget: Budget) -> list[str]:
    """Return the trial that comes nearest to a budget that none meets."""
    try:
        pareto.choose(trials, budget)
    except NothingFitsError as error:
        return [str(error)]
    return []


def _repeats(trials: Sequence[Trial]) -> list[str]:
    """Return how many proposals repeat a policy, as happens where a space has no others left."""
    known, repeats = dict[object, Trial](), 0
    for trial in trials:
        groups = trial.candidate.policy.groups.values()  # a key of numbers and names: thousands of policies hash slowly
        key = tuple(group.sparsity for group in groups), tuple(group.importance for group in groups)
        first = known.setdefault((*key, trial.candidate.policy.dropped_blocks, trial.candidate.policy.mask), trial)
        repeats += first is not trial and not trial.candidate.is_baseline
    if not repeats:
        return []
    repeat = "1 trial repeats" if repeats == 1 else f"{repeats} trials repeat"
    return [f"{repeat} a policy that was evaluated before: the space has few others, and more trials add little"]


def _foreign_baselines(trials: Sequence[Trial], budget: Budget) -> list[str]:
    """Return a note if the baselines shown were made for another budget, which flatters the search."""
    shown = baselines_for(trials, budget)
    if budget.limits and shown and all(trial.candidate.budget != budget for trial in shown):
        return ["no baseline was made for this budget; those shown were made for another one and happen to meet it"]
    return []


def _unfinished_baselines(trials: Sequence[Trial], budget: Budget) -> tuple[str, ...]:
    """Return the baselines of this budget that are missing from the table, with the reason."""
    wanted = [trial for trial in trials if trial.candidate.is_baseline and trial.candidate.budget == budget]
    return tuple(
        f"the {trial.candidate.origin.rpartition(':')[2]} baseline (trial {trial.number}) is missing: {_ending(trial)}"
        for trial in wanted
        if not isinstance(trial.outcome, Completed)
    )


def _ending(trial: Trial) -> str:
    match trial.outcome:
        case OverBudget():
            return "it is over budget"
        case Stopped(reason, _):
            return f"it was stopped, {first_line(reason)}"
        case Failed(error, message):
            return f"it failed with {error}: {first_line(message)}"
        case Completed():
            return "it completed"
