"""From a candidate to its outcome: prune, recalibrate, fine-tune, score, time.

With several stages it is pruned and fine-tuned in turn. Cheap things come first: the exact cost is known
before anything is built, and at two rungs on the way a judge of ``rungs`` may stop what is hopeless. No exception
crosses the evaluator; what goes wrong is an outcome like any other and the search goes on.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from torch import nn

from autoprune.analysis.early_stopping import EarlyStopper
from autoprune.core.metrics import Measurement
from autoprune.core.paired_scores import PairedScores
from autoprune.core.policy import MaskPolicy, PruningPolicy
from autoprune.core.trial import Candidate, Completed, Failed, Outcome, OverBudget
from autoprune.cost.cost_model import CostModel
from autoprune.cost.latency import Timer, measured_latency
from autoprune.errors import AutopruneError, EvaluationError
from autoprune.models.build import count_parameters
from autoprune.pruning.cut_plan import CutPlan, KeptChannels
from autoprune.pruning.masks.build_masks import build_masks
from autoprune.pruning.masks.weight_masks import Masks
from autoprune.pruning.surgery import Pruner, shrink
from autoprune.search.evaluation.monitor import Monitor, StoppedEarly, recalibrated_copy
from autoprune.study.spec_sections import ScheduleSpec
from autoprune.tasks.task import DataTask
from autoprune.training.device.runtime import Runtime
from autoprune.training.distillation import Teacher
from autoprune.training.finetune import finetune
from autoprune.training.loop import OnStep, Span, TrainingRun
from autoprune.training.recalibrate_batchnorm import recalibrate_batchnorm
from autoprune.training.scoring import Score, score, score_train
from autoprune.training.settings import FinetuneSettings, total_steps
from autoprune.training.stages import part_of, relative, share_cut, steps_of
from autoprune.training.trainable import norms_and_head

PHASES = ("prune", "recalibrate", "rung", "finetune", "score", "latency")
OnPhase = Callable[[str], None]
OnNetwork = Callable[[Candidate, nn.Module], None]
_CALIBRATION_BATCH = 64


@dataclass(frozen=True)
class Evaluation:
    """Hold how a candidate ended, and the seconds spent in each phase."""

    outcome: Outcome
    seconds: Mapping[str, float]


@dataclass
class Stopwatch:
    """Add up the seconds of named phases, and tell when one begins or goes on."""

    on_phase: OnPhase
    seconds: dict[str, float] = field(default_factory=dict)
    _running: list[str] = field(default_factory=list)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time a phase; one that raises is counted too, and one within another is not counted as the other."""
        self.on_phase(phase)
        self._running.append(phase)
        started, before = time.perf_counter(), sum(self.seconds.values())
        try:
            yield
        finally:
            within = sum(self.seconds.values()) - before
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - started - within
            self._running.pop()
        if self._running:
            self.on_phase(self._running[-1])


@dataclass(frozen=True)
class Evaluator:
    """Evaluate candidates against one dense network.

    Attributes:
        pruner: knows the dense network, what of it can go, and in which order.
        cost: closed-form costs of any policy.
        task: the data; only its training and validation splits are read.
        teacher: the dense network's answers, or ``None`` without distillation.
        recipe: the short fine-tune, all stages together.
        recalibration_images: training images for batch norm's statistics.
        runtime: device, precision and layout.
        timer: times networks against the dense one.
        dense_latency_ms: the study's reference latency of the dense network.
        seed: of the training stream, the same for all candidates so that they are comparable.
        schedule: in how many stages candidates are cut, and what of them is trained.
        calibration_images: training images that masks are chosen by, if their criterion looks at any.
        start: the network whose copies are cut, of the dense one's shape and other weights; ``None`` for the dense
            one.
        rung_images: validation images looked at on the way, after recalibration and half-way; 0: no look is taken.
        on_network: given each completed candidate with its network as it was scored; ``None``: nobody wants it.
    """

    pruner: Pruner
    cost: CostModel
    task: DataTask
    teacher: Teacher | None
    recipe: FinetuneSettings
    recalibration_images: int
    runtime: Runtime
    timer: Timer
    dense_latency_ms: float
    seed: int
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    calibration_images: int = 512
    start: nn.Module | None = None
    rung_images: int = 0
    on_network: OnNetwork | None = None

    def __call__(
        self, candidate: Candidate, on_phase: OnPhase = lambda phase: None, judge: EarlyStopper | None = None
    ) -> Evaluation:
        """Return the outcome of a candidate; never raises, except for an interrupt.

        Args:
            candidate: what to evaluate.
            on_phase: told when a phase begins.
            judge: may stop the candidate at a rung; ``None``: it is never stopped.
        """
        watch = Stopwatch(on_phase)
        started = time.perf_counter()
        try:
            outcome = self._evaluate(candidate, watch, judge)
        except AutopruneError as error:
            outcome = Failed(type(error).__name__, str(error))
        except Exception as error:  # an unexpected one is a bug or the user's own code; keep where it came from
            outcome = Failed(type(error).__name__, str(error), traceback.format_exc())
        other = time.perf_counter() - started - sum(watch.seconds.values())
        return Evaluation(outcome, {**watch.seconds, "other": other})

    def _evaluate(self, candidate: Candidate, watch: Stopwatch, judge: EarlyStopper | None) -> Outcome:
        exact = self.exact(candidate.policy)
        violations = candidate.budget.violations_of_known(exact)
        if violations:
            return OverBudget(exact, violations)
        climb = Monitor(exact, judge, self.task, self.runtime, self.rung_images, self.recalibrated_copy, watch)
        try:
            network = self.pruned(candidate.policy, exact, watch)
            climb.look("recalibrated_loss", network)
            self.finetune(network, candidate.policy, watch, on_step=climb.half_way(network, self.span()))
        except StoppedEarly as end:
            return end.outcome
        with watch("score"):
            quality, correct = quality_and_hits(network, self.task, self.runtime)
        with watch("latency"):
            timing = self.time(network)
        if self.on_network is not None:
            with watch("store"):
                self.on_network(candidate, network)
        return Completed(climb.measured.merged(quality).merged(timing), correct, climb.spared)

    def exact(self, policy: PruningPolicy) -> Measurement:
        """Return the closed-form costs of a policy."""
        return self.cost.measure(self.pruner.space.kept(policy))

    def pruned(self, policy: PruningPolicy, exact: Measurement, watch: Stopwatch) -> nn.Module:
        """Return the pruned network, placed on the runtime, with batch norm recalibrated, before its last fine-tune.

        With several stages it was cut and fine-tuned in turn. Blocks go at the first; what the scores rank lowest goes
        first, so that each stage's network is a part of the one before. Masks come last, on what is left.
        """
        source = self.pruner if self.start is None else replace(self.pruner, network=self.start)
        policies = [self._policy_at(stage, policy) for stage in range(1, self.schedule.stages + 1)]
        with watch("prune"):
            network = self.runtime.place(source.prune(policies[0]))
        for stage in range(1, self.schedule.stages):  # running statistics can wait: training does not read them
            self.finetune(network, policy, watch, stage)
            with watch("prune"):
                now, before = source.cut(policies[stage]), source.cut(policies[stage - 1])
                network = self.runtime.place(shrink(network, relative_cut(now, before)))
        built = count_parameters(network) / 1e6
        if built != exact["mparams"]:
            raise EvaluationError(
                f"the pruned network has {built} M parameters where its policy says {exact['mparams']}; "
                f"this is a bug in autoprune, please report it with the network"
            )
        if policy.mask is not None:
            with watch("prune"):
                self._mask(network, policy, policy.mask)
        self._recalibrate(network, watch)
        return network

    def _mask(self, network: nn.Module, policy: PruningPolicy, mask: MaskPolicy) -> None:
        """Set the masked weights to zero, as many as the policy says.

        Raises:
            EvaluationError: if it were others, since the costs would be wrong.
        """
        stream = self.task.eval_batches("train", _CALIBRATION_BATCH, self.runtime, limit=self.calibration_images)
        batches = [] if mask.criterion == "magnitude" else [(batch.images, batch.labels) for batch in stream]
        masks = build_masks(network, mask, batches)
        found, planned = sum(masks.zeros().values()), self.cost.count_zeros(self.pruner.space.kept(policy))[1]
        if found != planned:
            left = "".join(f"; {layer} stays dense: {reason}" for layer, reason in masks.left_dense.items())
            raise EvaluationError(
                f"a mask by {mask.criterion} sets {found} weights to zero where its policy says {planned}{left}; "
                f"leave these layers out with space.keep, or mask by 'magnitude'"
            )
        masks.apply(network)

    def _recalibrate(self, network: nn.Module, watch: Stopwatch) -> None:
        with watch("recalibrate"):
            recalibrate_batchnorm(network, self.task, self.recalibration_images, self.runtime, self.seed)

    def recalibrated_copy(self, network: nn.Module) -> nn.Module:
        """Return what is scored in place of a network in the midst of its fine-tune: a recalibrated copy."""
        return recalibrated_copy(network, self.task, self.recalibration_images, self.runtime, self.seed)

    def _policy_at(self, stage: int, policy: PruningPolicy) -> PruningPolicy:
        """Return the policy of one of the stages: the last is the policy itself; masks wait for it, blocks do not."""
        if stage == self.schedule.stages:
            return policy
        space, share = self.pruner.space, share_cut(stage, self.schedule.stages)
        final, full = space.kept(policy), space.full
        # the nearest existing count to one that falls from stage to stage never rises, and is never below the last
        channels = {
            name: space.nearest(name, full[name] - share * (full[name] - final[name])) for name in space.by_name
        }
        blocks = {name: final[name] for name in space.block_names}
        importances = {name: group.importance for name, group in space.canonical(policy).groups.items()}
        return replace(space.policy({**channels, **blocks}, importances), mask=None)

    def finetune(
        self,
        network: nn.Module,
        policy: PruningPolicy,
        watch: Stopwatch,
        stage: int | None = None,
        on_step: OnStep | None = None,
        *,
        share: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        """Fine-tune a network of a policy for one stage, ``None`` for the last, and leave it in eval mode.

        Each call begins with a new optimizer, so a stage that is taken in parts forgets its momentum between them.

        Args:
            network: as :meth:`pruned` returns it; changed in place.
            policy: says what was cut.
            watch: times the phase.
            stage: 1 … ``schedule.stages``.
            on_step: called after every step with its number among those of all stages.
            share: the part of the stage's steps that is taken, from one share to another; the learning rate and the
                stream of images are those of the whole.
        """
        hold = None
        if stage is None and policy.mask is not None:
            hold = partial(Masks.of_zeros(network, policy.mask.layers).enforce, network)
        with watch("finetune"):
            finetune(
                network,
                TrainingRun(self.task, self.recipe, self.runtime, self.seed),
                self.teacher,
                on_step,
                span=part_of(self.span(stage), *share),
                only=self._trained(network, policy),
                on_optimizer=hold,
            )
        network.eval()

    def span(self, stage: int | None = None) -> Span:
        """Return the steps of a stage, ``None`` for the last, among those of all."""
        stages = self.schedule.stages
        return steps_of(stage or stages, stages, total_steps(self.task.sizes["train"], self.recipe))

    def _trained(self, network: nn.Module, policy: PruningPolicy) -> set[str] | None:
        """Return the paths of what is trained, ``None`` for everything: so too if no layer lost anything."""
        match self.schedule.trainable:
            case "norms_and_head":
                return norms_and_head(network)
            case "cut":
                masked = policy.mask.layers if policy.mask else {}
                cut = {path for path, kept in self.pruner.cut(policy).items() if any(kept.to_json().values())}
                return cut | {layer for layer, sparsity in masked.items() if sparsity}
            case _:
                return None

    def time(self, network: nn.Module) -> Measurement:
        """Return the latency of a pruned network, timed in float32 against the dense one."""
        self.pruner.network.eval()
        latency_ms, stderr_ms = measured_latency(self.timer.compare(network.eval()), self.dense_latency_ms)
        return Measurement({"latency_ms": latency_ms}, {"latency_ms": stderr_ms})


def relative_cut(cut: CutPlan, within: CutPlan) -> dict[str, KeptChannels]:
    """Return the cut that leads from a network cut by ``within`` to one cut by ``cut``, which keeps a part of it.

    Args:
        cut: module path → what stays of the dense network's channels.
        within: likewise, what stayed before; sides that lose nothing more are left out of the result.
    """
    found = {}
    for path, kept in cut.items():
        before = within[path].to_json() if path in within else {}
        sides = {
            side: relative(indices, before[side]) if side in before else indices
            for side, indices in kept.to_json().items()
            if indices != before.get(side)
        }
        if sides:
            found[path] = KeptChannels.from_json(sides)
    return found


def measured_quality(network: nn.Module, task: DataTask, runtime: Runtime) -> Measurement:
    """Return ``accuracy`` and ``loss`` on validation, ``train_accuracy`` on training images, with standard errors."""
    return quality_and_hits(network, task, runtime)[0]


def quality_and_hits(network: nn.Module, task: DataTask, runtime: Runtime) -> tuple[Measurement, str]:
    """Return :func:`measured_quality`, and which validation images were right as the text of :class:`PairedScores`."""
    found, seen = score(network, task, "val", runtime), score_train(network, task, runtime)
    learnt = Measurement({"train_accuracy": seen.accuracy}, {"train_accuracy": seen.accuracy_stderr})
    correct = "" if found.correct is None else PairedScores.pack(found.correct.numpy()).text
    return quality_measurement(found).merged(learnt), correct


def quality_measurement(found: Score) -> Measurement:
    """Return a score as a measurement of ``accuracy`` and ``loss``, with their standard errors."""
    return Measurement(
        {"accuracy": found.accuracy, "loss": found.loss},
        {"accuracy": found.accuracy_stderr, "loss": found.loss_stderr},
    )
