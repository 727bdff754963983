"""From a candidate to its outcome: prune, recalibrate, fine-tune, score, time.

Cheap things come first: the exact cost is known before anything is built. No exception crosses the
evaluator; what goes wrong is an outcome like any other and the search goes on.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from autoprune.cost.latency import compare_latency, measured_latency
from autoprune.cost.macs import CostModel
from autoprune.errors import AutopruneError, EvaluationError
from autoprune.metrics import Measurement
from autoprune.policy import PruningPolicy
from autoprune.pruning.prune import Pruner
from autoprune.spec import LatencySpec
from autoprune.training.finetune import Recipe, finetune, recalibrate_batchnorm
from autoprune.training.models import count_parameters
from autoprune.training.protocol import DataTask
from autoprune.training.runtime import Runtime
from autoprune.training.score import Score, score
from autoprune.training.teacher import Teacher
from autoprune.trial import Candidate, Completed, Failed, Outcome, OverBudget

PHASES = ("prune", "recalibrate", "finetune", "score", "latency")
OnPhase = Callable[[str], None]


@dataclass(frozen=True)
class Evaluation:
    """Hold how a candidate ended, and the seconds spent in each phase."""

    outcome: Outcome
    seconds: Mapping[str, float]


@dataclass
class Stopwatch:
    """Add up the seconds of named phases, and tell when one begins."""

    on_phase: OnPhase
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time a phase; one that raises is counted too."""
        self.on_phase(phase)
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class Evaluator:
    """Evaluate candidates against one dense network.

    Attributes:
        pruner: cuts copies of the dense network.
        cost: closed-form costs of any policy.
        task: the data; only its training and validation splits are read.
        teacher: the dense network's answers, or ``None`` without distillation.
        recipe: the short fine-tune.
        recalibration_images: training images for batch norm's statistics.
        runtime: device, precision and layout.
        latency: how to time.
        dense_latency_ms: the study's reference latency of the dense network.
        seed: of the training stream, the same for all candidates so that they are comparable.
    """

    pruner: Pruner
    cost: CostModel
    task: DataTask
    teacher: Teacher | None
    recipe: Recipe
    recalibration_images: int
    runtime: Runtime
    latency: LatencySpec
    dense_latency_ms: float
    seed: int

    def __call__(self, candidate: Candidate, on_phase: OnPhase = lambda phase: None) -> Evaluation:
        """Return the outcome of a candidate; never raises, except for an interrupt."""
        watch = Stopwatch(on_phase)
        started = time.perf_counter()
        try:
            outcome = self._evaluate(candidate, watch)
        except AutopruneError as error:
            outcome = Failed(type(error).__name__, str(error))
        except Exception as error:  # an unexpected one is a bug or the user's own code; keep where it came from
            outcome = Failed(type(error).__name__, str(error), traceback.format_exc())
        other = time.perf_counter() - started - sum(watch.seconds.values())
        return Evaluation(outcome, {**watch.seconds, "other": other})

    def _evaluate(self, candidate: Candidate, watch: Stopwatch) -> Outcome:
        exact = self.cost.measure(self.pruner.space.kept(candidate.policy))
        violations = candidate.budget.violations_of_known(exact)
        if violations:
            return OverBudget(exact, violations)
        network = self.pruned(candidate.policy, exact, watch)
        with watch("finetune"):
            finetune(network, self.task, self.recipe, self.runtime, self.seed, self.teacher)
        with watch("score"):
            quality = quality_measurement(score(network, self.task, "val", self.runtime))
        with watch("latency"):
            timing = self.time(network)
        return Completed(exact.merged(quality).merged(timing))

    def pruned(self, policy: PruningPolicy, exact: Measurement, watch: Stopwatch) -> nn.Module:
        """Return the pruned network, placed on the runtime, with batch norm recalibrated."""
        with watch("prune"):
            network = self.runtime.place(self.pruner.prune(policy))
            built = count_parameters(network) / 1e6
        if built != exact["mparams"]:
            raise EvaluationError(
                f"the pruned network has {built} M parameters where its policy says {exact['mparams']}; "
                f"this is a bug in autoprune, please report it with the network"
            )
        with watch("recalibrate"):
            recalibrate_batchnorm(network, self.task, self.recalibration_images, self.runtime, self.seed)
        return network

    def time(self, network: nn.Module) -> Measurement:
        """Return the latency of a pruned network, timed in float32 against the dense one."""
        example = self.runtime.place_images(torch.zeros(self.latency.batch, *self.task.input_shape))
        comparison = compare_latency(
            self.pruner.network.eval(),
            network.eval(),
            example,
            blocks=self.latency.blocks,
            calls=self.latency.calls,
            threads=self.latency.threads,
        )
        latency_ms, stderr_ms = measured_latency(comparison, self.dense_latency_ms)
        return Measurement({"latency_ms": latency_ms}, {"latency_ms": stderr_ms})


def quality_measurement(found: Score) -> Measurement:
    """Return a score as a measurement of ``accuracy`` and ``loss``, with their standard errors."""
    return Measurement(
        {"accuracy": found.accuracy, "loss": found.loss},
        {"accuracy": found.accuracy_stderr, "loss": found.loss_stderr},
    )
