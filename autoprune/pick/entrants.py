"""The contenders of a contest on their way: :class:`Entrant`, and :class:`Course`, which leads one a part further.

A part begins with a new optimizer, and what comes of it depends on the trial and the study's seed alone. So it does not
matter whether it is trained here or in another process, as long as the memory of the pick holds what was reached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from torch import nn

from autoprune.core.measurement import Measurement
from autoprune.core.metrics import Metric
from autoprune.core.trial import Trial
from autoprune.errors import EvaluationError
from autoprune.pick.contest_parts import FinetunePart, OnTrialPhase
from autoprune.pick.pick_memory import PickMemory, Reached
from autoprune.search.evaluation.make_network import NetworkMaker
from autoprune.search.evaluation.stopwatch import Stopwatch
from autoprune.training.scoring import Score, score


@dataclass(frozen=True)
class Entrant:
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

    @property
    def is_waiting(self) -> bool:
        """Return whether its next part has to be trained."""
        return self.failure is None and len(self.scores) >= len(self.known)


@dataclass(frozen=True)
class Course:
    """What all entrants of one contest share.

    Attributes:
        maker: rebuilds and trains.
        memory: what an interrupted contest has done, and where this one keeps what it does.
        on_phase: called when something begins or ends.
        begin: a trial → its network on the maker's device, to be trained on; ``None``: each is rebuilt.
        seconds: phase → seconds, of all entrants together.
    """

    maker: NetworkMaker
    memory: PickMemory
    on_phase: OnTrialPhase
    begin: Callable[[Trial], nn.Module] | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def enter(self, trial: Trial) -> Entrant:
        """Return a trial at the start, or with what an earlier pick has trained of it."""
        watch, before = Stopwatch(partial(self.on_phase, trial), self.seconds), self.memory.reached(trial)
        if before:
            return Entrant(trial, watch, before.network, (), before.scores)
        return Entrant(trial, watch, self.begin(trial) if self.begin else None)

    def advance(self, entrant: Entrant, first: float, last: float) -> Entrant:
        """Return the entrant after a further part of the fine-tune, scored on validation."""
        if entrant.failure is not None:
            return entrant
        if not entrant.is_waiting:
            return replace(entrant, scores=entrant.known[: len(entrant.scores) + 1])
        try:
            network, found = self._train(entrant, first, last)
        except EvaluationError as error:
            entrant.watch.on_phase(f"failed: {error}")
            return replace(entrant, network=None, failure=error)
        reached = _in_words(found.measurement, self.maker.task.metric)
        entrant.watch.on_phase(f"validation {reached} after {100 * last:g} % of the fine-tune")
        scores = (*entrant.scores, (last, found))
        self.memory.keep_reached(entrant.trial, Reached(network, scores))
        return replace(entrant, network=network, scores=scores)

    def _train(self, entrant: Entrant, first: float, last: float) -> tuple[nn.Module, Score]:
        maker, policy, watch = self.maker, entrant.trial.candidate.policy, entrant.watch
        network = maker.pruned(policy, watch) if entrant.network is None else entrant.network
        maker.finetune(network, policy, watch, share=(first, last))
        network.zero_grad(set_to_none=True)  # the next one needs the memory
        with watch("score"):
            scored = network if last == 1 else maker.recalibrated_copy(network)
            return network, score(scored, maker.task, "val", maker.runtime)

    def caught_up(self, entrant: Entrant) -> Entrant:
        """Return an entrant as the memory has it, if another process has brought it further."""
        before = self.memory.reached(entrant.trial) if entrant.failure is None else None
        if before is None or len(before.scores) <= len(entrant.scores):
            return entrant
        return replace(entrant, network=before.network, scores=before.scores)

    def train_part(self, part: FinetunePart) -> EvaluationError | None:
        """Train a part from where the memory has its trial, and keep it there; return what it failed by, if it did."""
        entrant = self.enter(part.trial)
        entrant = replace(entrant, scores=entrant.known)
        if entrant.scores and entrant.scores[-1][0] >= part.last:
            return None  # which was kept before this process was asked
        return self.advance(entrant, part.first, part.last).failure


def _in_words(found: Measurement, quality: Metric) -> str:
    """Return what contenders are judged by: the loss, or the metric that stands for it where there is none."""
    if quality.is_the_loss(found.values):
        return f"{quality.name} {quality.with_unit(found[quality.name])}"
    return f"loss {found['loss']:.4f}"
