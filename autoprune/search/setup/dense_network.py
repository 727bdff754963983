"""What the dense network needs only once: trained or copied, scored, measured, and stored in the study's folder.

Each function reads what an earlier run stored, or does the work and stores it; all trials and sessions share it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from autoprune.core.atomic_write import write_bytes, write_text
from autoprune.core.metrics import Measurement
from autoprune.core.notify import Notify
from autoprune.cost.latency import Timer
from autoprune.errors import AutopruneError, ModelError, StudyError, StudyMismatchError
from autoprune.models.build import build_model
from autoprune.models.load_weights import load_weights, own_tensors
from autoprune.pruning.groups import Groups
from autoprune.pruning.importance import Calibration, score_groups
from autoprune.pruning.selection import check_patterns
from autoprune.search.evaluation.evaluator import quality_and_hits
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import StudySpec
from autoprune.tasks.task import DataTask
from autoprune.training.device.evaluation_mode import evaluating
from autoprune.training.device.runtime import Runtime
from autoprune.training.loop import TrainingRun
from autoprune.training.settings import FinetuneSettings
from autoprune.training.train_dense import train_dense

CALIBRATION_BATCH = 64
REFERENCE_BLOCKS = 15


def dense_network(
    spec: StudySpec,
    task: DataTask,
    runtime: Runtime,
    folder: StudyFolder,
    notify: Notify,
    check: Callable[[nn.Module], None] = lambda network: None,
) -> nn.Module:
    """Return the dense network: stored in the study, or built, loaded or trained now and then stored.

    ``check`` may raise for a new network, in eval mode on the runtime, before time is spent on it.
    """
    notes: list[str] = []
    stored = folder.dense_weights.exists()
    network = fresh_network(spec, task, "" if stored else spec.model.weights, notes.append)
    if stored:
        load_weights(network, folder.dense_weights)
        return network
    for note in notes:
        notify(note)
    check_patterns(network, (*spec.space.keep, *spec.space.only))  # before an hour of training, not after
    _check_runs(network, task, runtime)
    with evaluating(network):
        check(network)
    if spec.dense.epochs and (not spec.model.weights or notes):
        _train(network, spec, task, runtime, folder, notify)
    check_finite(network)
    write_network(network, folder.dense_weights)
    return network


def fresh_network(spec: StudySpec, task: DataTask, weights: str, notify: Notify) -> nn.Module:
    """Return the network as its source builds it by the study's seed, with weights or without."""
    return build_model(
        spec.model.source,
        num_classes=task.num_classes,
        input_shape=task.input_shape,
        seed=spec.seed,
        weights=weights,
        notify=notify,
    )


def write_network(network: nn.Module, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Store a network's weights in one step.

    Raises:
        StudyError: if the file cannot be written.
    """
    write_bytes(path, save(own_tensors(network), metadata))


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


def _train(
    network: nn.Module, spec: StudySpec, task: DataTask, runtime: Runtime, folder: StudyFolder, notify: Notify
) -> None:
    """Train the dense network, and store its weights on the way if candidates are to go back to them."""
    wish = spec.dense
    notify(f"training the dense network for {wish.epochs} epochs on {task.sizes['train']} images, once per study")

    def on_epoch(epoch: int, epochs: int) -> None:
        notify(f"training the dense network: epoch {epoch} of {epochs}")
        if spec.schedule.start == "rewind" and epoch == spec.schedule.rewind_epoch:
            write_network(network, folder.rewind_weights)

    recipe = FinetuneSettings(wish.epochs, wish.batch_size, wish.lr, wish.weight_decay, optimizer=wish.optimizer)
    train_dense(network, TrainingRun(task, recipe, runtime, spec.seed), on_epoch)
    network.zero_grad(set_to_none=True)  # the last gradients would take as much memory as the weights, all session long


def check_finite(network: nn.Module) -> None:
    """Raise if a weight is NaN or infinite.

    Raises:
        ModelError: naming it.
    """
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(
                f"the dense network's {name} holds NaN or infinite values; train it again with a smaller "
                f"learning rate, or give other weights"
            )


def sparsity_facts(folder: StudyFolder) -> dict[str, Any] | None:
    """Return what sparsity learning did, as plain data; ``None`` if the study has none.

    Returns:
        ``method``, ``strength`` and ``epochs``; ``quality_before`` and ``quality_after``, measurements as JSON of the
        dense network and of the one that learnt; and what
        :func:`describe_regularisation` tells.

    Raises:
        StudyError: if the file is damaged.
    """
    if not folder.sparse_weights.exists():
        return None
    try:
        with safe_open(folder.sparse_weights, "pt") as file:
            return dict(json.loads(file.metadata()["sparsity"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise StudyError(
            f"{str(folder.sparse_weights)!r} is damaged ({type(error).__name__}: {error}); restore it from a copy"
        ) from error


def importance_scores(
    spec: StudySpec,
    network: nn.Module,
    groups: Groups,
    task: DataTask,
    runtime: Runtime,
    folder: StudyFolder,
    notify: Notify,
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
    notify(f"scoring channels by {', '.join(spec.space.importances)}")
    stream = task.eval_batches("train", CALIBRATION_BATCH, runtime, limit=spec.space.calibration_images)
    calibration = Calibration([(batch.images, batch.labels) for batch in stream], spec.seed, task.input_shape)
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


def dense_measurement(
    network: nn.Module,
    exact: Measurement,
    task: DataTask,
    runtime: Runtime,
    timer: Timer,
    folder: StudyFolder,
    notify: Notify,
) -> Measurement:
    """Return the dense network's costs, validation score and reference latency, measured once per study."""
    if folder.dense_facts.exists():
        return Measurement.from_json(read_dense_facts(folder)["measurement"])
    notify("scoring and timing the dense network")
    quality, correct = quality_and_hits(network, task, runtime)
    timing = timer.compare(blocks=REFERENCE_BLOCKS)
    latency = Measurement({"latency_ms": timing.dense_ms}, {"latency_ms": timing.ratio_stderr * timing.dense_ms})
    dense = exact.merged(quality).merged(latency)
    facts: dict[str, Any] = {"measurement": dense.to_json(), "data": task.identity(), "runtime": runtime.describe()}
    facts |= {"sparsity": sparsity_facts(folder), "correct": correct, "latency_runtime": timer.engine.name}
    write_text(folder.dense_facts, json.dumps(facts, indent=2))
    return dense


def check_same_data(task: DataTask, folder: StudyFolder) -> None:
    """Refuse to go on with other data than the stored trials were made with.

    Raises:
        StudyMismatchError: if the data's content has changed.
    """
    if not folder.dense_facts.exists():
        return
    if read_dense_facts(folder)["data"] != task.identity():
        raise StudyMismatchError(
            f"the content of the data {task.name!r} differs from what the trials in {str(folder.path)!r} were made "
            f"with; restore the data, or begin a new study in another folder"
        )


def read_dense_facts(folder: StudyFolder) -> dict[str, Any]:
    """Return what was measured of the dense network, and on which data.

    ``sparsity`` is as :func:`sparsity_facts`; ``correct`` says which validation images it got right, as the text of
    :class:`Hits`, and is empty in the files of versions that did not store it; ``latency_runtime`` says
    what ran the network when it was timed, which was ``torch`` before there was a choice.

    Raises:
        StudyError: if the file is damaged.
    """
    try:
        facts = json.loads(folder.dense_facts.read_text(encoding="utf-8"))
        found = {name: facts[name] for name in ("measurement", "data", "runtime")}
        timed_in = facts.get("latency_runtime", "torch")
        return found | {
            "sparsity": facts.get("sparsity"),
            "correct": facts.get("correct", ""),
            "latency_runtime": timed_in,
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"{str(folder.dense_facts)!r} is damaged ({type(error).__name__}: {error}); restore it from a copy, or "
            f"delete it to measure the dense network again"
        ) from error
