"""From a policy to a trained network: cut and compensate, fine-tune by stages, mask, recalibrate.

With one stage a network is cut once and fine-tuned; with several it is cut and fine-tuned in turn. What is left after
each cut is refitted to what was there before it. Masks come last, on what is left. Used for each candidate of a
search, and for the longer fine-tune of a pick.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

from torch import nn

from autoprune.core.counts import ChannelCounts
from autoprune.core.measurement import Measurement
from autoprune.core.policy import MaskPolicy, PruningPolicy
from autoprune.cost.cost_model import CostModel
from autoprune.pruning.cut_plan import CutPlan, KeptChannels
from autoprune.pruning.masks.weight_masks import Masks
from autoprune.pruning.surgery import Pruner, shrink
from autoprune.search.evaluation.built_as_planned import apply_masks, check_size
from autoprune.search.evaluation.calibration import calibration_of
from autoprune.search.evaluation.compensator import Compensator
from autoprune.search.evaluation.monitor import recalibrated_copy
from autoprune.search.evaluation.stopwatch import Stopwatch
from autoprune.study.spec_training import ScheduleSpec
from autoprune.tasks.task import DataTask, OnStep
from autoprune.training.device.runtime import Runtime
from autoprune.training.distillation import Teacher
from autoprune.training.finetune import finetune
from autoprune.training.loop import Span, TrainingRun
from autoprune.training.pruning_stages import part_of, relative, share_cut, steps_of
from autoprune.training.recalibrate_batchnorm import recalibrate_batchnorm
from autoprune.training.settings import FinetuneSettings, total_steps
from autoprune.training.trainable import norms_and_head

_CALIBRATION_BATCH = 64


@dataclass(frozen=True)
class NetworkMaker:
    """The workshop that cuts pruned networks out of one dense network, and trains them.

    Attributes:
        pruner: knows the dense network, what of it can go, and in which order.
        cost: closed-form costs of any policy.
        task: the data; only its training split is read.
        runtime: device, precision and layout.
        settings: how networks are fine-tuned, all stages together.
        seed: of the training stream, the same for all networks so that they are comparable.
        recalibration_images: training images for batch norm's statistics.
        teacher: the dense network's answers, or ``None`` without distillation.
        schedule: in how many stages networks are cut, and what of them is trained.
        calibration_images: training images that masks are chosen by, if their criterion looks at any.
        start: the network whose copies are cut, of the dense one's shape and other weights; ``None`` for the dense
            one.
        compensator: refits what a cut leaves; ``None``: batch norm is recalibrated, and weights stay as they are.
    """

    pruner: Pruner
    cost: CostModel
    task: DataTask
    runtime: Runtime
    settings: FinetuneSettings
    seed: int
    recalibration_images: int
    teacher: Teacher | None = None
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    calibration_images: int = 512
    start: nn.Module | None = None
    compensator: Compensator | None = None

    def exact(self, policy: PruningPolicy) -> Measurement:
        """Return the closed-form costs of a policy."""
        return self.cost.measure(self.pruner.space.counts(policy))

    def pruned(self, policy: PruningPolicy, watch: Stopwatch) -> nn.Module:
        """Return the pruned network, placed on the runtime, compensated, before its last fine-tune.

        With several stages it was cut and fine-tuned in turn. Blocks go at the first; what the scores rank lowest goes
        first, so that each stage's network is a part of the one before. Masks come last, on what is left.

        Args:
            policy: what to prune.
            watch: times the phases.

        Raises:
            ModelError: if the policy names an unknown group, or a criterion without scores for it.
            EvaluationError: if the network is not what its policy says, or its training fails.
        """
        source = self.pruner if self.start is None else replace(self.pruner, network=self.start)
        policies = [self._policy_at(stage, policy) for stage in range(1, self.schedule.stages + 1)]
        with watch("prune"):
            network = self.runtime.place(source.prune(policies[0]))
        is_compensated = self._compensate(network, source.network, source.cut(policies[0]), watch)
        for stage in range(1, self.schedule.stages):
            self.finetune(network, policy, watch, stage)
            if self.compensator is not None:  # what is aimed at answers by its running statistics
                self._recalibrate(network, watch)
            cut = relative_cut(source.cut(policies[stage]), source.cut(policies[stage - 1]))
            whole = network
            with watch("prune"):
                network = self.runtime.place(shrink(whole, cut))
            is_compensated = self._compensate(network, whole, cut, watch)
        check_size(network, self.exact(policy)["mparams"])
        if policy.mask is not None:
            with watch("prune"):
                self._mask(network, policy, policy.mask)
        if policy.mask is not None or not is_compensated:
            self._recalibrate(network, watch)
        return network

    def _compensate(self, network: nn.Module, whole: nn.Module, cut: CutPlan, watch: Stopwatch) -> bool:
        """Refit what a cut has left of a network, batch norms too, and return whether that was done."""
        if self.compensator is None:
            return False
        with watch("compensate"):
            return self.compensator(network, cut, whole)

    def _recalibrate(self, network: nn.Module, watch: Stopwatch) -> None:
        with watch("recalibrate"):
            recalibrate_batchnorm(network, self.task, self.recalibration_images, self.runtime, self.seed)

    def _mask(self, network: nn.Module, policy: PruningPolicy, mask: MaskPolicy) -> None:
        stream = self.task.eval_batches("train", _CALIBRATION_BATCH, self.runtime, limit=self.calibration_images)
        calibration = calibration_of(self.task, network, () if mask.criterion == "magnitude" else stream, self.seed)
        apply_masks(network, mask, calibration, self.cost.count_zeros(self.pruner.space.counts(policy))[1])

    def recalibrated_copy(self, network: nn.Module) -> nn.Module:
        """Return what is scored in place of a network in the midst of its fine-tune: a recalibrated copy."""
        return recalibrated_copy(network, self.task, self.recalibration_images, self.runtime, self.seed)

    def _policy_at(self, stage: int, policy: PruningPolicy) -> PruningPolicy:
        """Return the policy of one of the stages: the last is the policy itself; masks wait for it, blocks do not."""
        if stage == self.schedule.stages:
            return policy
        space, share = self.pruner.space, share_cut(stage, self.schedule.stages)
        final, full = space.counts(policy), space.full.channels
        # the nearest existing count to one that falls from stage to stage never rises, and is never below the last
        channels = {
            name: space.nearest(name, count - share * (count - final.channels[name])) for name, count in full.items()
        }
        importances = {name: group.importance for name, group in policy.groups.items()}
        return replace(space.policy(ChannelCounts(channels, final.dropped_blocks), importances), mask=None)

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

        Each call begins with a new optimizer, so a stage taken in parts forgets its momentum between them.

        Args:
            network: as :meth:`pruned` returns it; changed in place.
            policy: says what was cut.
            watch: times the phase.
            stage: 1 … ``schedule.stages``.
            on_step: called after every step with its number among those of all stages.
            share: the part of the stage's steps that is taken, from one share to another; the learning rate and the
                stream of images are those of the whole.
        """
        enforce, apply = None, None
        if stage is None and policy.mask is not None:
            masks = Masks.of_zeros(network, policy.mask.layers)
            enforce, apply = partial(masks.enforce, network), partial(masks.apply, network)
        span, only = part_of(self.span(stage), *share), self._trained(network, policy)
        run = TrainingRun(self.task, self.settings, self.runtime, self.seed)
        with watch("finetune"):
            finetune(network, run, self.teacher, on_step, span=span, only=only, on_optimizer=enforce, enforce=apply)
        network.eval()

    def span(self, stage: int | None = None) -> Span:
        """Return the steps of a stage, ``None`` for the last, among those of all."""
        stages = self.schedule.stages
        return steps_of(
            stage or stages, stages, total_steps(self.task.steps_per_epoch(self.settings.batch_size), self.settings)
        )

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


def relative_cut(cut: CutPlan, within: CutPlan) -> dict[str, KeptChannels]:
    """Return the cut that leads from a network cut by ``within`` to one cut by ``cut``, which keeps a part of it.

    Args:
        cut: module path → what stays of the dense network's channels.
        within: the same of what stayed before; sides that lose nothing more are left out of the result.
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
