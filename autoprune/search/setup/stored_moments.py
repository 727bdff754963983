"""The second moments of a study's dense network: measured by the first process that needs them, read by the others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from itertools import islice
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from autoprune.core.atomic_write import write_bytes
from autoprune.core.json_values import JsonObject
from autoprune.errors import ModelError
from autoprune.pruning.compensation.closed_form import DenseMoments, dense_moments
from autoprune.pruning.input_moments import InputMoments
from autoprune.search.evaluation.compensator import calibration_batches
from autoprune.search.setup.context import StudyContext
from autoprune.search.setup.once import unless_damaged

LARGEST_FILE = 256 << 20  # bytes; a network of larger matrices is measured by every process anew
StoredMoments = Mapping[str, InputMoments]
"""Path of a layer → moments of what it reads."""


def moments_of(context: StudyContext, network: nn.Module) -> DenseMoments | None:
    """Return what the closed-form refit needs of the network that candidates begin with.

    Args:
        context: whose folder keeps the moments, unless they are too large.
        network: in eval mode and placed.

    Returns:
        ``None`` if the study does not compensate, or the network does not let it, which is said.
    """
    images, path = context.spec.finetune.untrained_images, context.folder.moments
    if not images or context.spec.schedule.start != "finetune":
        return None
    known = unless_damaged(partial(_stored, settings=_settings(context)))(path)
    try:
        with context.device.work():
            batches = calibration_batches(context.task, network, images, context.device, context.spec.seed)
            dense = dense_moments(network, list(islice(batches, 1 if known else None)), known)
    except ModelError as error:
        context.notify(f"sensitivity is measured without compensation: {error}")
        return None
    if not known:
        _store(path, dense.moments, _settings(context))
    return dense


def _settings(context: StudyContext) -> JsonObject:
    """Return what decides which numbers come out; the network is the study's."""
    return {"images": context.spec.finetune.untrained_images, "seed": context.spec.seed}


def _store(path: Path, moments: StoredMoments, settings: JsonObject) -> None:
    tensors = {f"{name}/mean": found.mean for name, found in moments.items()}
    tensors |= {f"{name}/covariance": found.covariance for name, found in moments.items()}
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) <= LARGEST_FILE:
        rows = {name: found.rows for name, found in moments.items()}
        write_bytes(path, save(tensors, {"settings": json.dumps(settings), "rows": json.dumps(rows)}))


def _stored(path: Path, settings: JsonObject) -> StoredMoments | None:
    """Return what a file holds; ``None`` if it was cut short, or was measured otherwise."""
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata()
            if json.loads(about["settings"]) != settings:
                return None
            return {
                name: InputMoments(file.get_tensor(f"{name}/mean"), file.get_tensor(f"{name}/covariance"), rows)
                for name, rows in json.loads(about["rows"]).items()
            }
    except SafetensorError:
        return None
