"""What early stopping was worth: the time saved, and whether the checks that ran to their end confirm it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autoprune.analysis.comparison import Comparison, compare, scored
from autoprune.analysis.early_stopping import LOOKS, Look, are_rivals, peers_of, rank_agreement, was_spared
from autoprune.core.json_values import JsonObject
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import Metric
from autoprune.core.trial import Completed, Stopped, Trial
from autoprune.report.content.rows import duration

_AHEAD = ("finetune", "score", "latency")  # phases that a stopped trial skips, in part or whole
_FEWEST_RANKS = 3  # trials below which a rank correlation says nothing


@dataclass(frozen=True)
class StoppingFacts:
    """What is known about the trials that were stopped, or would have been.

    Attributes:
        stopped: trials ended early.
        seconds_saved: what completed trials take in the median in each phase that was skipped, less what the stopped
            trial had spent in it, over all of them.
        seconds_looking: spent on the looks, by all trials.
        share_saved: ``seconds_saved`` over the time that the search would have taken with neither looks nor stops,
            a fraction.
        checks: trials that would have been stopped and ran to their end.
        wrong: checks that ended better, by more than one standard error of the difference (example by example where it
            is stored what was made of each), than every completed trial before them that has similar cost and meets the
            check's budget.
        within_noise: checks that were not wrong and came within that error of the best before them.
        agreement: look → rank correlation of its loss with the final loss, over the completed trials of similar cost to
            the last one; a look without three such trials is left out.
        unjudged: checks that had a rival, of a metric without a standard error: nobody can tell.
    """

    stopped: int = 0
    seconds_saved: float = 0.0
    seconds_looking: float = 0.0
    share_saved: float = 0.0
    checks: int = 0
    wrong: int = 0
    within_noise: int = 0
    agreement: Mapping[Look, float] = field(default_factory=dict)
    unjudged: int = 0

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {
            "stopped": self.stopped,
            "seconds_saved": self.seconds_saved,
            "seconds_looking": self.seconds_looking,
            "share_saved": self.share_saved,
            "checks": self.checks,
            "wrong": self.wrong,
            "within_noise": self.within_noise,
            "unjudged": self.unjudged,
            "agreement": {str(look): correlation for look, correlation in self.agreement.items()},
        }


def stopping_facts(trials: Sequence[Trial], quality: Metric) -> StoppingFacts:
    """Return what stopping was worth in these trials, given by number, judged by a quality."""
    saved = _seconds_saved(trials)
    looking = sum(trial.seconds.get("rung", 0.0) for trial in trials)
    whole = sum(trial.total_seconds for trial in trials) - looking + saved
    leads = [lead for trial in trials if was_spared(trial) and (lead := _lead(trial, trials, quality)) is not None]
    judged = [(lead.difference, lead.stderr) for lead in leads if lead.stderr is not None]
    return StoppingFacts(
        stopped=sum(isinstance(trial.outcome, Stopped) for trial in trials),
        seconds_saved=saved,
        seconds_looking=looking,
        share_saved=saved / whole if whole > 0 else 0.0,
        checks=sum(bool(was_spared(trial)) for trial in trials),
        wrong=sum(gain > error for gain, error in judged),
        within_noise=sum(abs(gain) <= error for gain, error in judged),
        agreement=_agreement(trials),
        unjudged=len(leads) - len(judged),
    )


def stopping_notes(facts: StoppingFacts) -> list[str]:
    """Return in one sentence what early stopping was worth; nothing if no trial was stopped or would have been."""
    if not facts.stopped + facts.checks:
        return []
    trials = "1 trial was" if facts.stopped == 1 else f"{facts.stopped} trials were"
    saved = (
        f"{trials} stopped early, which saved about {duration(facts.seconds_saved)} ({100 * facts.share_saved:.0f} % "
        f"of the search; looking took {duration(facts.seconds_looking)})"
    )
    checks = f"{facts.checks} more ran to the end as a check" if facts.checks else "none ran to the end as a check yet"
    found = (
        f": {facts.wrong} beat all trials before them beyond noise, {facts.within_noise} came within noise"
        if facts.checks
        else ""
    )
    unjudged = f", {facts.unjudged} cannot be judged without a standard error" if facts.unjudged else ""
    ranks = ", ".join(f"{value:.2f} {LOOKS[look]}" for look, value in facts.agreement.items())
    return [f"{saved}; {checks}{found}{unjudged}" + (f"; rank agreement with the final loss: {ranks}" if ranks else "")]


def _seconds_saved(trials: Sequence[Trial]) -> float:
    completed = [trial for trial in trials if isinstance(trial.outcome, Completed)]
    if not completed:
        return 0.0
    usual = {name: statistics.median(trial.seconds.get(name, 0.0) for trial in completed) for name in _AHEAD}
    stopped = [trial for trial in trials if isinstance(trial.outcome, Stopped)]
    return sum(max(0.0, usual[name] - trial.seconds.get(name, 0.0)) for trial in stopped for name in _AHEAD)


def _lead(check: Trial, trials: Sequence[Trial], quality: Metric) -> Comparison | None:
    """Return how a check compares with the best rival completed before it; ``None`` without a rival."""
    (found,), earlier = scored([check]), [trial for trial in trials if trial.number < check.number]
    rivals = [one for one in scored(earlier) if are_rivals(one.measurement, found.measurement, check.candidate.budget)]
    if not rivals:
        return None
    return compare(found, min(rivals, key=lambda one: quality.minimised(one.measurement[quality.name])), quality)


def _agreement(trials: Sequence[Trial]) -> dict[Look, float]:
    ended = [trial for trial in trials if isinstance(trial.outcome, Completed | Stopped)]
    if not ended:
        return {}
    last = ended[-1]
    found: dict[Look, float] = {}
    for look in LOOKS:
        peers = peers_of(trials, look, last.candidate.budget, _measured(last))
        if len(peers) >= _FEWEST_RANKS:
            found[look] = rank_agreement([m[look] for m in peers], [m["loss"] for m in peers])
    return found


def _measured(trial: Trial) -> Measurement:
    return trial.outcome.measurement if isinstance(trial.outcome, Completed | Stopped) else Measurement({})
