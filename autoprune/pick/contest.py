"""The contest among the trials that begin the longer fine-tune: the better half goes on until one is left.

All contenders, and the uniform baseline they are compared with, take the same steps of one fine-tune, with a new
optimizer at the same places: what differs is the policy. The winner is chosen on validation, and measured by
``judging``. A :class:`PickMemory` lets a contest that was interrupted go on where it was, to the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

from torch import nn

from autoprune.analysis.successive_halving import halve, rungs
from autoprune.core.measurement import Measurement
from autoprune.core.trial import Trial
from autoprune.errors import EvaluationError
from autoprune.pick.final_scores import FinalScores, dense_final_scores, final_scores_of
from autoprune.pick.pick_memory import NoMemory, PickMemory, Reached
from autoprune.pick.uniform_rival import Incomparable, Rival
from autoprune.pruning.cut_plan import CutPlan
from autoprune.search.evaluation.latency_meter import LatencyMeter
from autoprune.search.evaluation.make_network import NetworkMaker
from autoprune.search.evaluation.stopwatch import Stopwatch
from autoprune.training.scoring import Score, score

OnTrialPhase = Callable[[Trial, str], None]
"""Called with a trial, and in words what is going on with it."""


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

    Raises:
        AutopruneError: if no contender can be rebuilt, trained or scored.
    """
    borders = tuple(rung.share for rung in rungs(len(trials)))
    contest = _Contest(maker, meter, on_phase, memory or NoMemory(), begin, borders)
    ranked = halve([contest.enter(trial) for trial in trials], contest.advance, _last_loss, _say_rescued)
    return contest.finished(ranked, dense, rival_of)


@dataclass(frozen=True)
class _Entrant:
    """A contender on its way: its network, and (share, score) of each part; or what it failed by.

    One that an earlier pick has trained already comes with that network, and with the ``known`` scores of all its
    parts: it passes them again without any training, which leads it to where it was.
    """

    trial: Trial
    watch: Stopwatch
    network: nn.Module | None = None
    scores: tuple[tuple[float, Score], ...] = ()
    known: tuple[tuple[float, Score], ...] = ()
    failure: EvaluationError | None = None


@dataclass(frozen=True)
class _Contest:
    """What all entrants of one contest share; :func:`hold_contest` says what each is for."""

    maker: NetworkMaker
    meter: LatencyMeter
    on_phase: OnTrialPhase
    memory: PickMemory
    begin: Callable[[Trial], nn.Module] | None
    borders: tuple[float, ...]
    seconds: dict[str, float] = field(default_factory=dict)

    def enter(self, trial: Trial) -> _Entrant:
        """Return a trial at the start, or with what an earlier pick has trained of it."""
        watch, before = Stopwatch(partial(self.on_phase, trial), self.seconds), self.memory.reached(trial)
        if before:
            return _Entrant(trial, watch, before.network, (), before.scores)
        return _Entrant(trial, watch, self.begin(trial) if self.begin else None)

    def advance(self, entrant: _Entrant, first: float, last: float) -> _Entrant:
        """Return the entrant after a further part of the fine-tune, scored on validation."""
        if entrant.failure is not None:
            return entrant
        if len(entrant.scores) < len(entrant.known):
            return replace(entrant, scores=entrant.known[: len(entrant.scores) + 1])
        try:
            network, found = self._train(entrant, first, last)
        except EvaluationError as error:
            entrant.watch.on_phase(f"failed: {error}")
            return replace(entrant, network=None, failure=error)
        entrant.watch.on_phase(f"validation loss {found.loss:.4f} after {100 * last:g} % of the fine-tune")
        scores = (*entrant.scores, (last, found))
        self.memory.keep_reached(entrant.trial, Reached(network, scores))
        return replace(entrant, network=network, scores=scores)

    def _train(self, entrant: _Entrant, first: float, last: float) -> tuple[nn.Module, Score]:
        maker, policy, watch = self.maker, entrant.trial.candidate.policy, entrant.watch
        network = maker.pruned(policy, watch) if entrant.network is None else entrant.network
        maker.finetune(network, policy, watch, share=(first, last))
        network.zero_grad(set_to_none=True)  # the next one needs the memory
        with watch("score"):
            scored = network if last == 1 else maker.recalibrated_copy(network)
            return network, score(scored, maker.task, "val", maker.runtime)

    def finished(
        self, ranked: Sequence[_Entrant], dense: Measurement, rival_of: Callable[[Trial], Trial | Incomparable]
    ) -> Finished:
        """Return the first of the ranked entrants, measured beside its rival and the dense network."""
        winner, network = ranked[0], _network_of(ranked[0])
        return Finished(
            trial=winner.trial,
            network=network,
            cut=self.maker.pruner.cut(winner.trial.candidate.policy),
            pruned=self.final_scores_of(winner, network),
            uniform=self.finish_rival(rival_of(winner.trial), ranked),
            dense=self.once("dense", lambda: dense_final_scores(self.maker, dense, winner.watch)),
            contenders=tuple(_contender(entrant) for entrant in ranked),
            borders=self.borders,
            seconds=self.seconds,
        )

    def finish_rival(self, rival: Trial | Incomparable, ranked: Sequence[_Entrant]) -> Rival | Incomparable:
        """Return the rival after the whole fine-tune; if it was a contender, it goes on from where it was left."""
        if isinstance(rival, Incomparable):
            return rival
        policy = rival.candidate.policy
        entrant = next((one for one in ranked if one.trial.candidate.policy == policy), None) or self.enter(rival)
        for first, last in list(pairwise((0.0, *self.borders)))[len(entrant.scores) :]:
            entrant = self.advance(entrant, first, last)
        if entrant.failure is not None:
            return Incomparable(f"the uniform baseline, trial {rival.number}, could not be finished: {entrant.failure}")
        return Rival(rival, self.final_scores_of(replace(entrant, trial=rival), _network_of(entrant)))

    def final_scores_of(self, entrant: _Entrant, network: nn.Module) -> FinalScores:
        """Return what is measured of an entrant at the end."""
        trial, found = entrant.trial, entrant.scores[-1][1]
        return self.once(
            f"trial-{trial.number}",
            lambda: final_scores_of(self.maker, self.meter, trial, network, found, entrant.watch),
        )

    def once(self, name: str, measure: Callable[[], FinalScores]) -> FinalScores:
        """Return what an earlier pick measured, so that test is not scored again; or measure now, and keep it."""
        found = self.memory.final_scores(name)
        if found is None:
            found = measure()
            self.memory.keep_final_scores(name, found)
        return found


def _say_rescued(entrant: _Entrant) -> None:
    entrant.watch.on_phase("goes on after all: the contenders that were ahead of it failed")


def _last_loss(entrant: _Entrant) -> float:
    return math.inf if entrant.failure is not None else entrant.scores[-1][1].loss


def _network_of(entrant: _Entrant) -> nn.Module:
    """Return an entrant's network, or raise what it failed by."""
    if entrant.network is None:
        raise entrant.failure or EvaluationError(
            f"trial {entrant.trial.number} was not trained; please report this bug"
        )
    return entrant.network


def _contender(entrant: _Entrant) -> Contender:
    scores = tuple((share, found.measurement) for share, found in entrant.scores)
    return Contender(entrant.trial, scores, str(entrant.failure or ""))
