"""The contest among the trials that begin the longer fine-tune: the better half goes on until one is left.

All contenders, and the uniform baseline they are compared with, take the same steps of one fine-tune, with a new
optimizer at the same places: what differs is the policy. The winner is chosen on validation, and measured by
``judging``. A :class:`PickMemory` lets a contest that was interrupted go on where it was, to the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import nn

from autoprune.analysis.successive_halving import halve, rungs
from autoprune.core.measurement import Measurement
from autoprune.core.trial import Trial
from autoprune.errors import EvaluationError
from autoprune.pick.contest_parts import OnTrialPhase, PartTrainer
from autoprune.pick.entrants import Course, Entrant
from autoprune.pick.final_scores import FinalScores, dense_final_scores, final_scores_of
from autoprune.pick.pick_memory import NoMemory, PickMemory
from autoprune.pick.train_together import Together, likely_rival
from autoprune.pick.uniform_rival import Incomparable, Rival
from autoprune.pruning.cut_plan import CutPlan
from autoprune.search.evaluation.latency_meter import LatencyMeter
from autoprune.search.evaluation.make_network import NetworkMaker


@dataclass(frozen=True)
class Contender:
    """How far a trial came in the longer fine-tune.

    Attributes:
        trial: which one.
        scores: (share of the fine-tune in (0, 1], quality and loss on validation then), one for each part it took.
        failure: what it failed by, empty if it did not.
    """

    trial: Trial
    scores: tuple[tuple[float, Measurement], ...]
    failure: str


@dataclass(frozen=True)
class Finished:
    """A finished network.

    Attributes:
        trial: the trial it comes from.
        network: pruned and fine-tuned, in eval mode.
        cut: kept indices of every module that was cut.
        pruned: what was measured of it.
        dense: what was measured of the dense network.
        uniform: the uniform baseline after the same fine-tune, or why there is none.
        contenders: the winner first, then from the last left behind to the first.
        borders: shares of the fine-tune at which each part ended, the last 1; momentum began anew after each.
        seconds: phase → seconds, of all networks together.
    """

    trial: Trial
    network: nn.Module
    cut: CutPlan
    pruned: FinalScores
    dense: FinalScores
    uniform: Rival | Incomparable
    contenders: tuple[Contender, ...]
    borders: tuple[float, ...]
    seconds: Mapping[str, float]


def hold_contest(
    maker: NetworkMaker,
    meter: LatencyMeter,
    trials: Sequence[Trial],
    dense: Measurement,
    rival_of: Callable[[Trial], Trial | Incomparable],
    on_phase: OnTrialPhase,
    memory: PickMemory | None = None,
    begin: Callable[[Trial], nn.Module] | None = None,
    trainer: PartTrainer | None = None,
) -> Finished:
    """Fine-tune trials, halve them by validation loss, and score the last one once on test.

    Whoever's loss becomes NaN or infinite is left behind, the last contender too: the one before it then goes on to the
    end. A rival that is left behind is not compared with.

    Args:
        maker: rebuilds and trains; its settings are the longer fine-tune.
        meter: times what is finished.
        trials: at least one, the most promising first; one alone is fine-tuned in one piece.
        dense: costs of the dense network.
        rival_of: the winner → the baseline to finish in the same way, or why there is none.
        on_phase: called when something begins or ends.
        memory: what an interrupted contest of the same trials, fine-tune and seed has done, and where this one keeps
            what it does; ``None``: everything is done now.
        begin: a trial → its network on the maker's device, to be trained on; ``None``: each is rebuilt.
        trainer: trains the contenders of a rung at once, into the memory; ``None``: one after the other, here.

    Raises:
        AutopruneError: if no contender can be rebuilt, trained or scored.
    """
    borders = tuple(rung.share for rung in rungs(len(trials)))
    course = Course(maker, memory or NoMemory(), on_phase, begin)
    together = None if trainer is None else Together(course, trainer, likely_rival(trials, rival_of)).advance_all
    ranked = halve([course.enter(trial) for trial in trials], course.advance, _last_loss, _say_rescued, together)
    return _Contest(course, meter, borders).finished(ranked, dense, rival_of)


@dataclass(frozen=True)
class _Contest:
    """A contest on its course, until its winner is measured; :func:`hold_contest` says what each is for."""

    course: Course
    meter: LatencyMeter
    borders: tuple[float, ...]

    def finished(
        self, ranked: Sequence[Entrant], dense: Measurement, rival_of: Callable[[Trial], Trial | Incomparable]
    ) -> Finished:
        """Return the first of the ranked entrants, measured beside its rival and the dense network."""
        winner, network = ranked[0], _network_of(ranked[0])
        return Finished(
            trial=winner.trial,
            network=network,
            cut=self.course.maker.pruner.cut(winner.trial.candidate.policy),
            pruned=self.final_scores_of(winner, network),
            uniform=self.finish_rival(rival_of(winner.trial), ranked),
            dense=self.once("dense", lambda: dense_final_scores(self.course.maker, dense, winner.watch)),
            contenders=tuple(_contender(entrant) for entrant in ranked),
            borders=self.borders,
            seconds=self.course.seconds,
        )

    def finish_rival(self, rival: Trial | Incomparable, ranked: Sequence[Entrant]) -> Rival | Incomparable:
        """Return the rival after the whole fine-tune; if it was a contender, it goes on from where it was left."""
        if isinstance(rival, Incomparable):
            return rival
        policy = rival.candidate.policy
        entrant = next((one for one in ranked if one.trial.candidate.policy == policy), None)
        entrant = self.course.enter(rival) if entrant is None else self.course.caught_up(entrant)
        for first, last in list(pairwise((0.0, *self.borders)))[len(entrant.scores) :]:
            entrant = self.course.advance(entrant, first, last)
        if entrant.failure is not None:
            return Incomparable(f"the uniform baseline, trial {rival.number}, could not be finished: {entrant.failure}")
        return Rival(rival, self.final_scores_of(replace(entrant, trial=rival), _network_of(entrant)))

    def final_scores_of(self, entrant: Entrant, network: nn.Module) -> FinalScores:
        """Return what is measured of an entrant at the end."""
        trial, found = entrant.trial, entrant.scores[-1][1]
        return self.once(
            f"trial-{trial.number}",
            lambda: final_scores_of(self.course.maker, self.meter, trial, network, found, entrant.watch),
        )

    def once(self, name: str, measure: Callable[[], FinalScores]) -> FinalScores:
        """Return what an earlier pick measured, so that test is not scored again; or measure now, and keep it."""
        found = self.course.memory.final_scores(name)
        if found is None:
            found = measure()
            self.course.memory.keep_final_scores(name, found)
        return found


def _say_rescued(entrant: Entrant) -> None:
    entrant.watch.on_phase("goes on after all: the contenders that were ahead of it failed")


def _last_loss(entrant: Entrant) -> float:
    return math.inf if entrant.failure is not None else entrant.scores[-1][1].loss


def _network_of(entrant: Entrant) -> nn.Module:
    """Return an entrant's network, or raise what it failed by."""
    if entrant.network is None:
        raise entrant.failure or EvaluationError(
            f"trial {entrant.trial.number} was not trained; please report this bug"
        )
    return entrant.network


def _contender(entrant: Entrant) -> Contender:
    scores = tuple((share, found.measurement) for share, found in entrant.scores)
    return Contender(entrant.trial, scores, str(entrant.failure or ""))
