"""From a candidate to its outcome: prune, compensate, fine-tune, score, time.

Cheap things come first: the exact cost is known before anything is built, and at two looks on the way an early stopper
may stop what is hopeless. No exception crosses the evaluator; what goes wrong is an outcome like any other, and the
search goes on. ``make_network`` makes and trains the network; here it is decided what becomes of it.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from autoprune.analysis.early_stopping import EarlyStopper
from autoprune.core.trial import Candidate, Completed, Failed, Outcome, OverBudget, Untimed
from autoprune.errors import AutopruneError, TimingError
from autoprune.search.evaluation.latency_meter import LatencyMeter
from autoprune.search.evaluation.make_network import NetworkMaker
from autoprune.search.evaluation.measure_quality import quality_and_answers
from autoprune.search.evaluation.monitor import Monitor, StoppedEarly
from autoprune.search.evaluation.stopwatch import OnPhase, Stopwatch

OnNetwork = Callable[[Candidate, nn.Module], None]
"""Called with each completed candidate and its network as it was scored."""


@dataclass(frozen=True)
class Evaluation:
    """How a candidate ended, and the seconds spent in each phase."""

    outcome: Outcome
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Evaluator:
    """The way from a candidate to its outcome.

    Attributes:
        maker: makes and trains each candidate's network.
        meter: times it.
        look_images: validation images looked at on the way, before the fine-tune and half-way; 0: no look is taken.
        looks_half_way: whether a look is taken half-way, too.
        on_network: given each completed candidate with its network; ``None``: nobody wants it.
        waits_for: name of the machine that times networks later, while the search goes on; empty if they are timed now.
    """

    maker: NetworkMaker
    meter: LatencyMeter
    look_images: int = 0
    looks_half_way: bool = True
    on_network: OnNetwork | None = None
    waits_for: str = ""

    def __call__(
        self, candidate: Candidate, on_phase: OnPhase = lambda phase: None, stopper: EarlyStopper | None = None
    ) -> Evaluation:
        """Return the outcome of a candidate; never raises, except for an interrupt.

        Args:
            candidate: what to evaluate.
            on_phase: called when a phase begins.
            stopper: may stop the candidate at a look; ``None``: it is never stopped.
        """
        watch, maker, policy = Stopwatch(on_phase), self.maker, candidate.policy
        outcome: Outcome
        try:
            exact = maker.exact(policy)
            violations = candidate.budget.violations_of_known(exact)
            if violations:
                return Evaluation(OverBudget(exact, violations), watch.with_rest())
            monitor = Monitor(
                exact, stopper, maker.task, maker.runtime, self.look_images, maker.recalibrated_copy, watch
            )
            network = maker.pruned(policy, watch)
            monitor.look("recalibrated_loss", network)
            half_way = monitor.half_way(network, maker.span()) if self.looks_half_way else None
            maker.finetune(network, policy, watch, on_step=half_way)
            outcome = self._scored(candidate, network, monitor)
        except StoppedEarly as end:
            outcome = end.outcome
        except AutopruneError as error:
            outcome = Failed(type(error).__name__, str(error))
        except Exception as error:  # an unexpected one is a bug or the user's own code; keep where it came from
            outcome = Failed(type(error).__name__, str(error), traceback.format_exc())
        return Evaluation(outcome, watch.with_rest())

    def _scored(self, candidate: Candidate, network: nn.Module, monitor: Monitor) -> Completed | Untimed:
        """Score and time a network after its training, and hand it out; the machine that times may be out of reach."""
        watch = monitor.watch
        with watch("score"):
            quality, paired = quality_and_answers(network, self.maker.task, self.maker.runtime)
        measured, why = monitor.measured.merged(quality), ""
        if self.waits_for:
            why = f"it waits for its turn on {self.waits_for}"
        else:
            with watch("latency"):
                try:
                    measured = measured.merged(self.meter.time(network))
                except TimingError as error:
                    why = str(error)
        if self.on_network is not None:
            with watch("store"):
                self.on_network(candidate, network)
        if why:
            return Untimed(why, measured, paired, monitor.spared)
        return Completed(measured, paired, monitor.spared, latency_host=self.meter.host)
