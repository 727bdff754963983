"""The composition root: from a spec to live objects.

What the dense network needs only once comes from ``dense``, which stores it in the study's folder; everything
else is cheap enough to build at each start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from autoprune.core.metrics import Budget, Measurement
from autoprune.core.notify import Notify, silent
from autoprune.core.policy import MASK_PATTERNS
from autoprune.core.sensitivity import Sensitivity
from autoprune.core.space import Block, FrozenGroup, MaskSpace, SearchSpace
from autoprune.cost.cost_model import CostModel
from autoprune.cost.latency import Timer
from autoprune.cost.timing_engines import Engine
from autoprune.cost.timing_plan import TimingPlan
from autoprune.errors import UsageError
from autoprune.export.architecture import Architecture
from autoprune.export.timing_runtimes import check_runtime, check_takes, decide_runtime, engine_of
from autoprune.pruning.blocks import find_blocks
from autoprune.pruning.groups import Groups, find_groups
from autoprune.pruning.layers.kinds import has_heads
from autoprune.pruning.masks.masks import maskable_layers
from autoprune.pruning.selection import choose_blocks, choose_groups, choose_layers
from autoprune.pruning.surgery import Pruner, shrinks
from autoprune.pruning.tracing.tracer import OUTPUT
from autoprune.search.evaluation.evaluator import Evaluator
from autoprune.search.proposals.latency_model import LatencyProbes
from autoprune.search.proposals.proposer import Proposals
from autoprune.search.setup.dense_network import (
    check_same_data,
    dense_measurement,
    dense_network,
    importance_scores,
    read_dense_facts,
)
from autoprune.search.setup.latency_probes import latency_probes, needs_probes
from autoprune.search.setup.measure_sensitivity import Expected, SensitivityProbe, sensitivity_of
from autoprune.search.setup.measure_tolerance import tolerated_counts
from autoprune.search.setup.starting_weights import starting_networks
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import StudySpec
from autoprune.study.spec_sections import LatencySpec
from autoprune.tasks.builtin import build_task
from autoprune.tasks.task import DataTask
from autoprune.training.device.device import Runtime, resolve_runtime
from autoprune.training.distillation import Teacher
from autoprune.training.finetune import FinetuneSettings
from autoprune.training.memory_layout import fastest_layout


@dataclass(frozen=True)
class Workbench:
    """Hold everything a study works with.

    Attributes:
        spec: the resolved spec.
        folder: where the study is stored.
        task: the data.
        runtime: device, precision, layout, threads.
        network: the dense network, in eval mode, placed on the runtime.
        start: the network whose weights candidates begin with, likewise; mostly the dense one.
        space: what can be pruned.
        frozen: what cannot, with reasons.
        scores: criterion → group → importance scores.
        cost: closed-form costs.
        timer: times networks against the dense one, which is exported or compiled once for all.
        dense: what was measured of the dense network, on validation.
        tolerated: group → fewest channels that the measured error allows, for the threshold baseline.
        example: one input, shape ``(1, C, H, W)``, on the CPU.
    """

    spec: StudySpec
    folder: StudyFolder
    task: DataTask
    runtime: Runtime
    network: nn.Module
    start: nn.Module
    space: SearchSpace
    frozen: tuple[FrozenGroup, ...]
    scores: Mapping[str, Mapping[str, Tensor]]
    cost: CostModel
    timer: Timer
    dense: Measurement
    tolerated: Mapping[str, int]
    example: Tensor

    @property
    def pruner(self) -> Pruner:
        """Return what cuts copies of the dense network."""
        return Pruner(self.network, self.space, self.scores)

    @property
    def architecture(self) -> Architecture:
        """Return how the dense network is built, as a file of weights says it."""
        return Architecture(self.spec.model.source, self.task.num_classes, self.task.input_shape)

    def proposals(self, budget: Budget, notify: Notify = silent) -> Proposals:
        """Return what decides which candidates are asked for an absolute budget.

        What only proposals need is measured here, once per study, so that a pick never pays for it; ``notify`` is told.
        """
        scores = {
            name: {group: s.numpy().astype("float64") for group, s in by_group.items()}
            for name, by_group in self.scores.items()
        }
        return Proposals(
            self.space,
            self.cost,
            self.dense,
            budget,
            scores,
            self.spec.sampler,
            self.spec.seed,
            tolerated=self.tolerated,
            sensitivity=self._sensitivity(notify),
            probes=self._probes(notify) if needs_probes(budget, self.spec.objectives) else None,
        )

    def _sensitivity(self, notify: Notify) -> Sensitivity:
        probe = SensitivityProbe(Pruner(self.start, self.space, self.scores), self.task, self.runtime, self.spec.seed)
        return sensitivity_of(probe, self.spec.sensitivity, expected_work(self.spec, self.task), self.folder, notify)

    def _probes(self, notify: Notify) -> LatencyProbes:
        dense_ms = self.dense["latency_ms"]
        return latency_probes(self.pruner, self.cost, self.timer, self.runtime, dense_ms, self.folder, notify)

    def evaluator(self) -> Evaluator:
        """Return what evaluates candidates by the spec's recipe."""
        recipe = finetune_recipe(self.spec)
        teacher = Teacher(self.network, self.task, self.runtime, self.folder.teacher) if recipe.distill else None
        return Evaluator(
            pruner=self.pruner,
            cost=self.cost,
            task=self.task,
            teacher=teacher,
            recipe=recipe,
            recalibration_images=self.spec.finetune.recalibration_images,
            runtime=self.runtime,
            timer=self.timer,
            dense_latency_ms=self.dense["latency_ms"],
            seed=self.spec.seed,
            schedule=self.spec.schedule,
            calibration_images=self.spec.space.calibration_images,
            start=None if self.start is self.network else self.start,
            rung_images=self.spec.stopping.images if self.spec.stopping.enabled else 0,
        )


def resolve(spec: StudySpec) -> StudySpec:
    """Return the spec with device and precision decided for this machine.

    A layout left to ``auto`` is decided by :func:`set_up`, which can measure it, and so is what networks are timed in.

    Raises:
        UsageError: if the device or the latency runtime that was asked for is absent.
    """
    runtime = runtime_of(spec)
    check_runtime(timing_plan(spec.latency), runtime.device)
    decided = spec.runtime.model_copy(update={"device": runtime.device, "precision": runtime.precision})
    return spec.model_copy(update={"runtime": decided})


def timing_plan(wish: LatencySpec) -> TimingPlan:
    """Return how networks are timed by the spec."""
    return TimingPlan(**wish.model_dump())


def runtime_of(spec: StudySpec) -> Runtime:
    """Return where and how the spec's networks run on this machine."""
    wish = spec.runtime
    return resolve_runtime(wish.device, wish.precision, wish.layout, wish.threads)


def finetune_recipe(spec: StudySpec, epochs: float | None = None, lr: float | None = None) -> FinetuneSettings:
    """Return the fine-tune of the spec, with another length or learning rate if given."""
    wish = spec.finetune
    return FinetuneSettings(
        epochs=wish.epochs if epochs is None else epochs,
        batch_size=wish.batch_size,
        lr=wish.lr if lr is None else lr,
        weight_decay=wish.weight_decay,
        distill=wish.distill,
        temperature=wish.temperature,
        distill_weight=wish.distill_weight,
        optimizer=wish.optimizer,
    )


def task_of(spec: StudySpec) -> DataTask:
    """Return the data of a spec."""
    data = spec.data
    return build_task(data.source, root=data.root, image_size=data.image_size, workers=data.workers)


def set_up(spec: StudySpec, folder: StudyFolder, notify: Notify) -> Workbench:
    """Build everything a study works with, doing once what is needed only once.

    Args:
        spec: resolved for this machine.
        folder: where the study is stored; it must be writable.
        notify: told in a sentence what is going on.

    Raises:
        AutopruneError: if the network, the data or the folder cannot be used.
    """
    runtime = runtime_of(spec)
    runtime.apply_threads()
    notify(f"data: {spec.data.source}")
    task = task_of(spec)
    check_same_data(task, folder)
    images = torch.zeros(spec.latency.batch, *task.input_shape)

    engine = None if spec.latency.runtime == "auto" else engine_of(spec.latency.runtime)

    def check(network: nn.Module) -> None:
        if engine is not None:
            check_takes(engine, network, runtime.place_images(images))

    network = runtime.place(dense_network(spec, task, runtime, folder, notify, check)).eval()
    example = next(iter(task.eval_batches("val", 1, runtime))).images.cpu()
    notify("finding groups of coupled channels, and proving each by a trial cut")
    groups, blocks = found_in(network, torch.cat([example, example.flip(-1)]), spec)
    behind = starting_networks(spec, network, groups, task, runtime, folder, notify)
    scores = importance_scores(spec, behind.scored, groups, task, runtime, folder, notify)
    space, frozen = search_space(spec, groups, blocks, mask_space(spec, network, groups.frozen), scores)
    cost = cost_model(network, space, example)
    spec, runtime = with_layout(spec, Pruner(network, space, scores), task, runtime, folder, notify)
    runtime.place(network)
    start = runtime.place(behind.start)
    if engine is None:
        pruner = Pruner(network, space, scores)
        spec, engine = with_latency_runtime(spec, pruner, runtime, runtime.place_images(images), folder, notify)
    timer = Timer(network, runtime.place_images(images), timing_plan(spec.latency), engine)
    dense = dense_measurement(network, cost.measure({}), task, runtime, timer, folder, notify)
    _check_measured(spec, dense)
    limits = spec.space.max_drop, spec.space.calibration_images
    tolerated = tolerated_counts(Pruner(start, space, scores), task, runtime, *limits, spec.seed, folder, notify)
    return Workbench(
        spec, folder, task, runtime, network, start, space, frozen, scores, cost, timer, dense, tolerated, example
    )


def expected_work(spec: StudySpec, task: DataTask) -> Expected:
    """Return how much the search of a spec will be."""
    scored = task.sizes["val"] + spec.finetune.recalibration_images
    return Expected(spec.trials, round(spec.finetune.epochs * task.sizes["train"]), scored)


def _check_measured(spec: StudySpec, dense: Measurement) -> None:
    missing = [name for name in spec.objectives if name not in dense.values]
    if missing:
        raise UsageError(
            f"objectives name {', '.join(missing)}, which this study does not measure: what is not zero is counted "
            f"where there are masks; add weight or 2:4 to space.patterns, or trade mflops or mparams"
        )


def found_in(network: nn.Module, example: Tensor, spec: StudySpec) -> tuple[Groups, tuple[Block, ...]]:
    """Return the groups that can be cut or are frozen, and the blocks that can be dropped, as the spec allows."""
    keep, only = spec.space.keep, spec.space.only
    groups = choose_groups(network, find_groups(network, example, spec.space.seconds), keep, only)
    if "channel" not in spec.space.patterns:
        reason = f"space.patterns is {', '.join(spec.space.patterns)}, without channel"
        groups = Groups((), (*groups.frozen, *(FrozenGroup(g.name, g.num_channels, reason) for g in groups.cuttable)))
    blocks = find_blocks(network, example, groups.cuttable) if spec.space.depth else ()
    return groups, choose_blocks(network, blocks, keep, only)


def mask_space(spec: StudySpec, network: nn.Module, frozen: Iterable[FrozenGroup]) -> MaskSpace | None:
    """Return which masks may be proposed, ``None`` if the spec wants none; the layers that answer are left alone."""
    pattern = next((name for name in spec.space.patterns if name in MASK_PATTERNS), None)
    if pattern is None:
        return None
    outputs = [group.name for group in frozen if group.reason == OUTPUT]
    able = maskable_layers(network, pattern, outputs).layers
    attention = [path for path, module in network.named_modules() if has_heads(module)]
    layers = tuple(
        layer
        for layer in choose_layers(able, spec.space.keep, spec.space.only)
        # an attention module multiplies by its layers' weights without calling them, so wanda never sees their inputs
        if "wanda" not in spec.space.mask_criteria or not any(layer.startswith(f"{path}.") for path in attention)
    )
    return MaskSpace(pattern, spec.space.mask_criteria, layers, spec.space.max_mask_sparsity)


def cost_model(network: nn.Module, space: SearchSpace, example: Tensor) -> CostModel:
    """Return the closed-form costs over a space."""
    return CostModel(
        network,
        shrinks(network, space.groups),
        {group.name: group.num_channels for group in space.groups},
        example,
        blocks=space.blocks,
        masked_layers=space.mask.layers if space.mask else (),
        mask_pattern=space.mask.pattern if space.mask else "weight",
    )


def with_layout(
    spec: StudySpec, pruner: Pruner, task: DataTask, runtime: Runtime, folder: StudyFolder, notify: Notify
) -> tuple[StudySpec, Runtime]:
    """Return spec and runtime with the memory layout decided: as given, or the faster one for a half-pruned network."""
    if spec.runtime.layout == "auto" and folder.dense_facts.exists():  # the dense network was timed in it already
        layout = read_dense_facts(folder)["runtime"]["layout"]
        runtime = replace(runtime, channels_last=layout == "channels_last")
    elif spec.runtime.layout == "auto":
        notify("choosing the faster memory layout")
        runtime = fastest_layout(_half_pruned(pruner), task, spec.finetune.batch_size, runtime, spec.seed)
    layout = "channels_last" if runtime.channels_last else "contiguous"
    return spec.model_copy(update={"runtime": spec.runtime.model_copy(update={"layout": layout})}), runtime


def _half_pruned(pruner: Pruner, without: Iterable[Block] = ()) -> nn.Module:
    """Return a network like those of a search, without some blocks."""
    groups = pruner.space.by_name
    half = {name: pruner.space.nearest(name, group.num_channels * 0.6) for name, group in groups.items()}
    kept = {**half, **{block.name: 0 for block in without}}
    return pruner.prune(pruner.space.policy(kept, pruner.space.first_importances))


def with_latency_runtime(
    spec: StudySpec, pruner: Pruner, runtime: Runtime, example: Tensor, folder: StudyFolder, notify: Notify
) -> tuple[StudySpec, Engine]:
    """Return the spec with the latency runtime that ``auto`` finds, and what runs networks by it.

    Args:
        spec: with the device decided, and ``auto`` for the latency runtime.
        pruner: knows the dense network, in eval mode and placed.
        runtime: where networks are trained.
        example: one batch as it is timed, placed there.
        folder: of the study; what its dense network was timed in already stays.
        notify: told what was chosen, and why.
    """
    if folder.dense_facts.exists():
        name = read_dense_facts(folder)["latency_runtime"]
        engine = engine_of(name)
    else:
        pruned = runtime.place(_half_pruned(pruner, pruner.space.blocks[:1])).eval()
        name, engine, why = decide_runtime(timing_plan(spec.latency), runtime.device, pruner.network, pruned, example)
        notify(why)
    return spec.model_copy(update={"latency": spec.latency.model_copy(update={"runtime": name})}), engine


def search_space(
    spec: StudySpec,
    groups: Groups,
    blocks: tuple[Block, ...],
    mask: MaskSpace | None,
    scores: Mapping[str, Mapping[str, Tensor]],
) -> tuple[SearchSpace, tuple[FrozenGroup, ...]]:
    """Return the space over blocks, masks and every group that some criterion can score, and everything frozen."""
    importances = {
        group.name: tuple(name for name in spec.space.importances if group.name in scores.get(name, {}))
        for group in groups.cuttable
    }
    unscored = [
        FrozenGroup(group.name, group.num_channels, f"none of {', '.join(spec.space.importances)} applies to it")
        for group in groups.cuttable
        if not importances[group.name]
    ]
    usable = tuple(group for group in groups.cuttable if importances[group.name])
    space = SearchSpace(
        usable,
        {group.name: importances[group.name] for group in usable},
        spec.space.max_sparsity,
        spec.space.round_to,
        blocks,
        mask,
    )
    return space, (*groups.frozen, *unscored)
