"""What a reader should know before trusting a table: evidence, overfitting, and what is missing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from autoprune.analysis import pareto
from autoprune.analysis.comparison import Scored, baselines_for, worth
from autoprune.analysis.comparison_notes import noise_notes, worth_notes
from autoprune.analysis.speed_notes import no_worse_notes, speed_notes
from autoprune.core.budget import Budget
from autoprune.core.latency_host import NOISY
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import ACCURACY, TRAIN, Metric
from autoprune.core.preference import WORDS, Preference
from autoprune.core.trial import Completed, Failed, OverBudget, Stopped, Trial, Untimed, completed_measurement
from autoprune.errors import NothingFitsError
from autoprune.report.content.rows import Row, first_line, generalisation_gap
from autoprune.study.regularisation_facts import RegularisationFacts
from autoprune.study.study_facts import SessionFacts


def compose_notes(
    rows: Sequence[Row],
    trials: Sequence[Trial],
    budget: Budget,
    dense: Scored,
    objectives: Sequence[str],
    quality: Metric,
    prefer: Preference,
) -> tuple[str, ...]:
    """Return the notes below a table, one sentence or two each, the most important first.

    Args:
        rows: the table.
        trials: all finished trials.
        budget: absolute limits; may be empty.
        dense: the dense network.
        objectives: metric names, the quality first.
        quality: what networks are judged by.
        prefer: what decides which of several networks that are as good within noise is the best.
    """
    if not pareto.measured(trials):
        return _unfinished_baselines(trials, budget)
    compared = worth(trials, budget, dense, quality, prefer)
    best = pareto.best_within(trials, budget, quality, prefer, dense.measurement)
    return (
        *_nothing_fits(trials, budget, quality),
        *_preference(trials, budget, quality, prefer, dense.measurement),
        *worth_notes(trials, budget, compared, quality, prefer, dense.measurement),
        *speed_notes(best, trials, compared, dense.measurement),
        *(_no_worse(trials, budget, quality) if "latency_ms" in objectives else ()),
        *noise_notes(trials, budget, dense, quality, prefer),
        *_generalisation(rows, dense.measurement, quality),
        *_left_out(rows, trials, objectives),
        *_repeats(trials),
        *_foreign_baselines(trials, budget),
        *_unfinished_baselines(trials, budget),
        *(f"not counted: {what}" for what in dense.measurement.uncounted),
    )


def _no_worse(trials: Sequence[Trial], budget: Budget, quality: Metric) -> list[str]:
    """Return how much faster than each baseline the search is at no less quality, where latency is traded."""
    fitting = [trial for trial, m in pareto.measured(trials) if budget.admits(m)]
    return no_worse_notes(fitting, [one for one in baselines_for(trials, budget) if one in fitting], quality)


def _preference(
    trials: Sequence[Trial], budget: Budget, quality: Metric, prefer: Preference, dense: Measurement
) -> list[str]:
    """Return how the best was chosen among networks that are as good within noise, if that made a difference."""
    best = pareto.best_within(trials, budget, quality, prefer, dense)
    by_loss = pareto.best_within(trials, budget, quality, "accuracy", dense)
    if best is None or by_loss is None or best.number == by_loss.number:
        return []
    aim = f"the best {quality.name}"
    if pareto.is_lead_luck(trials, budget, quality, dense):
        aim = f"the dense network's {quality.name}, above which the best is by no more than luck"
    return [
        f"trial {best.number} is {WORDS[prefer]} of those within one standard error of {aim}; by validation loss it "
        f"would be trial {by_loss.number} (--prefer accuracy)"
    ]


def _generalisation(rows: Sequence[Row], dense: Measurement, quality: Metric) -> list[str]:
    """Return a note if the best network overfits its training examples more than the dense one does.

    Without standard errors nobody can tell.
    """
    found = next((row for row in rows if row.is_best), rows[0]).measurement
    gap, before = generalisation_gap(found, quality), generalisation_gap(dense, quality)
    names = (quality.name, f"{TRAIN}{quality.name}")
    if gap is None or before is None or not set(names) <= found.stderr.keys() & dense.stderr.keys():
        return []
    error = math.hypot(*(one.error(name) for one in (found, dense) for name in names))
    if gap - before <= error:
        return []
    return [
        f"{quality.name} on training examples is {quality.with_unit(gap)} "
        f"{'above' if quality.goal == 'max' else 'below'} validation, and {quality.with_unit(before)} for the dense "
        f"network (± {quality.with_unit(error)}): pruning and fine-tuning have overfitted"
    ]


def latency_notes(sessions: Sequence[SessionFacts], trials: Sequence[Trial] = ()) -> list[str]:
    """Return how latency was measured, if the runs have stored it, and what is still owed or cannot be compared.

    Args:
        sessions: what is stored of each run, in order; earlier versions stored nothing.
        trials: every finished one.
    """
    return [*_how_timed(sessions), *_several_hosts(trials), *_noisy(trials), *_owed(trials)]


def _owed(trials: Sequence[Trial]) -> list[str]:
    waiting = [trial for trial in trials if isinstance(trial.outcome, Untimed)]
    if not waiting:
        return []
    have = "1 trial has" if len(waiting) == 1 else f"{len(waiting)} trials have"
    return [
        f"{have} no latency yet and {'is' if len(waiting) == 1 else 'are'} on no front, since the machine that times "
        f"did not answer; `autoprune time STUDY` asks again"
    ]


def _several_hosts(trials: Sequence[Trial]) -> list[str]:
    """Return a note if workers timed on machines of their own: ratios to dense travel, but not everywhere."""
    hosts = Counter(
        t.outcome.latency_host for t in trials if isinstance(t.outcome, Completed) and t.outcome.latency_host
    )
    if len(hosts) < 2:
        return []
    shares = ", ".join(f"{count} on {host}" for host, count in hosts.most_common())
    return [
        f"latencies were timed on {len(hosts)} machines ({shares}), each against the dense network there, so that they "
        f"compare only as far as these machines are alike; latency.command has all of them timed on one"
    ]


def _noisy(trials: Sequence[Trial]) -> list[str]:
    """Return a note if the machine was too busy to tell, so that nobody believes its numbers."""
    timed = [m for trial in trials if (m := completed_measurement(trial)) and m.error("latency_ms")]
    noisy = sum(m.error("latency_ms") > NOISY * m["latency_ms"] for m in timed)
    if not noisy:
        return []
    return [
        f"{noisy} of {len(timed)} latencies are uncertain by more than {100 * NOISY:g} %: the machine that timed them "
        f"was too busy to tell such networks apart; raise latency.blocks, or time on a quiet one"
    ]


def _how_timed(sessions: Sequence[SessionFacts]) -> list[str]:
    if not sessions:
        return []
    how, where = sessions[-1].latency, sessions[-1].runtime
    if not (how.keys() >= {"runtime", "batch", "threads"} and "device_name" in where):
        return []
    threads = f"{how['threads']} CPU thread{'' if how['threads'] == 1 else 's'}"
    form, dense = {"int8": "int8"}.get(str(how.get("format", "")), "float32"), how.get("dense_fp32_ms")
    beside = f"; in float32 that takes {float(dense):.3f} ms" if dense else ""
    return [
        f"latency was timed in {how['runtime']}, batch {how['batch']}, {threads}, {form}, on "
        f"{how.get('host') or where['device_name']}, in alternation with the dense network{beside}"
    ]


def regularisation_notes(facts: RegularisationFacts | None, quality: Metric) -> list[str]:
    """Return what the training of [sparsity] did to the dense network: quality, and the spread of channel strengths.

    Args:
        facts: ``None`` if there was none.
        quality: what networks are judged by.
    """
    if not facts:
        return []
    before, after = (quality.with_unit(found[quality.name]) for found in (facts.quality_before, facts.quality_after))
    name = "" if quality == ACCURACY else f"{quality.name} "
    middle = facts.quantiles.index(0.5)
    return [
        f"before pruning, {facts.method} (λ = {facts.strength:g}, {facts.epochs:g} epochs) took the dense "
        f"network from {name}{before} to {after} on validation; of {facts.channels} channels "
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


def _nothing_fits(trials: Sequence[Trial], budget: Budget, quality: Metric) -> list[str]:
    """Return the trial that comes nearest to a budget that none meets."""
    try:
        pareto.choose(trials, budget, quality)
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
        case Untimed(reason):
            return f"it has no latency yet: {first_line(reason)}"
        case Completed():
            return "it completed"
