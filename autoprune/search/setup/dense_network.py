"""The dense network of a study: built, loaded or trained once, and stored in the study's folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from autoprune.core.atomic_write import write_bytes
from autoprune.core.notify import Notify, silent
from autoprune.errors import ModelError
from autoprune.models.build import build_for_inputs, build_model
from autoprune.models.load_weights import load_weights, own_tensors
from autoprune.pruning.selection import check_patterns
from autoprune.search.setup.check_batches import check_batches
from autoprune.search.setup.context import StudyContext
from autoprune.search.setup.find_space import check_prunable
from autoprune.search.setup.once import once
from autoprune.training.device.evaluation_mode import evaluating
from autoprune.training.loop import TrainingRun
from autoprune.training.settings import FinetuneSettings
from autoprune.training.train_dense import train_dense


def dense_network(context: StudyContext, check: Callable[[nn.Module], None] = lambda network: None) -> nn.Module:
    """Return the dense network: stored in the study, or built, loaded or trained now and then stored.

    Args:
        context: whose spec says what it is and how long it is trained.
        check: may raise for a new network, in eval mode on the device, before time is spent on it.

    Raises:
        ModelError: if it cannot be built or loaded, or fails in training.
    """
    return once(context.folder.dense_weights, partial(_stored, context), partial(_made, context, check), network_bytes)


def _stored(context: StudyContext, path: Path) -> nn.Module:
    network = fresh_network(context, weights="")
    load_weights(network, path)
    return network


def _made(context: StudyContext, check: Callable[[nn.Module], None]) -> nn.Module:
    spec, notes = context.spec, list[str]()
    network = fresh_network(context, spec.model.weights, notes.append, context.notify)
    for note in notes:
        context.notify(note)
    check_patterns(network, (*spec.space.keep, *spec.space.only))  # before an hour of training, not after
    check_batches(context.device.place(network), context.task, spec, context.device, context.notify)
    with evaluating(network):
        check(network)
    if spec.dense.epochs and (not spec.model.weights or notes):
        check_prunable(context, network)
        _train(context, network)
    check_finite(network)
    return network


def fresh_network(context: StudyContext, weights: str, notify: Notify = silent, remark: Notify = silent) -> nn.Module:
    """Return the network as its source builds it by the study's seed, with weights or without."""
    source, seed, needs = context.spec.model.source, context.spec.seed, context.task.needs
    if needs.num_classes is None:
        return build_for_inputs(source, context.task.example, None, seed, weights, remark, needs.offers)
    return build_model(
        source,
        num_classes=needs.num_classes,
        input_shape=needs.input_shape,
        seed=seed,
        weights=weights,
        notify=notify,
        remark=remark,
    )


def network_bytes(network: nn.Module, metadata: dict[str, str] | None = None) -> bytes:
    """Return a network's weights as the content of a file."""
    return save(own_tensors(network), metadata)


def _train(context: StudyContext, network: nn.Module) -> None:
    """Train the dense network, and store its weights on the way if candidates are to go back to them."""
    spec, wish, task, notify = context.spec, context.spec.dense, context.task, context.notify
    on_what = f" on {task.sizes['train']} examples" if task.has_batches else ""
    notify(f"training the dense network for {wish.epochs} epochs{on_what}, once per study")

    def on_epoch(epoch: int, epochs: int) -> None:
        notify(f"training the dense network: epoch {epoch} of {epochs}")
        if spec.schedule.start == "rewind" and epoch == spec.schedule.rewind_epoch:
            write_bytes(context.folder.rewind_weights, network_bytes(network))

    settings = FinetuneSettings(wish.epochs, wish.batch_size, wish.lr, wish.weight_decay, optimizer=wish.optimizer)
    train_dense(network, TrainingRun(task, settings, context.device, spec.seed), on_epoch)
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
