"""The composition root: from a spec to live objects.

What the dense network needs only once is done once and stored in the study's folder: its weights (trained
or copied), its importance scores, its measurements. Everything else is cheap enough to build at each start.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from autoprune.atomic import write_bytes, write_text
from autoprune.cost.latency import compare_latency
from autoprune.cost.macs import CostModel
from autoprune.errors import AutopruneError, ModelError, StudyError, StudyMismatchError
from autoprune.evaluate import Evaluator, quality_measurement
from autoprune.folder import StudyFolder
from autoprune.metrics import Budget, Measurement
from autoprune.pruning.groups import Groups, find_groups
from autoprune.pruning.importance import Calibration, score_groups
from autoprune.pruning.prune import Pruner
from autoprune.space import FrozenGroup, SearchSpace
from autoprune.spec import StudySpec
from autoprune.study.proposals import Proposals
from autoprune.training.finetune import Recipe, train_dense
from autoprune.training.layout import fastest_layout
from autoprune.training.models import build_model
from autoprune.training.protocol import DataTask
from autoprune.training.runtime import Runtime, evaluating, resolve_runtime
from autoprune.training.score import score
from autoprune.training.tasks import build_task
from autoprune.training.teacher import Teacher
from autoprune.training.weights import load_weights

Say = Callable[[str], None]
CALIBRATION_BATCH = 64
REFERENCE_BLOCKS = 15


@dataclass(frozen=True)
class Workbench:
    """Hold everything a study works with.

    Attributes:
        spec: the resolved spec.
        folder: where the study is stored.
        task: the data.
        runtime: device, precision, layout, threads.
        network: the dense network, in eval mode, placed on the runtime.
        space: what can be pruned.
        frozen: what cannot, with reasons.
        scores: criterion → group → importance scores.
        cost: closed-form costs.
        dense: what was measured of the dense network, on validation.
        example: one input, shape ``(1, C, H, W)``, on the CPU.
    """

    spec: StudySpec
    folder: StudyFolder
    task: DataTask
    runtime: Runtime
    network: nn.Module
    space: SearchSpace
    frozen: tuple[FrozenGroup, ...]
    scores: Mapping[str, Mapping[str, Tensor]]
    cost: CostModel
    dense: Measurement
    example: Tensor

    @property
    def pruner(self) -> Pruner:
        """Return what cuts copies of the dense network."""
        return Pruner(self.network, self.space, self.scores)

    def proposals(self, budget: Budget) -> Proposals:
        """Return what decides which candidates are asked for an absolute budget."""
        scores = {
            name: {group: s.numpy().astype("float64") for group, s in by_group.items()}
            for name, by_group in self.scores.items()
        }
        return Proposals(self.space, self.cost, self.dense, budget, scores, self.spec.sampler, self.spec.seed)

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
            latency=self.spec.latency,
            dense_latency_ms=self.dense["latency_ms"],
            seed=self.spec.seed,
        )


def resolve(spec: StudySpec) -> StudySpec:
    """Return the spec with device and precision decided for this machine.

    A layout left to ``auto`` is decided by :func:`set_up`, which can measure it.

    Raises:
        UsageError: if the device that was asked for is absent.
    """
    runtime = runtime_of(spec)
    decided = spec.runtime.model_copy(update={"device": runtime.device, "precision": runtime.precision})
    return spec.model_copy(update={"runtime": decided})


def runtime_of(spec: StudySpec) -> Runtime:
    """Return where and how the spec's networks run on this machine."""
    wish = spec.runtime
    return resolve_runtime(wish.device, wish.precision, wish.layout, wish.threads)


def finetune_recipe(spec: StudySpec, epochs: float | None = None, lr: float | None = None) -> Recipe:
    """Return the fine-tune of the spec, with another length or learning rate if given."""
    wish = spec.finetune
    return Recipe(
        epochs=wish.epochs if epochs is None else epochs,
        batch_size=wish.batch_size,
        lr=wish.lr if lr is None else lr,
        weight_decay=wish.weight_decay,
        distill=wish.distill,
        temperature=wish.temperature,
        distill_weight=wish.distill_weight,
    )


def task_of(spec: StudySpec) -> DataTask:
    """Return the data of a spec."""
    data = spec.data
    return build_task(data.source, root=data.root, image_size=data.image_size, workers=data.workers)


def set_up(spec: StudySpec, folder: StudyFolder, say: Say) -> Workbench:
    """Build everything a study works with, doing once what is needed only once.

    Args:
        spec: resolved for this machine.
        folder: where the study is stored; it must be writable.
        say: told in a sentence what is going on.

    Raises:
        AutopruneError: if the network, the data or the folder cannot be used.
    """
    runtime = runtime_of(spec)
    runtime.apply_threads()
    say(f"data: {spec.data.source}")
    task = task_of(spec)
    _check_same_data(task, folder)
    network = runtime.place(dense_network(spec, task, runtime, folder, say)).eval()
    example = next(iter(task.eval_batches("val", 1, runtime))).images.cpu()
    say("finding groups of coupled channels, and proving each by a trial cut")
    groups = find_groups(network, torch.cat([example, example.flip(-1)]))
    scores = importance_scores(spec, network, groups, task, runtime, folder, say)
    space, frozen = search_space(spec, groups, scores)
    cost = CostModel(network, space.groups, example)
    spec, runtime = with_layout(spec, Pruner(network, space, scores), task, runtime, say)
    runtime.place(network)
    dense = dense_measurement(spec, network, cost, space, task, runtime, folder, say)
    return Workbench(spec, folder, task, runtime, network, space, frozen, scores, cost, dense, example)


def with_layout(
    spec: StudySpec, pruner: Pruner, task: DataTask, runtime: Runtime, say: Say
) -> tuple[StudySpec, Runtime]:
    """Return spec and runtime with the memory layout decided: as given, or the faster one for a half-pruned network."""
    if spec.runtime.layout == "auto":
        say("choosing the faster memory layout")
        names = [group.name for group in pruner.space.groups]
        importances = {name: pruner.space.importances[name][0] for name in names}
        half = {name: pruner.space.nearest(name, pruner.space.by_name[name].num_channels * 0.6) for name in names}
        network = pruner.prune(pruner.space.policy(half, importances))
        runtime = fastest_layout(network, task, spec.finetune.batch_size, runtime, spec.seed)
        layout = "channels_last" if runtime.channels_last else "contiguous"
        spec = spec.model_copy(update={"runtime": spec.runtime.model_copy(update={"layout": layout})})
    return spec, runtime


def dense_network(spec: StudySpec, task: DataTask, runtime: Runtime, folder: StudyFolder, say: Say) -> nn.Module:
    """Return the dense network: stored in the study, or built, loaded or trained now and then stored."""
    notes: list[str] = []
    stored = folder.dense_weights.exists()
    network = build_model(
        spec.model.source,
        num_classes=task.num_classes,
        in_channels=task.input_shape[0],
        seed=spec.seed,
        weights="" if stored else spec.model.weights,
        notify=notes.append,
    )
    if stored:
        load_weights(network, folder.dense_weights)
        return network
    for note in notes:
        say(note)
    _check_runs(network, task, runtime)
    if spec.dense.epochs and (not spec.model.weights or notes):
        _train(network, spec, task, runtime, say)
    _check_finite(network)
    write_bytes(folder.dense_weights, save({k: v.contiguous().cpu() for k, v in network.state_dict().items()}))
    return network


def _check_runs(network: nn.Module, task: DataTask, runtime: Runtime) -> None:
    """Raise if a network does not answer the data's images, before time is spent on it.

    Raises:
        ModelError: with what the network's own code said.
    """
    images = next(iter(task.eval_batches("val", 2, runtime))).images
    try:
        with torch.no_grad(), evaluating(runtime.place(network)):
            runtime.logits(network, images, task.num_classes)
    except AutopruneError:
        raise
    except Exception as error:  # the user's own network may raise anything
        raise ModelError(
            f"the network does not run on images of shape {tuple(images.shape)}: {type(error).__name__}: {error}; "
            f"give a network made for {task.name}, or other data"
        ) from error


def _train(network: nn.Module, spec: StudySpec, task: DataTask, runtime: Runtime, say: Say) -> None:
    wish = spec.dense
    say(f"training the dense network for {wish.epochs} epochs on {task.sizes['train']} images, once per study")

    def on_epoch(epoch: int, epochs: int) -> None:
        say(f"training the dense network: epoch {epoch} of {epochs}")

    recipe = Recipe(wish.epochs, wish.batch_size, wish.lr, wish.weight_decay)
    train_dense(network, task, recipe, runtime, spec.seed, on_epoch)
    network.zero_grad(set_to_none=True)  # the last gradients would take as much memory as the weights, all session long


def _check_finite(network: nn.Module) -> None:
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(
                f"the dense network's {name} holds NaN or infinite values; train it again with a smaller "
                f"learning rate, or give other weights"
            )


def importance_scores(
    spec: StudySpec, network: nn.Module, groups: Groups, task: DataTask, runtime: Runtime, folder: StudyFolder, say: Say
) -> dict[str, dict[str, Tensor]]:
    """Return criterion → group → scores: stored in the study, or computed once and then stored."""
    wanted = {(name, group.name): group.num_channels for name in spec.space.importances for group in groups.cuttable}
    stored = _read_scores(folder)
    if (
        stored is not None
        and all(
            scores.numel() == wanted.get((name, group)) for name in stored for group, scores in stored[name].items()
        )
        and set(spec.space.importances) == set(stored)
    ):
        return {name: stored[name] for name in spec.space.importances}
    say(f"scoring channels by {', '.join(spec.space.importances)}")
    stream = task.eval_batches("train", CALIBRATION_BATCH, runtime, limit=spec.space.calibration_images)
    calibration = Calibration([(batch.images, batch.labels) for batch in stream], spec.seed)
    scores = score_groups(network, groups.cuttable, spec.space.importances, calibration)
    flat = {f"{name}/{group}": s for name, by_group in scores.items() for group, s in by_group.items()}
    write_bytes(folder.scores, save(flat, metadata={"importances": json.dumps(list(scores))}))
    return scores


def _read_scores(folder: StudyFolder) -> dict[str, dict[str, Tensor]] | None:
    """Return the stored scores, or ``None`` if there are none or they were cut short."""
    try:
        flat = load_file(folder.scores)
    except (OSError, SafetensorError):
        return None
    scores: dict[str, dict[str, Tensor]] = {}
    for key, values in flat.items():
        name, _, group = key.rpartition("/")
        scores.setdefault(name, {})[group] = values
    return scores


def search_space(
    spec: StudySpec, groups: Groups, scores: Mapping[str, Mapping[str, Tensor]]
) -> tuple[SearchSpace, tuple[FrozenGroup, ...]]:
    """Return the space over every group that some criterion can score, and everything that is frozen."""
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
        usable, {group.name: importances[group.name] for group in usable}, spec.space.max_sparsity, spec.space.round_to
    )
    return space, (*groups.frozen, *unscored)


def dense_measurement(
    spec: StudySpec,
    network: nn.Module,
    cost: CostModel,
    space: SearchSpace,
    task: DataTask,
    runtime: Runtime,
    folder: StudyFolder,
    say: Say,
) -> Measurement:
    """Return the dense network's costs, validation score and reference latency, measured once per study."""
    if folder.dense_facts.exists():
        return Measurement.from_json(_read_dense_facts(folder)["measurement"])
    say("scoring and timing the dense network")
    exact = cost.measure({group.name: group.num_channels for group in space.groups})
    quality = quality_measurement(score(network, task, "val", runtime))
    images = runtime.place_images(torch.zeros(spec.latency.batch, *task.input_shape))
    timing = compare_latency(
        network, network, images, blocks=REFERENCE_BLOCKS, calls=spec.latency.calls, threads=spec.latency.threads
    )
    latency = Measurement({"latency_ms": timing.dense_ms}, {"latency_ms": timing.ratio_stderr * timing.dense_ms})
    dense = exact.merged(quality).merged(latency)
    facts: dict[str, Any] = {"measurement": dense.to_json(), "data": task.identity(), "runtime": runtime.describe()}
    write_text(folder.dense_facts, json.dumps(facts, indent=2))
    return dense


def _check_same_data(task: DataTask, folder: StudyFolder) -> None:
    """Refuse to go on with other data than the stored trials were made with.

    Raises:
        StudyMismatchError: if the data's content has changed.
    """
    if not folder.dense_facts.exists():
        return
    if _read_dense_facts(folder)["data"] != task.identity():
        raise StudyMismatchError(
            f"the content of the data {task.name!r} differs from what the trials in {str(folder.path)!r} were made "
            f"with; restore the data, or begin a new study in another folder"
        )


def _read_dense_facts(folder: StudyFolder) -> dict[str, Any]:
    """Return what was measured of the dense network, and on which data.

    Raises:
        StudyError: if the file is damaged.
    """
    try:
        facts = json.loads(folder.dense_facts.read_text(encoding="utf-8"))
        return {"measurement": facts["measurement"], "data": facts["data"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"{str(folder.dense_facts)!r} is damaged ({type(error).__name__}: {error}); restore it from a copy, or "
            f"delete it to measure the dense network again"
        ) from error
