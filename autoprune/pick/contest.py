"""Finish trials: rebuild them, fine-tune them longer, keep the best on validation, and score it once on test.

Several contenders are halved (``halving``). All of them, and the uniform baseline they are compared with, take the same
steps of one recipe, with a new optimizer at the same places: what differs is the policy. A :class:`PickMemory` lets a
pick that was interrupted go on where it was, to the same bits. ``finish`` writes down what comes of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Protocol

from torch import Tensor, nn

from autoprune.analysis.successive_halving import halve, rungs
from autoprune.core.metrics import Budget, Measurement
from autoprune.core.trial import Completed, Trial
from autoprune.errors import EvaluationError
from autoprune.pruning.cut_plan import CutPlan
from autoprune.search.evaluation.make_network import NetworkMaker
from autoprune.search.evaluation.measure_latency import LatencyMeter
from autoprune.search.evaluation.measure_quality import quality_measurement
from autoprune.search.evaluation.stopwatch import Stopwatch
from autoprune.training.scoring import Score, score, score_train

UNIFORM = "baseline:uniform"

OnTrialPhase = Callable[[Trial, str], None]
"""Told of which trial, and in words what is going on."""


@dataclass(frozen=True)
class Judged:
    """Hold what was measured of one network after all training.

    Attributes:
        validation: costs, and the score on validation.
        test: the score on test, or ``None`` if the data has no test split.
        correct: split → which of its images were right, bool of shape ``(count,)``.
    """

    validation: Measurement
    test: Measurement | None
    correct: Mapping[str, Tensor]


@dataclass(frozen=True)
class Contender:
    """Tell how far a trial came in the longer fine-tune.

    Attributes:
        trial: which one.
        scores: (share of the fine-tune in (0, 1], accuracy and loss on validation then), one for each rung it reached.
        failure: what ended it, empty if it was not a fault.
    """

    trial: Trial
    scores: tuple[tuple[float, Measurement], ...]
    failure: str


@dataclass(frozen=True)
class Rival:
    """Hold the finished baseline that the winner is compared with."""

    trial: Trial
    judged: Judged


@dataclass(frozen=True)
class Incomparable:
    """Say in a clause why there is no baseline to compare with."""

    reason: str


@dataclass(frozen=True)
class Finished:
    """Hold a finished network.

    Attributes:
        trial: the trial it comes from.
        network: pruned and fine-tuned, in eval mode.
        cut: kept indices of every module that was cut.
        pruned: what was measured of it.
        dense: what was measured of the dense network.
        uniform: the uniform baseline after the same finish, or why there is none.
        contenders: the winner first, then from the last left behind to the first.
        borders: shares of the fine-tune at which each part ended, the last 1; momentum began anew after each.
        seconds: phase → seconds, of all networks together.
    """

    trial: Trial
    network: nn.Module
    cut: CutPlan
    pruned: Judged
    dense: Judged
    uniform: Rival | Incomparable
    contenders: tuple[Contender, ...]
    borders: tuple[float, ...]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Reached:
    """Hold how far a contender came: the network as it is then, and (share, score) of every rung until then."""

    network: nn.Module
    scores: tuple[tuple[float, Score], ...]


class PickMemory(Protocol):
    """Keep what a pick has done, so that one that is cut off can go on from there."""

    def reached(self, trial: Trial) -> Reached | None:
        """Return how far a trial came in an earlier pick of the same kind; ``None`` if it did not begin."""

    def keep_reached(self, trial: Trial, reached: Reached) -> None:
        """Keep how far a trial came."""

    def judged(self, name: str) -> Judged | None:
        """Return what an earlier pick of the same kind measured at the end, on test too; ``None`` if it did not."""

    def keep_judged(self, name: str, judged: Judged) -> None:
        """Keep what was measured at the end."""


class NoMemory:
    """Keep nothing."""

    def reached(self, trial: Trial) -> Reached | None:
        """Return nothing."""
        return None

    def keep_reached(self, trial: Trial, reached: Reached) -> None:
        """Forget it."""

    def judged(self, name: str) -> Judged | None:
        """Return nothing."""
        return None

    def keep_judged(self, name: str, judged: Judged) -> None:
        """Forget it."""


def finish(
    maker: NetworkMaker,
    meter: LatencyMeter,
    trials: Sequence[Trial],
    dense: Measurement,
    rival_of: Callable[[Trial], Trial | Incomparable],
    on_phase: OnTrialPhase,
    memory: PickMemory | None = None,
    begin: Callable[[Trial], nn.Module] | None = None,
) -> Finished:
    """Fine-tune trials by the maker's settings, halve them by validation loss, and score the last one once on test.

    A contender whose loss becomes NaN or infinite is left behind, the last one too: the one left behind before it then
    goes on to the end. So is the rival, which is then not compared with.

    Args:
        maker: rebuilds and trains; its settings are the longer fine-tune.
        meter: times what is finished.
        trials: at least one, the most promising first; one alone is fine-tuned in one piece.
        dense: costs of the dense network.
        rival_of: the winner → the baseline to finish likewise, or why there is none.
        on_phase: told what is going on.
        memory: knows what an interrupted pick of the same trials, recipe and seed has done, and is told what this one
            does; ``None``: all is done now.
        begin: a trial → its network on the maker's runtime, to be trained on; ``None``: each is rebuilt.

    Raises:
        AutopruneError: if no contender can be rebuilt, trained or scored.
    """
    memory = memory or NoMemory()
    seconds: dict[str, float] = {}

    def enter(trial: Trial) -> _Entrant:
        watch, before = Stopwatch(partial(on_phase, trial), seconds), memory.reached(trial)
        if before:
            return _Entrant(trial, watch, before.network, (), before.scores)
        return _Entrant(trial, watch, begin(trial) if begin else None)

    borders = tuple(rung.share for rung in rungs(len(trials)))
    advance = partial(_advance, maker, memory)
    ranked = halve([enter(trial) for trial in trials], advance, _last_loss, _say_rescued)
    winner, network = ranked[0], _network_of(ranked[0])
    pruned = _once(memory, f"trial-{winner.trial.number}", lambda: _judged(maker, meter, winner, network))
    rival = rival_of(winner.trial)
    uniform: Rival | Incomparable
    if isinstance(rival, Incomparable):
        uniform = rival
    else:
        policy = rival.candidate.policy
        entrant = next((one for one in ranked if one.trial.candidate.policy == policy), None) or enter(rival)
        uniform = _finished_rival(maker, meter, memory, rival, entrant, borders)
    return Finished(
        trial=winner.trial,
        network=network,
        cut=maker.pruner.cut(winner.trial.candidate.policy),
        pruned=pruned,
        dense=_once(memory, "dense", lambda: _judged_dense(maker, dense, winner.watch)),
        uniform=uniform,
        contenders=tuple(_told(entrant) for entrant in ranked),
        borders=borders,
        seconds=seconds,
    )


def uniform_rival(trials: Sequence[Trial], budget: Budget, winner: Trial) -> Trial | Incomparable:
    """Return the uniform baseline of a budget, or why the winner cannot be compared with one.

    Args:
        trials: of the study.
        budget: absolute limits of the pick; if empty, those that the winner was made for count.
        winner: the trial that is picked.
    """
    wanted = budget if budget.limits else winner.candidate.budget
    if not wanted.limits:
        return Incomparable("there is no budget, so there is no uniform baseline of the same budget")
    for trial in trials:
        made_for_it = trial.candidate.origin == UNIFORM and _same_limits(trial.candidate.budget, wanted)
        if made_for_it and isinstance(trial.outcome, Completed):
            if trial.candidate.policy == winner.candidate.policy:
                return Incomparable("the pick is the uniform baseline itself")
            return trial
    return Incomparable(
        f"the study holds no completed uniform baseline for {wanted.describe()}; a search with this budget evaluates it"
    )


def _same_limits(one: Budget, other: Budget) -> bool:
    """Return whether two absolute budgets are the same, up to how a number was written."""
    return one.limits.keys() == other.limits.keys() and all(
        math.isclose(limit.value, other.limits[name].value, rel_tol=1e-6) for name, limit in one.limits.items()
    )


@dataclass(frozen=True)
class _Entrant:
    """Hold a contender on its way: its network, and (share, score) of each rung; or what it failed by.

    One that an earlier pick has trained already comes with that network, and with the ``known`` scores of all its
    rungs: it passes them again without any training, which leads it to where it was.
    """

    trial: Trial
    watch: Stopwatch
    network: nn.Module | None = None
    scores: tuple[tuple[float, Score], ...] = ()
    known: tuple[tuple[float, Score], ...] = ()
    failure: EvaluationError | None = None


def _advance(maker: NetworkMaker, memory: PickMemory, entrant: _Entrant, first: float, last: float) -> _Entrant:
    """Return the entrant after a further part of the fine-tune, scored on validation."""
    if entrant.failure is not None:
        return entrant
    if len(entrant.scores) < len(entrant.known):
        return replace(entrant, scores=entrant.known[: len(entrant.scores) + 1])
    policy, watch, network = entrant.trial.candidate.policy, entrant.watch, entrant.network
    try:
        if network is None:
            network = maker.pruned(policy, watch)
        maker.finetune(network, policy, watch, share=(first, last))
        network.zero_grad(set_to_none=True)  # the next one needs the memory
        with watch("score"):
            scored = network if last == 1 else maker.recalibrated_copy(network)
            found = score(scored, maker.task, "val", maker.runtime)
    except EvaluationError as error:
        watch.on_phase(f"failed: {error}")
        return replace(entrant, network=None, failure=error)
    watch.on_phase(f"validation loss {found.loss:.4f} after {100 * last:g} % of the fine-tune")
    scores = (*entrant.scores, (last, found))
    memory.keep_reached(entrant.trial, Reached(network, scores))
    return replace(entrant, network=network, scores=scores)


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


def _finished_rival(
    maker: NetworkMaker,
    meter: LatencyMeter,
    memory: PickMemory,
    rival: Trial,
    entrant: _Entrant,
    borders: Sequence[float],
) -> Rival | Incomparable:
    """Return the rival after the whole fine-tune; if it was a contender, it goes on from where it was left behind."""
    for first, last in list(pairwise((0.0, *borders)))[len(entrant.scores) :]:
        entrant = _advance(maker, memory, entrant, first, last)
    if entrant.failure is not None:
        return Incomparable(f"the uniform baseline, trial {rival.number}, could not be finished: {entrant.failure}")
    network = _network_of(entrant)
    return Rival(rival, _once(memory, f"trial-{rival.number}", lambda: _judged(maker, meter, entrant, network)))


def _once(memory: PickMemory, name: str, measure: Callable[[], Judged]) -> Judged:
    """Return what an earlier pick measured, so that test is not scored again; or measure now, and keep it."""
    found = memory.judged(name)
    if found is None:
        found = measure()
        memory.keep_judged(name, found)
    return found


def _judged(maker: NetworkMaker, meter: LatencyMeter, entrant: _Entrant, network: nn.Module) -> Judged:
    """Measure a network that has come to the end of its training."""
    watch, found = entrant.watch, entrant.scores[-1][1]
    with watch("score"):
        seen = score_train(network, maker.task, maker.runtime)
    with watch("latency"):
        timing = meter.time(network)
    quality = quality_measurement(found).merged(
        Measurement({"train_accuracy": seen.accuracy}, {"train_accuracy": seen.accuracy_stderr})
    )
    costs = maker.exact(entrant.trial.candidate.policy)
    return _with_test(maker, network, costs.merged(quality).merged(timing), found, watch)


def _judged_dense(maker: NetworkMaker, dense: Measurement, watch: Stopwatch) -> Judged:
    """Score the dense network again: image by image it can be paired with."""
    network = maker.pruner.network
    with watch("score"):
        found = score(network, maker.task, "val", maker.runtime)
    return _with_test(maker, network, dense.merged(quality_measurement(found)), found, watch)


def _with_test(
    maker: NetworkMaker, network: nn.Module, validation: Measurement, found: Score, watch: Stopwatch
) -> Judged:
    """Score a network on test, the only place that does, and only after the last decision."""
    scores = {"validation": found}
    if maker.task.sizes["test"]:
        with watch("test"):
            scores["test"] = score(network, maker.task, "test", maker.runtime)
    test = quality_measurement(scores["test"]) if "test" in scores else None
    correct = {split: one.correct for split, one in scores.items() if one.correct is not None}
    return Judged(validation, test, correct)


def _told(entrant: _Entrant) -> Contender:
    scores = tuple((share, quality_measurement(found)) for share, found in entrant.scores)
    return Contender(entrant.trial, scores, str(entrant.failure or ""))
